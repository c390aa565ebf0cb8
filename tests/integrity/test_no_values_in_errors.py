"""What is raised about data reaches logs, the event log and the ledger: it names columns and types, and never a value."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlsec_dagster.errors import MlsecError
from mlsec_dagster.integrity.tables import Column, table_grid


def what_logs_show(error: BaseException | None) -> str:
    """The messages of an error and of those that a traceback would show behind it."""
    messages: list[str] = []
    while error is not None:
        messages.append(str(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(messages)


def test_a_value_that_does_not_fit_the_schema_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "ages.csv").write_text("name,age\nann,31\nbob,secret-4711\n")
    with pytest.raises(MlsecError, match="age") as raised:
        table_grid(tmp_path / "ages.csv", schema=[Column("name", "string"), Column("age", "int64")])
    assert "secret-4711" not in what_logs_show(raised.value)


def test_a_number_out_of_range_is_not_quoted(tmp_path: Path) -> None:
    pq.write_table(pa.table({"age": [31, 471147]}), tmp_path / "ages.parquet")
    with pytest.raises(MlsecError, match="age") as raised:
        table_grid(tmp_path / "ages.parquet", schema=[Column("age", "int8")])
    assert "471147" not in what_logs_show(raised.value)


def test_a_column_of_mixed_types_is_named_without_its_values() -> None:
    with pytest.raises(MlsecError, match="ages") as raised:
        table_grid(pd.DataFrame({"ages": ["secret-4711", 3]}))
    assert "secret-4711" not in what_logs_show(raised.value)


def test_a_row_that_does_not_parse_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "ages.csv").write_text("name,age\nann,31\nbob,32,secret-4711\n")
    with pytest.raises(MlsecError, match="Expected 2 columns, got 3") as raised:
        table_grid(tmp_path / "ages.csv")
    assert "secret-4711" not in what_logs_show(raised.value)
