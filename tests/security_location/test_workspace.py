"""Two code locations in a real workspace: a pipeline, and the security team's own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

PIPELINE = """
from pathlib import Path

import dagster as dg
import mlsec_dagster as mlsec

FILE = Path(__file__).with_name("rates.csv")


@dg.asset
def rates():
    FILE.write_text("year,rate\\n2012,4\\n2013,5\\n")
    return dg.MaterializeResult(metadata={"path": str(FILE)})


defs = dg.Definitions(assets=[rates], asset_checks=mlsec.build_dataset_hash_checks(assets=[rates]))
unguarded = dg.Definitions(assets=[rates])
"""

SECURITY = """
import mlsec_dagster as mlsec

defs = mlsec.build_security_definitions(datasets=["rates", "rate"], minimum_interval_seconds=1, at_rest_cron="* * * * *")
"""


@pytest.fixture
def workspace(tmp_path: Path, instance: dg.DagsterInstance, dagster_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (dagster_home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    (tmp_path / "security.py").write_text(SECURITY)
    locations = {"pipeline": {"attribute": "defs"}, "security": {"attribute": "defs"}}
    load_from = [
        {"python_file": {"relative_path": f"{name}.py", "location_name": name, **settings}} for name, settings in locations.items()
    ]
    file = tmp_path / "workspace.yaml"
    file.write_text(yaml.dump({"load_from": load_from}))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return file


def test_both_locations_check_the_same_asset_under_names_of_their_own(workspace: Path, instance: dg.DagsterInstance) -> None:
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget

    with WorkspaceProcessContext(instance, WorkspaceFileTarget([str(workspace)])) as process_context:
        context = process_context.create_request_context()
        assert [entry.load_error for entry in context.get_code_location_entries().values()] == [None, None]
        checks = {key.name for key in context.asset_graph.asset_check_keys if key.asset_key == dg.AssetKey("rates")}
        (sensor,) = context.get_code_location("security").get_repositories()["__repository__"].get_sensors()
    assert checks == {"dataset_hash", "dataset_hash_at_rest"}
    assert sensor.min_interval_seconds == 1
    assert sensor.default_status.value == "RUNNING"


def test_the_daemon_verifies_after_each_materialization_and_again_while_data_lies_at_rest(
    workspace: Path, instance: dg.DagsterInstance, dagster_home: Path
) -> None:
    """The limits that the documentation gives: after the fact by the sensor's interval and the start of a run; at rest by its clock."""
    code: dict[str, object] = {"__file__": str(workspace.with_name("pipeline.py")), "__name__": "pipeline"}
    exec(PIPELINE, code)
    unguarded = code["unguarded"]
    assert isinstance(unguarded, dg.Definitions)
    with (dagster_home / "daemon.log").open("w") as log:
        daemon = subprocess.Popen([Path(sys.executable).with_name("dagster-daemon"), "run", "-w", workspace], stdout=log, stderr=log)
        try:
            # The first tick runs every check; a key that is mistyped is told from then on.
            _wait(lambda: len(_evaluations(instance, "rate")) == 1, seconds=120)
            assert "nearest" not in _evaluations(instance, "rate")[0]
            assert unguarded.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance).success
            written = time.time()
            seen = len(_evaluations(instance, "rates"))
            _wait(lambda: len(_evaluations(instance, "rates")) > seen, seconds=60)
            assert time.time() - written < 60
            _wait(lambda: _evaluations(instance, "rates")[0] == "rates is what was sealed.", seconds=120)

            workspace.with_name("rates.csv").write_text("year,rate\n2012,4\n2013,9\n")
            _wait(lambda: "Storage changed while Dagster did not write it" in _evaluations(instance, "rates")[0], seconds=150)
            assert "nearest asset that Dagster knows is 'rates'" in _evaluations(instance, "rate")[0]
        finally:
            daemon.send_signal(signal.SIGINT)
            daemon.wait(60)


def _evaluations(instance: dg.DagsterInstance, asset: str) -> list[str]:
    """What the check said, newest first."""
    key = dg.AssetCheckKey(dg.AssetKey(asset), "dataset_hash_at_rest")
    records = instance.event_log_storage.get_asset_check_execution_history(key, limit=50)
    events = [record.event.dagster_event for record in records if record.event and record.event.dagster_event]
    return [str(event.asset_check_evaluation_data.description) for event in events if event.event_type_value == "ASSET_CHECK_EVALUATION"]


def _wait(condition: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.5)  # between two looks at another process, not in place of a condition
