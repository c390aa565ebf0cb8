"""The guard as YAML, in a project that `dg` manages."""

import pickle
import re
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest
import yaml

import mlsec_dagster as mlsec
from mlsec_dagster.errors import ConfigurationError

if TYPE_CHECKING:
    from tests.components.conftest import Project

pytest.importorskip("dagster_dg_cli")


def specs_of(defs: dg.Definitions, check_name: str = "dataset_hash") -> dict[str, dg.AssetCheckSpec]:
    specs = [spec for check in defs.asset_checks or [] for spec in check.check_specs if spec.name == check_name]
    return {spec.asset_key.to_user_string(): spec for spec in specs}


def checks_of(project: "Project") -> list[dg.AssetCheckKey]:
    return sorted(project.load_with("dg").defs().resolve_asset_graph().asset_check_keys)


def test_dg_lists_the_component_with_its_help(project: "Project") -> None:
    listed = project.dg("list", "components", "--json")
    assert listed.exit_code == 0, listed.output
    (ours,) = [each for each in yaml.safe_load(listed.output)["items"] if each["key"] == "mlsec_dagster.DatasetChecksComponent"]
    assert "dataset_hash" in ours["summary"]


def test_what_dg_scaffolds_guards_every_asset_and_says_what_is_left_to_do(project: "Project") -> None:
    done = project.dg("scaffold", "defs", "mlsec_dagster.DatasetChecksComponent", "my_checks")
    assert done.exit_code == 0, done.output
    assert "mlsec_dagster.load_from_defs_folder" in done.output
    written = yaml.safe_load((project.defs_folder / "my_checks" / "defs.yaml").read_text())
    assert written["type"] == "mlsec_dagster.DatasetChecksComponent"
    assert written["attributes"]["datasets"] == ["orders", "reports/total"]

    checked = project.dg("check", "defs")
    assert checked.exit_code == 0, checked.output
    assert [(key.asset_key.to_user_string(), key.name) for key in checks_of(project)] == [
        ("orders", "dataset_hash"),
        ("orders", "distribution_stability"),
        ("reports/total", "dataset_hash"),
        ("reports/total", "distribution_stability"),
    ]


@pytest.mark.parametrize(
    ("attributes", "line", "complaint"),
    [
        ("  datasets:\n    - orders\n  polcy: tracked\n", 6, "polcy"),
        ("  datasets:\n    - key: orders\n      polcy: tracked\n", 6, "polcy"),
        ("  datasets:\n    - orders\n  policy: sealed\n", 6, "'append_only', 'immutable'"),
        ("  datasets:\n    - orders\n    - key: reports/total\n      policy: sealed\n", 7, "'append_only', 'immutable'"),
        ("  datasets: orders\n", 4, "is not of type 'array'"),
        ("  datasets: []\n", 4, "should be non-empty"),
        ("  datasets:\n    - orders\n  store:\n    url: 5\n", 7, "is not of type 'string'"),
        ("  datasets:\n    - orders\n  blocking: perhaps\n", 6, "is not of type 'boolean'"),
    ],
)
def test_dg_check_yaml_names_file_and_line_of_a_mistake(project: "Project", attributes: str, line: int, complaint: str) -> None:
    file = project.write_yaml(attributes)
    project.names_in_check_yaml(file, line, complaint)


@pytest.mark.parametrize(
    ("attributes", "line", "complaint"),
    [
        ("  datasets:\n    - orders\n    - reports/totals\n", 6, "Did you mean 'reports/total'?"),
        ("  datasets:\n    - orders\n    - orders\n", 6, "given twice"),
        ("  datasets:\n    - reports/total\n    - key: orders\n      false_alarms: 0.7\n", 6, "ordinary windows that may alarm"),
        ("  datasets:\n    - key: orders\n      pinned: sha256:00\n      policy: immutable\n", 5, "64 hexadecimal digits"),
        ("  datasets:\n    - orders\n  resolver: nowhere.at_all\n", 6, "package.module.function"),
    ],
)
def test_loading_names_file_and_line_of_what_a_schema_cannot_know(project: "Project", attributes: str, line: int, complaint: str) -> None:
    file = project.write_yaml(attributes)
    mistake = project.mistake_of_loading(file)
    assert mistake.startswith(f"{file}:{line} - ")
    assert complaint in mistake


