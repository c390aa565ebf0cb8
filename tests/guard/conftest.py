"""What the tests of the guard share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def home_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Dagster home whose databases are there already; copying it is faster than creating one."""
    from dagster import AssetKey, DagsterInstance

    place = tmp_path_factory.mktemp("home")
    (place / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    with DagsterInstance.from_config(str(place)) as instance:
        instance.get_runs()
        instance.event_log_storage.get_materialized_partitions(AssetKey("any"))
    return place
