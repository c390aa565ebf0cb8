"""The page on artifacts does what it says: its examples run, one after the other."""

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mlsec_dagster.audit.artifacts import Artifact
from tests.audit.test_artifacts import event
from tests.sensors.test_artifact_locations import delay_model, report

PAGE = Path(__file__).resolve().parents[2] / "docs" / "artifacts.md"


def test_the_examples_of_the_page_run(instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    report(instance, "delay_model", uri="s3://ml-prod/pickles/delay")
    names: dict[str, Any] = {"defs": dg.Definitions([delay_model]), "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "instance": instance}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(block, names)
    artifacts = names["artifacts"]
    for container, name, expected in (
        ("ml-prod", "models/churn/3/x", Artifact("model", model="churn", version="3", environment="production", by="template")),
        ("ml-prod", "pickles/delay", Artifact("model", asset="delay_model", model="delay", environment="production", by="materialization")),
        ("lake", "raw/day=1/x", Artifact("dataset", asset="raw", partition="1", by="template")),
        ("lake", "curated/gold/flights.parquet", Artifact("dataset", asset="gold/flights", by="template")),
        ("org-trail", "AWSLogs/x", Artifact("none", by="location")),
    ):
        assert artifacts.artifact(event(container=container, object=name)) == expected
    ours = names["OurArtifacts"](locations={"s3://lake/raw": "raw"})
    assert ours.artifact(event(container="lake-read-x7k2-s3alias", object="raw/x")).asset == "raw"
    assert ours.artifact(event(container="sandbox-7", object="x")) == Artifact("unresolved", environment="experiment")
