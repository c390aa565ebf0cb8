"""What a person sees in the Dagster UI: one sentence, a table of what changed, and links to the evidence.

Column names, file names and partition keys come from data, and an attacker may have chosen them: everything that the UI could read as
Markdown goes through `plain`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from mlsec_dagster.integrity.comparison import Difference
from mlsec_dagster.integrity.files import FileEntry
from mlsec_dagster.integrity.verdicts import visible

MAX_ROWS = 100
"""Rows shown of a table of changes; its title says how many there are in all."""

# What Markdown (CommonMark and GitHub's tables and strike-through) would read as more than text. An underscore between letters is
# none of it, so that asset names stay readable where the text is shown as it is.
_MARKDOWN = re.compile(r"[\\`*\[\]<>|~!#]|(?<![^\W_])_|_(?![^\W_])")

# A bare link is one even where it is escaped, because the UI looks for links in the text that is left. So they are defanged, in the
# way that security reports do it: http[:]//, www[.], name[@].
_LINK = re.compile(r"(?<=http):(?=//)|(?<=https):(?=//)|(?<=www)\.|(?<=\w)@(?=\w)", re.IGNORECASE)


def plain(text: str, limit: int = 200) -> str:
    """Text from data as text: no Markdown, no links, no control or bidirectional characters, at most `limit` characters."""
    shown = visible(text)
    shortened = shown if len(shown) <= limit else shown[: limit - 1] + "…"
    defanged = _LINK.sub(lambda found: f"[{found[0]}]", shortened)
    return _MARKDOWN.sub(lambda found: "\\" + found[0], defanged)


def changes_table(difference: Difference) -> dg.TableMetadataValue:
    """Files, columns and row blocks that changed, one row each, the most telling first."""
    records: list[dict[str, Any]] = []
    for block in difference.blocks:
        records.append(
            {
                "what": "column",
                "name": cell(block.column),
                "rows": f"{block.first_row:,} to {block.last_row:,}" if block.first_row is not None else "all",
                "change": block.kind,
                "sealed": "",
                "found": "",
            }
        )
    for file in difference.files:
        records.append(
            {
                "what": "file",
                "name": cell(file.path or "(the file)"),
                "rows": "",
                "change": file.kind,
                "sealed": _file(file.before),
                "found": _file(file.after),
            }
        )
    schema = dg.TableSchema(
        columns=[
            dg.TableColumn("what", "string", description="a file, or a column of the table"),
            dg.TableColumn("name", "string"),
            dg.TableColumn("rows", "string", description="first and last row of the block that differs, counted from 0"),
            dg.TableColumn("change", "string"),
            dg.TableColumn("sealed", "string", description="digest in the ledger"),
            dg.TableColumn("found", "string", description="digest in storage"),
        ]
    )
    return dg.MetadataValue.table([dg.TableRecord(record) for record in records[:MAX_ROWS]], schema)


def cell(text: str) -> str:
    """Text from data in a table, whose cells are shown as they are: only invisible characters are a danger."""
    return visible(text)[:200]


def _file(entry: FileEntry | None) -> str:
    return "" if entry is None else f"{entry.digest[:23]}… ({entry.size:,} bytes)"


def evaluation_metadata(
    *,
    difference: Difference | None,
    warnings: Sequence[str],
    facts: Mapping[str, Any],
    materialization_run: str | None,
) -> dict[str, Any]:
    """The metadata of one `dataset_hash` evaluation."""
    metadata: dict[str, Any] = {}
    if difference:
        shown = changes_table(difference)
        total = len(difference.blocks) + len(difference.files)
        metadata["changes"] = shown
        if total > MAX_ROWS:
            metadata["changes in all"] = total
    if warnings:
        metadata["to know"] = dg.MetadataValue.text(" ".join(warnings))
    if materialization_run:
        metadata["materialized by"] = dg.MetadataValue.dagster_run(materialization_run)
    for name, value in facts.items():
        if value is not None:
            metadata[name] = value
    return metadata
