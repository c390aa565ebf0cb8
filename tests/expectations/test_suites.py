"""Suites as Great Expectations reads them, and what it does not say of its own accord."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlsec_dagster.errors import ConfigurationError, MissingExtraError
from mlsec_dagster.stability.suites import hold_against, read_suite

gx = pytest.importorskip("great_expectations", reason="needs great-expectations: install mlsec-dagster[gx]")

IN_SET = {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "carrier", "value_set": ["UA"]}, "meta": {}}
FRAME = pd.DataFrame({"carrier": ["UA", "AA", None], "distance": [1, 2, 3]})


def suite_of(*expectations: Any) -> Any:
    return gx.ExpectationSuite(name="flights", expectations=list(expectations))


def written(folder: Path, content: Any) -> Path:
    path = folder / "flights.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_an_object_its_json_and_what_a_file_context_stores_are_the_same_suite(tmp_path: Path) -> None:
    suite = suite_of(gx.expectations.ExpectColumnValuesToBeInSet(column="carrier", value_set=["UA"]))
    context = gx.get_context(mode="file", project_root_dir=str(tmp_path))
    context.suites.add(suite_of(*suite.expectations))
    stored = tmp_path / "gx" / "expectations" / "flights.json"
    read = [read_suite(each) for each in (suite, written(tmp_path, suite.to_json_dict()), stored, str(stored))]
    assert {each["name"] for each in read} == {"flights"}
    assert [[outcome.held for outcome in hold_against(each, FRAME)] for each in read] == [[False]] * 4


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is no JSON"),
        ([], "none of Great Expectations 1.x"),
        ({"expectations": [IN_SET]}, "none of Great Expectations 1.x"),
        ({"name": "flights", "expectations": []}, "is empty"),
        ({"name": "flights", "expectations": [IN_SET, {**IN_SET, "type": "expect_magic"}]}, "2 of .*'expect_magic'.*does not know"),
        ({"name": "flights", "expectations": [{**IN_SET, "kwargs": {"colum": "carrier"}}]}, "does not take.*column field required"),
        ({"name": "flights", "expectations": [{"expectation_type": "expect_column_to_exist", "kwargs": {}}]}, "write it with GX 1.x"),
    ],
)
def test_what_gx_would_leave_out_or_fail_on_later_is_refused_at_once(tmp_path: Path, content: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        read_suite(written(tmp_path, content))


def test_what_ends_the_process_while_gx_is_imported_is_an_error_that_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "great_expectations.py").write_text("import sys\nsys.exit(0)  # as PySpark's doctests do\n")
    code = "from mlsec_dagster.stability.suites import great_expectations; great_expectations()"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "MissingExtraError" in done.stderr
    assert "install pyspark[connect]" in done.stderr


def test_a_path_that_leads_nowhere_and_a_thing_that_is_no_suite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        read_suite(tmp_path / "nowhere.json")
    with pytest.raises(ConfigurationError, match="not a list"):
        read_suite([IN_SET])


def test_an_expectation_that_raised_is_neither_held_nor_broken() -> None:
    suite = suite_of(
        gx.expectations.ExpectColumnMeanToBeBetween(column="carrier", min_value=0, max_value=1),
        gx.expectations.ExpectColumnMeanToBeBetween(column="nowhere", min_value=0, max_value=1),
        gx.expectations.ExpectColumnValuesToBeInSet(column="carrier", value_set=["UA"]),
        gx.expectations.ExpectTableRowCountToBeBetween(min_value=3, max_value=3),
    )
    broken, *unknown, held = hold_against(read_suite(suite), FRAME)
    assert (broken.held, broken.unexpected, broken.observed) == (False, 0.5, ["AA"])
    assert [outcome.held for outcome in unknown] == [None, None]
    assert {str(outcome.trouble) for outcome in unknown if "nowhere" in outcome.columns} == {"column 'nowhere' is not in the data"}
    assert all("AA" not in str(outcome.trouble) for outcome in unknown)
    assert held.held is True


def test_holding_leaves_no_file_no_context_and_the_given_suite_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    users_own = gx.get_context(mode="ephemeral")
    made_by_it = set(tmp_path.rglob("*"))
    suite = suite_of(gx.expectations.ExpectColumnValuesToBeInSet(column="carrier", value_set=["UA"]))
    before = suite.to_json_dict()
    hold_against(read_suite(suite), FRAME)
    assert set(tmp_path.rglob("*")) == made_by_it
    assert suite.to_json_dict() == before
    from great_expectations.data_context.data_context.context_factory import project_manager

    assert project_manager._ProjectManager__project is users_own


@pytest.mark.slow
def test_nothing_reaches_for_the_network(tmp_path: Path) -> None:
    path = written(tmp_path, {"name": "flights", "expectations": [IN_SET]})
    script = f"""
import socket

def refuse(*_, **__):
    raise SystemExit("the network was reached for")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import pandas as pd
from mlsec_dagster.stability.suites import hold_against, read_suite
print([outcome.held for outcome in hold_against(read_suite({str(path)!r}), pd.DataFrame({{"carrier": ["UA"]}}))])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "[True]\n", done.stderr


def test_without_great_expectations_the_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import mlsec_dagster as mlsec

    monkeypatch.setitem(sys.modules, "great_expectations", None)
    with pytest.raises(MissingExtraError, match=r"install mlsec-dagster\[gx\]"):
        mlsec.build_expectation_checks(assets=["raw"], suite="anything.json")
