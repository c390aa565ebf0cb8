"""How often is a clean window called unusual, and how often an attacked one? Beside those who watch for drift.

Every window of a table is assessed against those before it, as a Dagster project would do week after week. Then each judged window is
attacked in several ways, one at a time, and assessed again against the same clean history. Of other tables than the flights every second
window is attacked; and without the column that the label comes from only by flips, for that column decides about nothing else.

A rate is a share of windows, in per cent, with its Wilson 95% confidence interval and the number of windows. `ratio` is the rate over
what is demanded. `beyond_clean` leaves out the windows that alarm without any attack: what an attack adds. `by_detail` says which column
was attacked. The demands are made of the flights. The other tables are there to see that nothing was chosen to please the flights.
"""

import json
import math
import os
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import stability_pools, stability_tables
from benchmarks.measure import ROOT, row
from benchmarks.peers import peer_python
from benchmarks.stability_tables import ATTACKS, Attack, Table

FALSE_ALARMS = 0.01
KEY = b"a key of these benchmarks, no secret"
CLEAN = "clean weeks"
MOST_CLEAN = 10.0
"""Clean windows of the flights that may alarm, in per cent: their weeks do differ."""

TABLES = ("flights", "weather", "flights_2015", "loans")
PARTS = (*TABLES, "pools", "peers")


@dataclass(frozen=True)
class Verdict:
    """What was said of one window.

    Attributes:
        attack: What was done to it.
        detail: In which column.
        week: Its place.
        outcome: As `assess` has it.
        p_value: As the judgement has it.
        telling: The most unusual channels with their scores, for who wants to know why.
    """

    attack: str
    detail: str
    week: int
    outcome: str
    p_value: float | None
    telling: tuple[tuple[str, float], ...] = ()

    @property
    def alarm(self) -> bool:
        return self.outcome in ("alarm", "schema")


