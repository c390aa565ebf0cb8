"""Labels given features: do the labels still follow from the features as they did?

    disagreement(paired, label="arr_late", seed=7)

A label flip changes no feature and hardly the share of labels, so nothing else sees it. A model is fitted on the windows before, and the
window's labels are compared with it on the rows where it is most confident: there, an honest label hardly ever differs (Northcutt, Jiang
and Chuang, "Confident Learning", JAIR 70 (2021)). How often it does is compared with how often it did in earlier windows.
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

from mlsec_dagster.stability.channels import Channel
from mlsec_dagster.stability.joint import LEAST_ROWS
from mlsec_dagster.stability.samples import Paired

CONFIDENT: Final = 0.95
FIT_ROWS: Final = 10_000
MOST_CLASSES: Final = 20
FEW: Final = 3
"""Added to counts of disagreement, so that one of them where there are none as a rule is no event."""

LEAST_CONFIDENT: Final = 50
"""Confident rows of a class below which nothing can be said of it."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """What the model says of a window's labels.

    Attributes:
        channels: One per class that is predictable enough.
        classes: Class -> (rows where the model is confident of it, rows of those whose label is another).
        reason: Why there is none, in a clause; empty if there is.
    """

    channels: Mapping[Channel, float] = field(default_factory=dict[Channel, float])
    classes: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    reason: str = ""


def disagreement(paired: Paired, *, label: str, seed: int) -> Disagreement:
    """Disagreement of labels with a model of the windows before, per class.

    Args:
        paired: The window's sample and those before it, the label among its columns.
        label: The label's column. A number with more than 20 values is cut at its quartiles.
        seed: For the model.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    if min(len(paired.then), len(paired.now)) < LEAST_ROWS:
        return Disagreement(reason=f"a window has fewer than {LEAST_ROWS} rows")
    classes = _classes(paired, label)
    if classes is None:
        return Disagreement(reason=f"the label {label!r} is not in the data, or has one value only")
    then, now, called = classes
    _, before, window = paired.features(leave_out={label})
    known = np.flatnonzero(then >= 0)
    chosen = known[np.linspace(0, len(known) - 1, min(len(known), FIT_ROWS)).astype(int)]
    if len(np.unique(then[chosen])) < 2:
        return Disagreement(reason=f"the label {label!r} has one value only")
    # A model cannot learn from a column without any value.
    valued = ~np.isnan(before[chosen]).all(0)
    if not valued.any():
        return Disagreement(reason="there are no features")
    before, window = before[:, valued], window[:, valued]
    judged = now >= 0
    if not judged.any():
        return Disagreement(reason=f"the label {label!r} has no value in this window")
    make: Any = HistGradientBoostingClassifier
    model = make(max_iter=30, max_leaf_nodes=15, learning_rate=0.25, max_bins=64, early_stopping=False, random_state=seed)
    # So little data is done sooner by one thread than by several that wait for each other, above all on a machine that has other work.
    with threadpool_limits(limits=1, user_api="openmp"):
        model.fit(before[chosen], then[chosen])
        probabilities = model.predict_proba(window[judged])
    best, labels = probabilities.argmax(1), now[judged]
    confident = probabilities.max(1) >= CONFIDENT
    channels: dict[Channel, float] = {}
    found: dict[str, tuple[int, int]] = {}
    for place, code in enumerate(model.classes_):
        rows = confident & (best == place)
        count, differing = int(rows.sum()), int((labels[rows] != code).sum())
        name = called.get(int(code), "any other")
        if count >= LEAST_CONFIDENT:
            channels[Channel("label", label, name)] = math.log((differing + FEW) / (count + FEW))
            found[name] = (count, differing)
    if not channels:
        return Disagreement(
            reason=f"the other columns do not predict {label!r} well enough for any row to be sure of "
            f"(a model is {CONFIDENT:.0%} sure of fewer than {LEAST_CONFIDENT} rows)"
        )
    return Disagreement(channels, found)


def _classes(paired: Paired, label: str) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[int, str]] | None:
    if label in paired.categories:
        place = paired.categories.index(label)
        then, now = paired.then.codes[:, place], paired.now.codes[:, place]
        if paired.levels[place] > MOST_CLASSES:
            then, now = np.where(then >= MOST_CLASSES, MOST_CLASSES, then), np.where(now >= MOST_CLASSES, MOST_CLASSES, now)
        return then, now, dict(enumerate(paired.named[place][:MOST_CLASSES]))
    if label not in paired.numbers:
        return None
    place = paired.numbers.index(label)
    then_values, now_values = paired.then.numbers[:, place], paired.now.numbers[:, place]
    values = np.unique(then_values[~np.isnan(then_values)])
    if len(values) < 2:
        return None
    if len(values) <= MOST_CLASSES:
        edges = (values[1:] + values[:-1]) / 2
        called = {code: f"{value:g}" for code, value in enumerate(values)}
    else:
        edges = np.unique(np.quantile(then_values[~np.isnan(then_values)], [0.25, 0.5, 0.75]))
        called = {code: f"quartile {code + 1}" for code in range(len(edges) + 1)}

    def coded(column: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.where(np.isnan(column), -1, np.searchsorted(edges, column, side="right"))

    return coded(then_values), coded(now_values), called
