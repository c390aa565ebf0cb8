"""Expectations as YAML, in a project that `dg` manages."""

import json
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
import yaml

import mlsec_dagster as mlsec

if TYPE_CHECKING:
    from tests.components.conftest import Project

pytest.importorskip("dagster_dg_cli")
pytest.importorskip("great_expectations", reason="needs great-expectations: install mlsec-dagster[gx]")

TYPE = "mlsec_dagster.ExpectationChecksComponent"
FRAMES = "import dagster as dg\nimport pandas as pd\n\n@dg.asset\ndef frames():\n    return pd.DataFrame({'n': [1, 2, 30]})\n"


def suite(largest: int) -> dict[str, Any]:
    return {
        "name": "numbers",
        "expectations": [{"type": "expect_column_max_to_be_between", "kwargs": {"column": "n", "max_value": largest}, "meta": {}}],
    }


def write(project: "Project", attributes: str, content: Any = None) -> Any:
    file = project.write_yaml(attributes, "expected")
    file.write_text(file.read_text().replace("mlsec_dagster.DatasetChecksComponent", TYPE))
    (file.parent / "suite.json").write_text(json.dumps(suite(10) if content is None else content))
    return file


def test_dg_lists_the_component_and_what_it_scaffolds_is_sound(project: "Project") -> None:
    listed = project.dg("list", "components", "--json")
    (ours,) = [each for each in yaml.safe_load(listed.output)["items"] if each["key"] == TYPE]
    assert "Great Expectations" in ours["summary"]

    done = project.dg("scaffold", "defs", TYPE, "expected")
    assert done.exit_code == 0, done.output
    written = yaml.safe_load((project.defs_folder / "expected" / "defs.yaml").read_text())
    assert written["attributes"] == {"assets": ["orders", "reports/total"], "suite": "suite.json"}
    checked = project.dg("check", "defs")
    assert checked.exit_code == 0, checked.output


@pytest.mark.parametrize(
    ("attributes", "line", "complaint"),
    [
        ("  assets: [orders]\n  suite: suite.json\n  blokking: true\n", 6, "blokking"),
        ("  assets: []\n  suite: suite.json\n", 4, "should be non-empty"),
        ("  assets: [orders]\n  suite: 5\n", 5, "is not of type 'string'"),
    ],
)
def test_dg_check_yaml_names_file_and_line_of_a_mistake(project: "Project", attributes: str, line: int, complaint: str) -> None:
    file = write(project, attributes)
    project.names_in_check_yaml(file, line, complaint)


@pytest.mark.parametrize(
    ("attributes", "line", "complaint"),
    [
        ("  assets:\n    - orders\n    - reports/totals\n  suite: suite.json\n", 6, "Did you mean 'reports/total'?"),
        ("  assets:\n    - orders\n    - orders\n  suite: suite.json\n", 6, "given twice"),
        ("  assets: [orders]\n  suite: nowhere.json\n", 5, "No such file"),
        ("  assets: [orders]\n  suite: suite.json\n  blocking: true\n  severity: WARN\n", 7, "WARN blocks nothing"),
    ],
)
def test_loading_names_file_and_line_of_what_a_schema_cannot_know(project: "Project", attributes: str, line: int, complaint: str) -> None:
    file = write(project, attributes)
    mistake = project.mistake_of_loading(file)
    assert complaint in mistake
    if "WARN" not in attributes:
        assert mistake.startswith(f"{file}:{line} - ")


def test_beside_a_guard_from_yaml_the_suite_is_held_against_what_was_sealed(project: "Project", instance: dg.DagsterInstance) -> None:
    (project.defs_folder / "frames.py").write_text(FRAMES)
    project.write_yaml("  datasets: [frames]\n")
    write(project, "  assets: [frames]\n  suite: suite.json\n  blocking: true\n")
    job = project.load_with("mlsec").defs().resolve_implicit_global_asset_job_def()
    chosen = job.get_subset(
        asset_selection={dg.AssetKey("frames")},
        asset_check_selection={dg.AssetCheckKey(dg.AssetKey("frames"), name) for name in ("dataset_hash", "expectations")},
    )
    result = chosen.execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    told = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert told["dataset_hash"].passed
    assert "1 of 1 expectations does not hold for frames: 'n': column max to be between" in told["expectations"].description


def test_outside_of_a_project_a_component_is_what_its_attributes_say(tmp_path: Any) -> None:
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(suite(10)))
    component = mlsec.ExpectationChecksComponent.from_attributes_dict(attributes={"assets": ["a/b"], "suite": str(path)})
    (check,) = dg.build_defs_for_component(component).asset_checks or []
    assert [spec.asset_key.to_user_string() for spec in check.check_specs] == ["a/b"]