def wilson(hits: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """Confidence interval of a share. Wilson, "Probable inference", JASA 22 (1927)."""
    if not of:
        return 0.0, 1.0
    share, extra = hits / of, z * z / of
    middle = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * math.sqrt(share * (1 - share) / of + extra / of / 4)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def rate(hits: Iterable[bool]) -> dict[str, Any]:
    """A share in per cent, with its interval and counts."""
    given = list(hits)
    low, high = wilson(sum(given), len(given))
    return {
        "rate": 100 * sum(given) / max(len(given), 1),
        "low": round(100 * low, 2),
        "high": round(100 * high, 2),
        "hits": sum(given),
        "windows": len(given),
    }


def _table(name: str, with_cause: bool) -> Table:
    table: Table = getattr(stability_tables, name)()
    return table if with_cause else table.without_cause()


def _assess(window: pa.Table, history: Any, table: Table) -> Any:
    from mlsec_dagster.stability.assessment import assess
    from mlsec_dagster.stability.profiles import Roles

    return assess(window, history, roles=Roles(label=table.label, time=table.time), key=KEY, false_alarms=FALSE_ALARMS)


def _verdict(assessed: Any, attack: str, detail: str, week: int) -> Verdict:
    judgement = assessed.judgement
    telling: tuple[tuple[str, float], ...] = ()
    if judgement is not None and judgement.method != "learning":
        order = np.argsort(-np.nan_to_num(judgement.scores, nan=-np.inf))[:3]
        telling = tuple((" ".join(filter(None, assessed.channels[place])), round(float(judgement.scores[place]), 2)) for place in order)
    return Verdict(attack, detail, week, assessed.outcome, None if judgement is None else judgement.p_value, telling)


def _history(folder: str, name: str, with_cause: bool) -> str:
    """Assesses all windows, one after the other; keeps what the attacks are judged against."""
    from mlsec_dagster.stability.assessment import History

    table = _table(name, with_cause)
    windows: list[Any] = []
    samples: list[pa.Table] = []
    verdicts: list[Verdict] = []
    for week, window in enumerate(table.windows):
        assessed = _assess(window, History(windows, samples[-8:]), table)
        windows.append(assessed.window)
        samples.append(assessed.sample)
        pq.write_table(assessed.sample, Path(folder, f"{name}-{with_cause}-{week}.parquet"))
        Path(folder, f"{name}-{with_cause}-{week}.json").write_bytes(assessed.window.to_bytes())
        if assessed.outcome != "learning":
            verdicts.append(_verdict(assessed, CLEAN, "", week))
    path = Path(folder, f"{name}-{with_cause}.verdicts")
    path.write_text(json.dumps([asdict(verdict) for verdict in verdicts]))
    return str(path)


@lru_cache(maxsize=2)
def _windows(folder: str, name: str, with_cause: bool) -> list[Any]:
    from mlsec_dagster.stability.profiles import Window

    count = len(_table(name, with_cause).windows)
    return [Window.from_bytes(Path(folder, f"{name}-{with_cause}-{week}.json").read_bytes()) for week in range(count)]


def _attacked(folder: str, name: str, with_cause: bool, week: int) -> list[dict[str, Any]]:
    """Verdicts over the attacks on one window."""
    from mlsec_dagster.stability.assessment import History

    table = _table(name, with_cause)
    samples = [pq.read_table(Path(folder, f"{name}-{with_cause}-{past}.parquet")) for past in range(week - 8, week)]
    history = History(_windows(folder, name, with_cause)[:week], samples)
    verdicts: list[Verdict] = []
    with _one_reference():
        for attack, detail, window in attacked(table, week, ATTACKS if with_cause or name == "flights" else ATTACKS[:1]):
            verdicts.append(_verdict(_assess(window, history, table), attack, detail, week))
    return [asdict(verdict) for verdict in verdicts]


def attacked(table: Table, week: int, attacks: Sequence[Attack] = ATTACKS) -> Iterator[tuple[str, str, pa.Table]]:
    """Name, detail and window of each attack on a week; the same whenever it is asked."""
    for number, attack in enumerate(attacks):
        for detail, window in attack.of(table, week, np.random.default_rng([week, number])):
            yield attack.name, detail, window


@contextmanager
def _one_reference() -> Iterator[None]:
    """While it lasts, what is learnt from the windows before is learnt once, although many windows are held against the same ones."""
    from mlsec_dagster.stability import assessment

    learn, learnt = assessment.learn_reference, []

    def once(samples: Any, **options: Any) -> Any:
        if not learnt:
            learnt.append(learn(samples, **options))
        return learnt[0]

    assessment.learn_reference = once
    try:
        yield
    finally:
        assessment.learn_reference = learn


@contextmanager
def workers() -> Iterator[ProcessPoolExecutor]:
    """A process per core; the libraries' own threads would only be in each other's way."""
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, "1"))
    try:
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            yield pool
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def judged(names: Sequence[str], pool: ProcessPoolExecutor, folder: str) -> dict[tuple[str, bool], list[Verdict]]:
    """Verdicts over all windows of the tables, clean and attacked; with and without the column that the label comes from."""
    cases = [(name, with_cause) for name in names for with_cause in (True, False)]
    chains = {case: pool.submit(_history, folder, *case) for case in cases}
    found: dict[tuple[str, bool], list[Verdict]] = {}
    jobs: dict[tuple[str, bool], list[Any]] = {}
    for case, chain in chains.items():
        found[case] = [Verdict(**each) for each in json.loads(Path(chain.result()).read_text())]
        every = 1 if case[0] == "flights" else 2
        jobs[case] = [pool.submit(_attacked, folder, *case, verdict.week) for verdict in found[case][::every]]
    for case, some in jobs.items():
        found[case] += [Verdict(**each) for job in some for each in job.result()]
    return found


def run(sizes: list[str] | None = None) -> list[dict[str, Any]]:
    """`sizes`: some of `PARTS`; all of them unless told."""
    parts = sizes or list(PARTS)
    rows: list[dict[str, Any]] = []
    with workers() as pool, tempfile.TemporaryDirectory(prefix="bench-power-") as folder:
        found = judged([name for name in TABLES if name in parts], pool, folder)
        pools = stability_pools.start(pool) if "pools" in parts else []
        for (name, with_cause), verdicts in found.items():
            rows += power_rows(_table(name, with_cause), verdicts, demanded=name == "flights")
        rows += [row for pending in pools for row in pool_rows(*pending)]
    if "peers" in parts:
        ours = {row["size"]: row["ours"] for row in rows}
        rows += peer_rows(ours)
    return rows


def power_rows(table: Table, verdicts: Sequence[Verdict], *, demanded: bool) -> list[dict[str, Any]]:
    """A row for the clean windows and one per attack."""
    by_attack: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_attack[verdict.attack].append(verdict)
    clean = by_attack.pop(CLEAN, [])
    quiet = {verdict.week for verdict in clean if not verdict.alarm}
    rows = [
        _row(f"{table.name}, {CLEAN}", rate(each.alarm for each in clean), MOST_CLEAN, demanded, at_most=True, telling=_why(clean, True))
    ]
    for attack in ATTACKS:
        some = by_attack[attack.name]
        if not some:
            continue
        by_detail: dict[str, list[bool]] = defaultdict(list)
        for verdict in some:
            by_detail[verdict.detail].append(verdict.alarm)
        details = {detail: rate(hits) for detail, hits in sorted(by_detail.items()) if detail}
        more: dict[str, Any] = {
            "beyond_clean": rate(each.alarm for each in some if each.week in quiet),
            "by_detail": {detail: f"{each['hits']} of {each['windows']}" for detail, each in details.items()},
            "telling": _why(some, False),
        }
        if details:
            more |= {"mean_over_details": float(np.mean([each["rate"] for each in details.values()]))}
            more |= {"worst_detail": min(details, key=lambda detail: details[detail]["rate"])}
        rows.append(_row(f"{table.name}, {attack.name}", rate(each.alarm for each in some), attack.demand, demanded, **more))
    return rows


