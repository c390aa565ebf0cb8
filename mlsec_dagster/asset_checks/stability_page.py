"""What the page of a stability check shows below its sentence: the ranking, pictures of the worst columns, the statistic's history.

    metadata = evaluation_metadata(assessed, evidence, facts={"ledger entry": 41})

All of it lies in Dagster's event log, so it is small: fifty rows, and pictures of a few kilobytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from mlsec_dagster.asset_checks.pictures import bars, course, image, spoken
from mlsec_dagster.integrity.verdicts import visible
from mlsec_dagster.stability.assessment import Assessment
from mlsec_dagster.stability.evidence import Evidence, Ranked
from mlsec_dagster.stability.power import Change

_CELL = 120
_MOST_CHANGES = 100


def evaluation_metadata(assessed: Assessment, evidence: Evidence, *, facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The metadata of one stability evaluation.

    Args:
        assessed: What was found.
        evidence: The same for people.
        facts: More to be shown, by name; what is None is left out.
    """
    metadata: dict[str, Any] = {"rows": assessed.window.profile.rows}
    if evidence.ranked:
        metadata["evidence"] = ranking(evidence)
    if evidence.watched > len(evidence.ranked):
        metadata["watched in all"] = evidence.watched
    pictures = [image(bars(compared), spoken(compared)) for compared in evidence.compared]
    if evidence.history:
        pictures.append(image(course(evidence.history), _spoken_history(evidence)))
    if pictures:
        # One entry, because the UI shows Markdown of this length behind a click; entries are sorted by name, and so it comes before the
        # table, which is long.
        metadata["before and now"] = dg.MetadataValue.md("\n\n".join(pictures))
    judgement = assessed.judgement
    if judgement is not None and judgement.p_value is not None:
        metadata["p-value"] = float(f"{judgement.p_value:.2g}")
        metadata["p-value by"] = f"{judgement.method} among {judgement.windows} earlier windows"
    return {**metadata, **{name: value for name, value in (facts or {}).items() if value is not None}}


def ranking(evidence: Evidence) -> dg.TableMetadataValue:
    """What was watched, the strongest evidence first."""
    schema = dg.TableSchema(
        columns=[
            dg.TableColumn("what", "string", description="what is watched"),
            dg.TableColumn("column", "string"),
            dg.TableColumn("before", "string", description="in the windows right before"),
            dg.TableColumn("now", "string"),
            dg.TableColumn("deviation", "float", description="how many ordinary deviations it lies off"),
            dg.TableColumn("alarm from", "float", description="the deviation from which on there is an alarm"),
            dg.TableColumn("out of line", "string"),
        ]
    )
    return dg.MetadataValue.table([_record(each) for each in evidence.ranked], schema)


def _record(ranked: Ranked) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "what": _cell(ranked.what),
            "column": _cell(ranked.column),
            "before": _cell(ranked.before),
            "now": _cell(ranked.now),
            "deviation": _rounded(ranked.score),
            "alarm from": _rounded(ranked.threshold),
            "out of line": "yes" if ranked.out_of_line else "",
        }
    )


def _cell(text: str) -> str:
    """A table cell is shown as text, so only invisible characters are a danger."""
    shown = visible(text)
    return shown if len(shown) <= _CELL else shown[: _CELL - 1] + "…"


def _rounded(value: float) -> float | str:
    return round(value, 2) if math.isfinite(value) else ""


def _spoken_history(evidence: Evidence) -> str:
    last = evidence.history[-1]
    alarmed = sum(each.alarmed for each in evidence.history)
    return (
        f"Largest deviation of the last {len(evidence.history)} windows, of which {alarmed} alarmed; now {last.statistic:.1f}, "
        f"alarm from {last.threshold:.1f}"
    )


def power(changes: Sequence[Change]) -> dg.TableMetadataValue | None:
    """What would have been noticed: the smallest change of each kind that this window would have shown nine times out of ten."""
    rows = [
        dg.TableRecord(
            {
                "what": change.what,
                "column": visible(change.column)[:_CELL],
                "smallest": "not at any size" if change.amount is None else _amount(change),
            }
        )
        for change in changes
    ]
    if not rows:
        return None
    schema = dg.TableSchema(
        columns=[
            dg.TableColumn("what", "string", description="a change of this kind, alone"),
            dg.TableColumn("column", "string", description="of a flipped label: the class it was flipped from"),
            dg.TableColumn("smallest", "string", description="that would have raised an alarm nine times out of ten"),
        ]
    )
    return dg.MetadataValue.table(rows[:_MOST_CHANGES], schema)


def _amount(change: Change) -> str:
    amount = change.amount or 0.0
    if change.unit == "of rows":
        return f"{amount:.2%} of rows" if amount < 0.1 else f"{amount:.0%} of rows"
    return f"{amount:.2f} deviations" if change.unit == "deviations" else f"{amount:.2f} times as many"
