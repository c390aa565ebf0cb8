"""How often windows that are drawn at random from one population are called unusual.

start(pool)          # [("Gaussian", pending), …]; pending.result() -> [(earlier windows, nominal rate, [alarm, …]), …]

A population yields one long series of windows. Each is looked at once, against the eight before it, by `windows.observe`; then
`decision.judge` is asked about each as if it had so many earlier ones. The profiles are counted here with numpy, which is exact as the
engine is, and spares thousands of queries. A window has 1,000 rows of five numbers, a category, a boolean label, and nulls.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

DRAWS = 1_000
ROWS = 1_000
EARLIER = (12, 20, 40, 130)
NOMINAL = (0.01, 0.05)
NUMBERS = ("a", "b", "c", "d", "e")
NAMES = ("red", "green", "blue", "black", "white", "grey")
REFERENCE = 8
SERIES = 2
"""Independent series per population, so that a pool of workers can share them."""

Counts = list[tuple[int, float, list[bool]]]


def gaussian(random: np.random.Generator, rows: int) -> np.ndarray[Any, Any]:
    return random.normal(size=(rows, 7))


def autocorrelated(random: np.random.Generator, rows: int) -> np.ndarray[Any, Any]:
    """AR(1) with 0.9 from row to row, in every column."""
    from scipy.signal import lfilter

    noise = random.normal(size=(rows + 100, 7)) * np.sqrt(1 - 0.9**2)
    return np.asarray(lfilter([1.0], [1.0, -0.9], noise, axis=0))[100:]


def _normal_scores_to_t(values: np.ndarray[Any, Any], degrees: float) -> np.ndarray[Any, Any]:
    from scipy import stats

    return np.asarray(stats.t.ppf(stats.norm.cdf(values), degrees))


POPULATIONS = {
    "Gaussian": (gaussian, lambda numbers: numbers),
    "skewed": (gaussian, np.exp),
    "heavy-tailed": (gaussian, lambda numbers: _normal_scores_to_t(numbers, 1.5)),
    "autocorrelated": (autocorrelated, lambda numbers: numbers),
}


def series(name: str, windows: int, seed: int) -> Iterator[pa.Table]:
    """Windows of a population."""
    draw, shape = POPULATIONS[name]
    random = np.random.default_rng([seed, sorted(POPULATIONS).index(name)])
    hidden = draw(random, windows * ROWS)
    mixed = hidden[:, :5].copy()
    mixed[:, 1] = 0.6 * mixed[:, 0] + 0.8 * mixed[:, 1]
    mixed[:, 4] = 0.3 * mixed[:, 3] + np.sqrt(1 - 0.09) * mixed[:, 4]
    numbers = shape(mixed)
    codes = np.searchsorted([-0.6, 0.2, 0.8, 1.3, 1.8], hidden[:, 5])
    label = mixed[:, 0] + mixed[:, 3] + 0.3 * hidden[:, 6] > 0.5
    missing = random.random(len(hidden)) < 0.03
    for start in range(0, windows * ROWS, ROWS):
        rows = slice(start, start + ROWS)
        columns: dict[str, Any] = {each: pa.array(numbers[rows, place]) for place, each in enumerate(NUMBERS)}
        columns["c"] = pa.array(numbers[rows, 2], mask=missing[rows])
        columns["colour"] = pa.array(np.array(NAMES)[codes[rows]])
        columns["label"] = pa.array(label[rows])
        yield pa.table(columns)


def _frame(pooled: pa.Table) -> Any:
    from mlsec_dagster.stability.profiles import BINS, ColumnFrame, Frame

    places = np.arange(1, BINS) / BINS
    numbers = [
        ColumnFrame(name, "double", "number", tuple(np.unique(np.quantile(pooled[name].drop_null().to_numpy(), places)).tolist()))
        for name in NUMBERS
    ]
    return Frame(
        (
            *numbers,
            ColumnFrame("colour", "string", "category", categories=tuple(sorted(NAMES))),
            ColumnFrame("label", "bool", "boolean", categories=("false", "true")),
        )
    )


def _profile(table: pa.Table, frame: Any) -> Any:
    from mlsec_dagster.stability.profiles import ColumnProfile, Profile

    columns: list[Any] = []
    for each in frame.columns:
        values = table[each.name]
        known = values.drop_null().to_numpy(zero_copy_only=False) if not pa.types.is_string(values.type) else np.asarray(values.to_pylist())
        if each.kind == "number":
            counts = np.bincount(np.searchsorted(each.edges, known, side="right"), minlength=each.cells)
        else:
            wanted = np.array(each.categories) if each.kind == "category" else np.array([False, True])
            counts = np.r_[[(known == value).sum() for value in wanted], np.zeros(each.cells - len(wanted), int)]
        columns.append(ColumnProfile(each.name, each.type, nulls=values.null_count, distinct=len(known), counts=tuple(counts.tolist())))
    place = [each.name for each in frame.columns].index("c")
    patterns = {"0" * len(columns): table.num_rows - table["c"].null_count}
    if table["c"].null_count:
        patterns["".join("01"[position == place] for position in range(len(columns)))] = table["c"].null_count
    return Profile(table.num_rows, tuple(columns), patterns, hashed=table.num_rows)


def observed(name: str, windows: int, seed: int) -> tuple[list[Any], np.ndarray[Any, Any]]:
    """Channels, and the value of every window but the first `REFERENCE` in each (windows x channels)."""
    from mlsec_dagster.stability.profiles import Roles, Window
    from mlsec_dagster.stability.windows import observe

    tables: list[pa.Table] = []
    kept: list[Any] = []
    found: list[dict[Any, float]] = []
    roles = Roles(label="label")
    for table in series(name, windows, seed):
        frame = _frame(pa.concat_tables(tables[-REFERENCE:] or [table]))
        profile = _profile(table, frame)
        if len(tables) >= REFERENCE:
            reference = _profile(pa.concat_tables(tables[-REFERENCE:]), frame)
            samples = tables[-REFERENCE:]
            seen = observe(profile, table, frame=frame, reference=reference, earlier=kept[-200:], samples=samples, roles=roles)
            found.append(dict(seen.channels))
        tables = [*tables[-REFERENCE:], table]
        kept.append(Window(profile, {"colour": NAMES, "label": ("false", "true")}))
    channels = sorted({channel for each in found for channel in each})
    return channels, np.array([[each.get(channel, np.nan) for channel in channels] for each in found])


def alarms(name: str, draws: int, seed: int) -> Counts:
    """Alarms of one series: for each number of earlier windows and each nominal rate.

    As in `assess`, what a window leaves to later ones are its values as `decision.winsorised` has them.
    """
    from mlsec_dagster.stability.decision import LEAST_WINDOWS, judge, winsorised

    channels, values = observed(name, draws + max(EARLIER) + REFERENCE, seed)
    found: Counts = []
    for earlier in EARLIER:
        for nominal in NOMINAL:
            kept, hits = values.copy(), list[bool]()
            for end in range(LEAST_WINDOWS, len(values)):
                judgement = judge(kept[max(end - earlier, 0) : end + 1], channels=channels, false_alarms=nominal)
                kept[end] = winsorised(judgement, values[end], channels)
                hits.append(judgement.alarm)
            # All numbers of earlier windows are judged over the same windows.
            found.append((earlier, nominal, hits[max(EARLIER) - LEAST_WINDOWS :]))
    return found


class _All:
    """The series of one population, together."""

    def __init__(self, parts: "list[Future[Counts]]") -> None:
        self._parts = parts

    def result(self) -> Counts:
        together: dict[tuple[int, float], list[bool]] = {}
        for part in self._parts:
            for earlier, nominal, hits in part.result():
                together.setdefault((earlier, nominal), []).extend(hits)
        return [(earlier, nominal, hits) for (earlier, nominal), hits in together.items()]


def start(pool: ProcessPoolExecutor, draws: int = DRAWS) -> list[tuple[str, _All]]:
    """Begins with all populations."""
    each = -(-draws // SERIES)
    return [(name, _All([pool.submit(alarms, name, each, seed) for seed in range(SERIES)])) for name in POPULATIONS]