def _why(verdicts: Sequence[Verdict], alarmed: bool) -> list[str]:
    """Of up to twelve windows that did (or did not) alarm: where, and the most unusual channels."""
    return [
        f"{each.week} {each.detail} p={each.p_value:.4f}: {'; '.join(f'{name} {score}' for name, score in each.telling)}"
        for each in verdicts
        if each.alarm is alarmed and each.p_value is not None
    ][:12]


def _row(size: str, found: dict[str, Any], limit: float, demanded: bool, *, at_most: bool = False, **more: Any) -> dict[str, Any]:
    rate_ = found.pop("rate")
    text = f"{'at most' if at_most else 'at least'} {limit:g}%"
    holds = rate_ <= limit if at_most else rate_ >= limit
    if not demanded:
        text, holds = f"none; the flights' is {text}", True
    return row(
        "stability_power",
        size,
        ours=rate_,
        peer_name="the demand",
        peer=limit,
        ratio=rate_ / limit,
        demand=text,
        holds=holds,
        unit="%",
        **found,
        **more,
    )


def pool_rows(name: str, pending: Any) -> list[dict[str, Any]]:
    """Realised rates of false alarms, one row per number of earlier windows and nominal rate."""
    rows: list[dict[str, Any]] = []
    for earlier, nominal, alarms in pending.result():
        found = rate(alarms)
        realised, limit = found.pop("rate"), 150 * nominal
        rows.append(
            row(
                "stability_power",
                f"{name} pool, {earlier} earlier windows, nominal {nominal:.0%}",
                ours=realised,
                peer_name="nominal",
                peer=100 * nominal,
                ratio=realised / nominal / 100,
                demand="at most 1.5x",
                unit="%",
                # Of a thousand draws at 1% the realised rate is uncertain by a third.
                holds=realised <= limit,
                surely_above=found["low"] > limit,
                **found,
            )
        )
    return rows


def peer_rows(ours: dict[str, float]) -> list[dict[str, Any]]:
    """The same weeks of the flights, clean and attacked, as the peers see them against the eight weeks before.

    Of each attack in one column only; what says when a row is from, or which one it is, they are spared.
    """
    table = stability_tables.flights()
    leave_out = [table.time, *table.calendar, *table.identifiers]
    first = 20
    with tempfile.TemporaryDirectory(prefix="bench-power-peers-") as folder:
        asked: list[dict[str, Any]] = []
        for week in range(first, len(table.windows)):
            reference = str(Path(folder, f"{week}-before.parquet"))
            pq.write_table(pa.concat_tables(table.windows[week - 8 : week]), reference)
            windows = {CLEAN: table.windows[week]}
            for attack, detail, window in attacked(table, week):
                if detail not in leave_out:
                    windows.setdefault(attack, window)
            for number, (attack, window) in enumerate(windows.items()):
                path = str(Path(folder, f"{week}-{number}.parquet"))
                pq.write_table(window, path)
                # Evidently, which is slow, is asked about every clean week, and about the attacks on every fourth.
                asked.append({"attack": attack, "week": week, "before": reference, "now": path, "slow": attack == CLEAN or week % 4 == 0})
        task = Path(folder, "asked.json")
        task.write_text(json.dumps({"asked": asked, "leave_out": leave_out}))
        environment = {**os.environ, "NML_DISABLE_USAGE_LOGGING": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}
        command = [str(peer_python("peers-stability")), "-m", "benchmarks.stability_rules", str(task)]
        done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            said = json.loads(line)
            for rule, alarm in said["alarms"].items():
                found[said["attack"], rule].append(alarm)
    rows: list[dict[str, Any]] = []
    for (attack, rule), alarms in found.items():
        theirs, size = rate(alarms), f"{table.name}, {attack}"
        rate_, ours_ = theirs.pop("rate"), ours.get(size, math.nan)
        rows.append(
            row(
                "stability_power",
                size,
                ours=ours_,
                peer_name=rule,
                peer=rate_,
                ratio=ours_ / max(rate_, 1e-2),
                unit="%",
                demand="none; for comparison",
                holds=True,
                **{f"peer_{key}": value for key, value in theirs.items()},
            )
        )
    return rows
