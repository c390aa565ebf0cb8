"""Audit logs as YAML, in a project that `dg` manages."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
import yaml

import mlsec_dagster as mlsec
from mlsec_dagster.audit.trail import Trail
from mlsec_dagster.errors import ConfigurationError
from tests.audit.trail.made import delivery, ids, line, rows

if TYPE_CHECKING:
    from tests.components.conftest import Project

pytest.importorskip("dagster_dg_cli")

TYPE = "mlsec_dagster.AuditLogComponent"
TRANSLATOR = """
from mlsec_dagster.audit.artifacts import Artifact

class Everything:
    def artifact(self, event):
        return Artifact("model", model="churn", by="event")

translator = Everything()
"""
BUCKET = "  logs:\n    - cloudtrail: {bucket: org-trail}\n"
S3 = "import dagster as dg\nfrom dagster_aws.s3 import S3Resource\n\ndefs = dg.Definitions(resources={'s3': S3Resource()})\n"


def write(project: "Project", attributes: str, folder: str = "audit_logs") -> Path:
    file = project.write_yaml(attributes, folder)
    file.write_text(file.read_text().replace("mlsec_dagster.DatasetChecksComponent", TYPE))
    return file


def mlflow_log(folder: Path, numbers: Any = range(3)) -> str:
    """Attributes of a log with these lines."""
    folder.mkdir()
    (folder / "server.jsonl").write_bytes(b"".join(line(number) for number in numbers))
    return f"  logs:\n    - mlflow: {{directory: {folder}}}\n"


def sensors_of(defs: dg.Definitions) -> dict[str, Any]:
    return {sensor.name: sensor for sensor in defs.sensors or []}


def tick(defs: dg.Definitions, name: str, instance: dg.DagsterInstance) -> Any:
    context = dg.build_sensor_context(instance=instance, definitions=defs, sensor_name=name, resources=defs.resources)
    return sensors_of(defs)[name].evaluate_tick(context)


def trail_of(home: Path) -> Trail:
    return Trail(str(home / "mlsec" / "trail"))


# What dg shows


def test_dg_lists_the_component_with_what_it_produces(project: "Project") -> None:
    listed = project.dg("list", "components", "--json")
    assert listed.exit_code == 0, listed.output
    (ours,) = [each for each in yaml.safe_load(listed.output)["items"] if each["key"] == TYPE]
    assert "every access to data and models into one trail" in ours["summary"]
    assert mlsec.AuditLogComponent.get_spec().produces == ["sensor", "asset", "asset_check"]


def test_what_dg_scaffolds_loads_and_says_what_is_left_to_do(project: "Project") -> None:
    done = project.dg("scaffold", "defs", TYPE, "audit_logs")
    assert done.exit_code == 0, done.output
    assert "cloudtrail: {bucket: org-trail" in done.output
    written = yaml.safe_load((project.defs_folder / "audit_logs" / "defs.yaml").read_text())
    assert written == {"type": TYPE, "attributes": {"logs": [{"mlflow": {"directory": "/var/log/mlflow-audit"}}]}}
    for what in ("yaml", "defs"):
        checked = project.dg("check", what)
        assert checked.exit_code == 0, checked.output
    assert list(sensors_of(project.load_with("dg").defs())) == ["mlflow_audit_log"]


# Mistakes


@pytest.mark.parametrize(
    ("attributes", "line", "complaint"),
    [
        ("  logs:\n    - cloudtral: {bucket: b}\n", 5, "'cloudtral' is not one of ['cloudtrail', 's3_access', 'gcp', 'azure', 'mlflow'"),
        ("  logs:\n    - mlflow: {bucket: b}\n      wandb: {bucket: c}\n", 5, "has too many properties"),
        ("  logs:\n    - mlflow:\n", 5, "is not of type 'object'"),
        ("  logs:\n    - mlflow:\n        buckt: b\n", 6, "buckt"),
        ("  logs:\n    - cloudtrail:\n        bucket: b\n        accounts: [123456789012]\n", 7, "123456789012 is not of type 'string'"),
        ("  logs:\n    - cloudtrail:\n        bucket: b\n        categories: [x]\n", 7, "categories"),
        ("  logs:\n    - wandb:\n        bucket: b\n        cloud: ibm\n", 7, "'ibm' is not one of ['aws', 'gcp', 'azure']"),
        ("  logs: []\n", 4, "should be non-empty"),
        (f"{BUCKET}  artifacts:\n    templates:\n      s3://b/{{model}}/: modle\n", 8, "'modle' is not one of ['dataset', 'model']"),
        (f"{BUCKET}  artifacts:\n    locations:\n      s3://b/:\n        kind: nothing\n", 9, "'nothing' is not one of"),
        (f"{BUCKET}  artifacts:\n    models:\n      delay: 3\n", 8, "3 is not of type 'string'"),
        (f"{BUCKET}  registry:\n    url: http://mlflow:5000\n", 7, "url"),
        (f"{BUCKET}  trail:\n    storage_options: fast\n", 7, "is not of type 'object'"),
        (f"{BUCKET}  default_status: ON\n", 6, "is not one of"),
    ],
)
def test_dg_check_yaml_names_file_and_line_of_a_mistake(project: "Project", attributes: str, line: int, complaint: str) -> None:
    file = write(project, attributes)
    project.names_in_check_yaml(file, line, complaint)


@pytest.mark.parametrize(
    ("attributes", "line", "complaint"),
    [
        ("  logs:\n    - mlflow: {bucket: b, directory: /logs}\n", 5, "in a bucket or in a directory: name one of them"),
        ("  logs:\n    - mlflow: {directory: /logs}\n    - cloudtrail: {prefix: AWSLogs/}\n", 6, "in a bucket or in a directory"),
        ("  logs:\n    - mlflow: {directory: /logs}\n    - mlflow: {directory: /logs/}\n", 6, "/logs/ is given twice"),
        ("  logs:\n    - mlflow: {directory: /logs}\n    - kubernetes: {directory: /logs}\n", 6, "as MLflow and as Kubernetes"),
        ("  logs:\n    - mlflow:\n        directory: /logs\n        name: to be read\n", 7, "letters, digits and underscores"),
        (f"{BUCKET}    - mlflow: {{bucket: m, name: x}}\n    - wandb: {{bucket: w, name: x}}\n", 6, "another sensor called 'x'"),
        (f"{BUCKET}  artifacts:\n    templates:\n      s3://b/{{model}}/: model\n      models/{{model}}/: model\n", 9, "leads nowhere"),
        (f"{BUCKET}  artifacts:\n    templates:\n      s3://b/{{model}}/: model\n      s3://b/{{asset}}/: dataset\n", 9, "s3://b/{asset}/"),
        (f"{BUCKET}  artifacts:\n    locations:\n      s3://b/x: x\n      s3://b/x/: y\n", 9, "are one place"),
        (f"{BUCKET}  artifacts:\n    environments:\n      s3://b/../c: test\n", 8, "leads nowhere"),
        (f"{BUCKET}  translator: nowhere.at_all\n", 6, "package.module.name"),
        (f"{BUCKET}  translator: pathlib.Path\n", 6, "is the class Path"),
        (f"{BUCKET}  translator: sys.path\n", 6, "is a list"),
        (f"{BUCKET}  trail:\n    keep_days: {{cloudtrail: 400}}\n", 7, "There is no source 'cloudtrail'; expected some of aws.cloudtrail"),
        (f"{BUCKET}  artifacts: {{models: [m]}}\n  translator: sys.path\n", 7, "give one of them"),
    ],
)
def test_loading_names_file_and_line_of_what_a_schema_cannot_know(project: "Project", attributes: str, line: int, complaint: str) -> None:
    file = write(project, attributes)
    mistake = project.mistake_of_loading(file)
    assert mistake.startswith(f"{file}:{line} - ")
    assert complaint in mistake


def test_loading_suggests_the_nearest_kind_of_log(project: "Project", caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    file = write(project, "  logs:\n    - mlflow: {directory: /logs}\n    - cloud-trail: {bucket: b}\n")
    checked = project.dg("check", "defs", "--no-check-yaml")
    assert checked.exit_code == 1
    shown = re.sub(r"\x1b\[\d+m", "", checked.output + caplog.text + "".join(capfd.readouterr()))
    assert f"{file}:6" in shown
    assert "There is no audit log 'cloud-trail'. Did you mean 'cloudtrail'?" in shown


def test_a_resource_that_the_project_lacks_is_named_with_the_log_that_needs_it(project: "Project", instance: dg.DagsterInstance) -> None:
    write(project, "  logs:\n    - cloudtrail: {bucket: org-trail}\n    - mlflow: {bucket: m, cloud: gcp, resource_key: audit_reader}\n")
    defs = project.load_with("dg").defs()
    # Dagster loads a sensor whose resource is missing: another part of the project may bring it yet.
    dg.Definitions.validate_loadable(defs)
    with pytest.raises(ConfigurationError, match=r"CloudTrail at 'org-trail' is read with the resource 's3', .* S3Resource"):
        tick(defs, "cloudtrail_audit_log", instance)
    with pytest.raises(ConfigurationError, match=r"MLflow at 'm' is read with the resource 'audit_reader', .* GCSResource"):
        tick(defs, "mlflow_audit_log", instance)


# What it does


def test_a_tick_of_a_sensor_from_yaml_fills_the_trail(project: "Project", tmp_path: Path, instance: dg.DagsterInstance) -> None:
    write(project, mlflow_log(tmp_path / "logs"))
    defs = project.load_with("dg").defs()
    result = tick(defs, "mlflow_audit_log", instance)
    assert ids(trail_of(Path(instance.root_directory))) == {f"request-{number}": 1 for number in range(3)}
    (day,) = [event for event in result.asset_events if isinstance(event, dg.AssetMaterialization)]
    assert (day.asset_key.to_user_string(), day.partition) == ("audit_trail", "2026-05-01")
    assert dg.AssetKey("audit_trail") in defs.resolve_asset_graph().get_all_asset_keys()
    assert [key.name for key in defs.resolve_asset_graph().asset_check_keys] == ["log_completeness"]


def test_a_bucket_is_read_with_the_resource_that_the_project_has(
    project: "Project", s3_bucket: str, instance: dg.DagsterInstance, dagster_home: Path
) -> None:
    import boto3

    for account in ("123456789012", "999999999999"):
        key = f"AWSLogs/{account}/CloudTrail/eu-west-1/2026/05/01/{account}_CloudTrail_eu-west-1_20260501T0005Z_abcdefghijklmnop.json.gz"
        boto3.client("s3").put_object(Bucket=s3_bucket, Key=key, Body=delivery([int(account[:3])]))
    (project.defs_folder / "s3.py").write_text(S3)
    write(project, f"  logs:\n    - cloudtrail: {{bucket: {s3_bucket}, accounts: ['123456789012']}}\n")
    tick(project.load_with("dg").defs(), "cloudtrail_audit_log", instance)
    assert ids(trail_of(dagster_home)) == {"event-123": 1}


def test_attributes_reach_the_sensors_and_templates_are_filled_in(
    project: "Project", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> None:
    logs, trail = tmp_path / "logs", tmp_path / "elsewhere"
    logs.mkdir()
    (logs / "a.json.gz").write_bytes(delivery(range(3)))
    for name, value in {
        "LOGS": logs,
        "TRAIL": trail,
        "LEDGER": f"sqlite:///{tmp_path / 'l.db'}",
        "MODELS": "ml-models",
        "WHO": "123456789012",
    }.items():
        monkeypatch.setenv(name, str(value))
    write(
        project,
        "  logs:\n    - cloudtrail:\n        directory: '{{ env.LOGS }}'\n        accounts: ['{{ env.WHO }}']\n        name: org_trail\n"
        "  artifacts:\n    templates:\n      's3://{{ env.MODELS }}/{model}/': {kind: model, model: 'our-{model}'}\n"
        "    environments:\n      's3://{{ env.MODELS }}/': production\n"
        "  trail:\n    uri: '{{ env.TRAIL }}'\n  store:\n    url: '{{ env.LEDGER }}'\n"
        "  minimum_interval_seconds: 300\n  default_status: STOPPED\n",
    )
    defs = project.load_with("dg").defs()
    (component,) = defs.component_tree.get_all_components(of_type=mlsec.AuditLogComponent)
    assert component.audit_logs()[0].accounts == ["123456789012"]  # As it was written, and no number.
    sensor = sensors_of(defs)["org_trail"]
    assert (sensor.minimum_interval_seconds, sensor.default_status) == (300, dg.DefaultSensorStatus.STOPPED)
    tick(defs, "org_trail", instance)
    told = {(row["artifact_kind"], row["artifact_model"], row["environment"]) for row in rows(Trail(str(trail)))}
    assert told == {("model", "our-fraud", "production")}
    assert (tmp_path / "l.db").exists()


def test_a_variable_that_is_not_set_is_refused_and_never_taken_for_left_out(project: "Project", tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    write(project, f"  logs:\n    - mlflow: {{directory: {tmp_path / 'logs'}}}\n  store:\n    url: '{{{{ env.NO_SUCH_LEDGER }}}}'\n")
    with pytest.raises(Exception, match="Error while loading component") as raised:
        project.load_with("dg").defs()
    reasons, error = [], raised.value
    while error is not None:
        reasons.append(str(error))
        error = error.__cause__
    assert any("env.NO_SUCH_LEDGER" in reason and "has no value" in reason for reason in reasons)


def test_a_translator_of_the_projects_own_says_what_an_access_is_about(
    project: "Project", tmp_path: Path, instance: dg.DagsterInstance, dagster_home: Path
) -> None:
    (project.root / project.package / "audit.py").write_text(TRANSLATOR)
    write(project, f"{mlflow_log(tmp_path / 'logs')}  translator: {project.package}.audit.translator\n")
    tick(project.load_with("dg").defs(), "mlflow_audit_log", instance)
    assert {row["artifact_model"] for row in rows(trail_of(dagster_home))} == {"churn"}


@pytest.mark.parametrize("registry", ["http://127.0.0.1:9", "{uri: 'http://127.0.0.1:9', artifacts: 's3://ml/'}"])
def test_a_registry_that_does_not_answer_is_told_and_stops_nothing(
    project: "Project", tmp_path: Path, instance: dg.DagsterInstance, registry: str
) -> None:
    pytest.importorskip("mlflow", reason="needs mlflow: install mlsec-dagster[mlflow]")
    write(project, f"{mlflow_log(tmp_path / 'logs')}  registry: {registry}\n")
    result = tick(project.load_with("dg").defs(), "mlflow_audit_log", instance)
    (day,) = [event for event in result.asset_events if isinstance(event, dg.AssetMaterialization)]
    assert "127.0.0.1:9 could not be read" in str(day.metadata["not known of artifacts"].value)


# Beside others


def test_several_components_and_a_guard_in_python_share_one_trail(
    project: "Project", tmp_path: Path, instance: dg.DagsterInstance, dagster_home: Path
) -> None:
    write(project, mlflow_log(tmp_path / "one", range(2)), "one")
    write(project, mlflow_log(tmp_path / "two", range(2, 4)), "two")
    mlflow_log(tmp_path / "three", range(4, 6))
    mlflow_log(tmp_path / "four", range(6, 8))
    (project.defs_folder / "three.py").write_text(
        "import dagster as dg\nimport mlsec_dagster as mlsec\n\n@dg.component_instance\n"
        "def logs(context: dg.ComponentLoadContext):\n"
        f"    return mlsec.AuditLogComponent(logs=[{{'mlflow': {{'directory': {str(tmp_path / 'three')!r}}}}}])\n"
    )
    (project.defs_folder / "four.py").write_text(
        "import dagster as dg\nimport mlsec_dagster as mlsec\n\n@dg.definitions\ndef defs():\n"
        f"    return mlsec.guard(dg.Definitions(), audit=[mlsec.MLflow(directory={str(tmp_path / 'four')!r})])\n"
    )
    defs = project.load_with("dg").defs()
    dg.Definitions.validate_loadable(defs)
    assert set(sensors_of(defs)) == {"mlflow_audit_log", "mlflow_audit_log_1", "mlflow_audit_log_2", "mlflow_audit_log_3"}
    for name in sensors_of(defs):
        tick(defs, name, instance)
    assert ids(trail_of(dagster_home)) == {f"request-{number}": 1 for number in range(8)}


def test_components_with_different_trails_or_one_log_are_refused(project: "Project") -> None:
    write(project, BUCKET, "one")
    file = write(project, "  logs:\n    - mlflow: {directory: /logs}\n  trail: {uri: s3://other/}\n", "two")
    mistake = project.mistake_of_loading(file)
    assert mistake.startswith(f"{file}:6 - Another AuditLogComponent of this project has another trail")


def test_a_log_that_another_component_reads_is_refused(project: "Project") -> None:
    write(project, BUCKET, "one")
    file = write(project, f"{BUCKET}      \n", "two")
    mistake = project.mistake_of_loading(file)
    assert mistake.startswith(f"{file}:5 - org-trail is given twice")


def test_a_trail_of_the_project_with_another_store_is_refused(project: "Project", tmp_path: Path) -> None:
    file = write(project, f"{mlflow_log(tmp_path / 'logs')}  store: {{url: 'sqlite:////srv/other.db'}}\n")
    (project.defs_folder / "trail.py").write_text(
        "import dagster as dg\nimport mlsec_dagster as mlsec\n\n@dg.definitions\ndef defs():\n"
        "    return mlsec.build_audit_trail_definitions()\n"
    )
    mistake = project.mistake_of_loading(file)
    assert mistake.startswith(f"{file}:6 - This project has an audit trail already, with another store")


@pytest.mark.parametrize("module", ["dg", "mlsec"])
def test_datasets_are_guarded_and_logs_are_read_in_one_project(
    project: "Project", tmp_path: Path, instance: dg.DagsterInstance, dagster_home: Path, module: str
) -> None:
    project.write_yaml("  datasets: [orders]\n")
    write(project, mlflow_log(tmp_path / "logs"))
    defs = project.load_with(module).defs()
    dg.Definitions.validate_loadable(defs)
    assert (
        defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance, asset_selection=[dg.AssetKey("orders")]).success
    )
    tick(defs, "mlflow_audit_log", instance)
    assert len(ids(trail_of(dagster_home))) == 3
    checks = {(key.asset_key.to_user_string(), key.name) for key in defs.resolve_asset_graph().asset_check_keys}
    assert checks == {("orders", "dataset_hash"), ("orders", "distribution_stability"), ("audit_trail", "log_completeness")}


def test_guard_around_the_project_adds_logs_to_those_of_the_yaml(project: "Project", tmp_path: Path) -> None:
    project.write_yaml("  datasets: [orders]\n")
    write(project, mlflow_log(tmp_path / "logs"))
    defs = mlsec.guard(project.load_with("mlsec").defs(), audit=[mlsec.MLflow(directory=str(tmp_path))])
    dg.Definitions.validate_loadable(defs)
    assert set(sensors_of(defs)) == {"mlflow_audit_log", "mlflow_audit_log_1"}


def test_outside_of_a_project_a_component_is_what_its_attributes_say() -> None:
    component = mlsec.AuditLogComponent.from_attributes_dict(
        attributes={"logs": [{"azure": {"bucket": "*"}}, {"azure": {"directory": "/logs"}}], "registry": {"uri": "http://mlflow:5000"}}
    )
    defs = dg.build_defs_for_component(component)
    assert set(sensors_of(defs)) == {"azure_audit_log_1", "azure_audit_log_2"}
    assert sensors_of(defs)["azure_audit_log_1"].required_resource_keys == {"adls2"}


def test_the_example_of_the_page_loads() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "yaml.md").read_text()
    (example,) = [each for each in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if TYPE in each]
    attributes = yaml.safe_load(example.replace("{{ env.MLSEC_STORE_URL }}", "postgresql+psycopg://ledger"))["attributes"]
    defs = dg.build_defs_for_component(mlsec.AuditLogComponent.from_attributes_dict(attributes=attributes))
    assert set(sensors_of(defs)) == {"cloudtrail_audit_log", "mlflow_audit_log"}
