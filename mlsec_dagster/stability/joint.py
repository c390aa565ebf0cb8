"""Columns together: what no column shows by itself.

    together(paired, seed=7)      # values of the channels relation, correlation, two samples, contradiction; and who gives it away

All of it is computed on samples, and each value is comparable only with the same value of other windows of the same dataset, which is
what `decision.judge` does with it.
"""

# scikit-learn's models bring no types of their own, so what comes out of them is unknown to a type checker.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlsec_dagster.stability.channels import Channel, counted, location
from mlsec_dagster.stability.samples import Paired

Floats = NDArray[np.float64]

LEAST_ROWS: Final = 100
"""Rows of either side below which nothing is said of columns together."""

TWO_SAMPLE_ROWS: Final = 4_000
TREES: Final = 16

_RESIDUAL_BINS: Final = 16
_MOST_DEPENDENCY_COLUMNS: Final = 12
_PURITY: Final = 0.99
_REPEATS: Final = 3


@dataclass(frozen=True, slots=True)
class Together:
    """What was found of columns together.

    Attributes:
        channels: Their values.
        telling: For the two-sample test, which features give a window away, the most telling first.
        auc: How well.
        contradictions: Rows by (x, y), where y is not what x says; without those pairs that none contradicts.
        clock: The time column, which may be an x.
    """

    channels: Mapping[Channel, float]
    telling: tuple[str, ...] = ()
    auc: float | None = None
    contradictions: Mapping[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    clock: str = ""


def together(paired: Paired, *, seed: int) -> Together:
    """All channels of columns together.

    Args:
        paired: The window's sample and those before it.
        seed: For the trees; the same for the same window, so that a verdict can be repeated.
    """
    if min(len(paired.then), len(paired.now)) < LEAST_ROWS:
        return Together({})
    channels = relations(paired)
    contradictions = dependencies(paired)
    if contradictions is not None:
        found = sum(contradictions.values())
        channels[Channel("contradiction")] = counted(found, len(paired.now))
    auc, telling = two_samples(paired, seed=seed)
    if auc is not None:
        channels[Channel("two samples")] = math.log(max(auc - 0.5, 0.0) + 0.01)
    contradictions = {pair: rows for pair, rows in (contradictions or {}).items() if rows}
    return Together(channels, telling, auc, contradictions, paired.clock[0] if paired.clock else "")


def relations(paired: Paired) -> dict[Channel, float]:
    """How each number follows from the others, and how the numbers correlate.

    Every number is predicted from all others by least squares on the windows before, and the location of what is left over is compared. So
    a column that moves by itself is seen although it ordinarily moves more than that, together with the others (all delays of a stormy
    week). Correlations: the largest change after Fisher's transformation.
    """
    then, now = paired.then.numbers, paired.now.numbers
    with np.errstate(all="ignore"):
        present = (~np.isnan(then)).sum(0) >= LEAST_ROWS
        low, high = _quantiles(then, (0.005, 0.995))
        centre = _quantiles(then, (0.5,))[0]
        spread = np.zeros(len(present))
        spread[present] = np.nanstd(np.clip(then, low, high)[:, present], axis=0)
    used = np.flatnonzero(present & (spread > 0))
    if len(used) < 2:
        return {}
    centre, spread, low, high = centre[used], spread[used], low[used], high[used]
    # Beyond half a range on either side more is no different: one row must not decide a regression.
    margin = (high - low) / 2

    def scaled(values: Floats) -> Floats:
        return np.nan_to_num((np.clip(values[:, used], low - margin, high + margin) - centre) / spread)

    before, window = scaled(then), scaled(now)
    mean = before.mean(0)
    covariance = np.cov(before, rowvar=False) + 1e-3 * np.eye(len(used))
    precision = np.linalg.inv(covariance)
    # Row j of the precision matrix over its diagonal is what is left of column j after regression on all others.
    weights = precision / np.diag(precision)[:, None]
    left_before, left_now = (before - mean) @ weights.T, (window - mean) @ weights.T
    found: dict[Channel, float] = {}
    for place, column in enumerate(used):
        old = left_before[~np.isnan(then[:, column]), place]
        new = left_now[~np.isnan(now[:, column]), place]
        if len(new) < LEAST_ROWS:
            continue
        edges = np.unique(np.quantile(old, np.linspace(0, 1, _RESIDUAL_BINS + 1)[1:-1]))
        cells = len(edges) + 1
        counts = [np.bincount(np.searchsorted(edges, side, side="right"), minlength=cells).astype(float) for side in (new, old)]
        found[Channel("relation", paired.numbers[column])] = location(counts[0], counts[1])
    found[Channel("correlation")] = math.log(_largest_change(window, before) + 0.02)
    return found


def _quantiles(values: Floats, which: tuple[float, ...]) -> Floats:
    """Per column, of what is there. Sorting puts NaN last; `nanquantile` is many times slower."""
    ordered = np.sort(values, axis=0)
    known = (~np.isnan(values)).sum(0)
    places = np.clip((np.asarray(which)[:, None] * (known - 1)).round().astype(int), 0, max(len(values) - 1, 0))
    return np.take_along_axis(ordered, places, axis=0)


def _largest_change(now: Floats, then: Floats) -> float:
    with np.errstate(all="ignore"):
        moved = [np.arctanh(np.clip(np.nan_to_num(np.corrcoef(side, rowvar=False)), -0.995, 0.995)) for side in (now, then)]
    change = np.abs(moved[0] - moved[1])
    np.fill_diagonal(change, 0.0)
    return float(change.max())


def dependencies(paired: Paired) -> dict[tuple[str, str], int] | None:
    """Rows that contradict what one column has always said of another (a tail number belongs to one carrier).

    Column x determines y where, among the windows before, values of x that occur at least three times go with one and the same y in 99%
    of their rows. Counted are rows whose x always came with one y and now comes with another. A time determines y (its month, its hour)
    where rows that follow one another have the same y, but for the few places where it changes.

    Returns:
        Rows by (x, y), for every dependency that holds; None if there is none.
    """
    columns = [place for place in range(len(paired.categories)) if paired.levels[place] > 1][:_MOST_DEPENDENCY_COLUMNS]
    found: dict[tuple[str, str], int] = {}
    for x in columns:
        for y in columns:
            if x != y and paired.levels[x] >= paired.levels[y]:
                rows = _contradictions(paired, x, y)
                if rows is not None:
                    found[paired.categories[x], paired.categories[y]] = rows
    if paired.clock is not None:
        clock, then, now = paired.clock
        for name, (before, values) in paired.steps.items():
            alike, out_of_step = _steps(then, before)
            if alike >= 0.5 * len(then) and out_of_step <= (1 - _PURITY) * alike and not _mostly_one(before):
                found[clock, name] = _steps(now, values)[1]
    return found or None


def _contradictions(paired: Paired, x: int, y: int) -> int | None:
    keys, values = paired.then.codes[:, x], paired.then.codes[:, y]
    both = (keys >= 0) & (values >= 0)
    if not both.any():
        return None
    levels = paired.levels[y]
    pairs, rows = np.unique(keys[both] * levels + values[both], return_counts=True)
    owners = pairs // levels
    total = np.bincount(owners, weights=rows, minlength=paired.levels[x])
    commonest = np.zeros(paired.levels[x])
    np.maximum.at(commonest, owners, rows)
    repeated = total >= _REPEATS
    if not repeated.any() or commonest[repeated].sum() < _PURITY * total[repeated].sum():
        return None
    # A column that is nearly always the same is "determined" by anything.
    if np.bincount(values[both]).max() > 0.95 * both.sum():
        return None
    pure = repeated & (commonest >= _PURITY * total)
    said = np.full(paired.levels[x], -1)
    first = rows == commonest[owners]
    said[owners[first]] = pairs[first] % levels
    new_keys, new_values = paired.now.codes[:, x], paired.now.codes[:, y]
    known = (new_keys >= 0) & (new_values >= 0)
    known[known] = pure[new_keys[known]]
    return int((new_values[known] != said[new_keys[known]]).sum())


def _steps(times: Floats, values: Floats) -> tuple[int, int]:
    """In the order of time, rows between two that have the same value; and how many of those have another one."""
    known = ~np.isnan(times) & ~np.isnan(values)
    ordered = values[known][np.argsort(times[known], kind="stable")]
    between = ordered[:-2] == ordered[2:]
    return int(between.sum()), int((between & (ordered[1:-1] != ordered[:-2])).sum())


def _mostly_one(values: Floats) -> bool:
    """Whether a column is nearly always the same, and so "determined" by anything."""
    _, rows = np.unique(values[~np.isnan(values)], return_counts=True)
    return not len(rows) or rows.max() > 0.95 * rows.sum()


def two_samples(paired: Paired, *, seed: int) -> tuple[float | None, tuple[str, ...]]:
    """Can a classifier tell the window's rows from those before it? Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests", 2017.

    Returns:
        The area under the ROC curve of randomized trees (Geurts et al., 2006) on rows that each tree has not seen (0.5: they cannot), and
        the features that they go by, the most telling first. None if there are no features.
    """
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.metrics import roc_auc_score

    names, before, window = paired.features()
    if not names:
        return None, ()
    before, window = _some(before, TWO_SAMPLE_ROWS), _some(window, TWO_SAMPLE_ROWS)
    rows = np.nan_to_num(np.vstack([before, window]), nan=-1e9)
    rows = np.clip(rows, -1e30, 1e30)
    side = np.r_[np.zeros(len(before)), np.ones(len(window))]
    # Splits at random places, but of all features, see a shifted column better than the best splits of a few, and cost less.
    classifier: Any = ExtraTreesClassifier
    forest = classifier(
        TREES,
        max_depth=12,
        max_features=1.0,
        min_samples_leaf=5,
        bootstrap=True,
        oob_score=True,
        class_weight="balanced",
        random_state=seed,
        n_jobs=1,
    )
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some row is in every tree's bag
        forest.fit(rows, side)
    votes = forest.oob_decision_function_[:, 1]
    voted = ~np.isnan(votes)
    auc = float(roc_auc_score(side[voted], votes[voted]))
    order = np.argsort(-forest.feature_importances_)[:3]
    return auc, tuple(names[place] for place in order)


def _some(rows: Floats, most: int) -> Floats:
    """Evenly spread over the rows, which lie window after window."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(int)]