def test_dg_check_defs_shows_an_unknown_key_with_its_line(
    project: "Project", caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    file = project.write_yaml("  datasets:\n    - order\n")
    checked = project.dg("check", "defs")
    assert checked.exit_code == 1
    shown = checked.output + caplog.text + "".join(capfd.readouterr())
    assert f"{file}:5 - There is no asset 'order'" in re.sub(r"\x1b\[\d+m", "", shown)
    assert "Did you mean 'orders'?" in shown


def test_attributes_reach_the_checks_and_templates_are_filled_in(
    project: "Project", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> None:
    monkeypatch.setenv("LEDGER", f"sqlite:///{tmp_path / 'elsewhere.db'}")
    project.write_yaml(
        "  datasets:\n    - orders\n    - key: reports/total\n      policy: append_only\n      label: late\n"
        "      false_alarms: 0.05\n"
        "  blocking: false\n  severity: WARN\n  store:\n    url: '{{ env.LEDGER }}'\n"
    )
    defs = project.load_with("dg").defs()
    specs = specs_of(defs)
    assert specs["orders"].metadata["mlsec/policy"] == "tracked"
    assert specs["reports/total"].metadata["mlsec/policy"] == "append_only"
    assert specs["reports/total"].metadata["mlsec/label"] == ["late"]
    assert not specs["orders"].blocking
    stability = specs_of(defs, "distribution_stability")
    assert [stability[name].metadata["mlsec/false_alarms"] for name in specs] == [0.01, 0.05]
    assert stability["reports/total"].metadata["mlsec/label"] == ["late"]

    defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance)
    assert (tmp_path / "elsewhere.db").exists()


def test_a_check_from_yaml_finds_a_file_that_was_changed(project: "Project", instance: dg.DagsterInstance) -> None:
    project.write_yaml("  datasets: [orders]\n")
    job = project.load_with("dg").defs().resolve_implicit_global_asset_job_def()
    # The first run is sealed as it was seen by its own check.
    assert all(each.passed for each in job.execute_in_process(instance=instance).get_asset_check_evaluations())

    (Path(instance.storage_directory()) / "orders").write_bytes(pickle.dumps([1000]))
    orders_check = dg.AssetCheckKey(dg.AssetKey("orders"), "dataset_hash")
    again = job.get_subset(asset_selection=set(), asset_check_selection={orders_check})
    result = again.execute_in_process(instance=instance, raise_on_error=False)
    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed
    assert "not what was written" in str(evaluation.description)


def test_one_line_in_definitions_py_verifies_reads_of_what_the_yaml_names(project: "Project", instance: dg.DagsterInstance) -> None:
    project.write_yaml("  datasets: [orders]\n")
    job = project.load_with("mlsec").defs().resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(instance=instance).success
    total = Path(instance.storage_directory()) / "reports" / "total"
    before = total.stat().st_mtime_ns

    (Path(instance.storage_directory()) / "orders").write_bytes(pickle.dumps([1000]))
    consumer_only = job.get_subset(asset_selection={dg.AssetKey(["reports", "total"])}, asset_check_selection=set())
    result = consumer_only.execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    assert total.stat().st_mtime_ns == before
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "orders is not what run" in str(failure.event_specific_data)


def test_that_line_without_any_component_is_refused(project: "Project") -> None:
    with pytest.raises(ConfigurationError, match="nothing would be guarded"):
        project.load_with("mlsec").defs()


def test_components_with_different_ledgers_are_refused(project: "Project") -> None:
    project.write_yaml("  datasets: [orders]\n", "one")
    project.write_yaml("  datasets: [reports/total]\n  store:\n    url: sqlite:////srv/other.db\n", "two")
    with pytest.raises(ConfigurationError, match="different stores"):
        project.load_with("mlsec").defs()


def test_several_components_and_python_ones_load_together(project: "Project") -> None:
    project.write_yaml("  datasets: [orders]\n", "one")
    (project.defs_folder / "two.py").write_text(
        "import dagster as dg\nimport mlsec_dagster as mlsec\n\n@dg.component_instance\n"
        "def checks(context: dg.ComponentLoadContext) -> mlsec.DatasetChecksComponent:\n"
        "    return mlsec.DatasetChecksComponent(datasets=['reports/total'], policy='immutable')\n"
    )
    hashed = [key.asset_key.to_user_string() for key in checks_of(project) if key.name == "dataset_hash"]
    assert hashed == ["orders", "reports/total"]


@pytest.mark.parametrize("returns", ["", " -> 'mlsec.DatasetChecksComponent'", " -> dg.Component"])
def test_a_function_that_does_not_say_which_component_it_returns_is_one_all_the_same(project: "Project", returns: str) -> None:
    project.write_yaml("  datasets: [orders]\n", "one")
    (project.defs_folder / "two.py").write_text(
        f"import dagster as dg\nimport mlsec_dagster as mlsec\n\n@dg.component_instance\ndef checks(context){returns}:\n"
        "    return mlsec.DatasetChecksComponent(datasets=['reports/total'], store={'url': 'sqlite:////srv/other.db'})\n"
    )
    hashed = [key.asset_key.to_user_string() for key in checks_of(project) if key.name == "dataset_hash"]
    assert hashed == ["orders", "reports/total"]
    with pytest.raises(ConfigurationError, match="different stores"):
        mlsec.load_from_defs_folder(path_within_project=project.root)


def test_partitions_of_the_asset_are_those_of_its_check(project: "Project") -> None:
    (project.defs_folder / "weekly.py").write_text(
        "import dagster as dg\n\n@dg.asset(partitions_def=dg.StaticPartitionsDefinition(['a', 'b']))\ndef weekly():\n    return 1\n"
    )
    project.write_yaml("  datasets: [weekly]\n")
    assert specs_of(project.load_with("dg").defs())["weekly"].partitions_def == dg.StaticPartitionsDefinition(["a", "b"])


def test_outside_of_a_project_a_component_is_what_its_attributes_say() -> None:
    component = mlsec.DatasetChecksComponent.from_attributes_dict(attributes={"datasets": ["a/b"], "policy": "append_only"})
    assert specs_of(dg.build_defs_for_component(component))["a/b"].metadata["mlsec/policy"] == "append_only"
