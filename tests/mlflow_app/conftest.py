"""A server knows an app by its entry point, which an installation makes."""

import importlib.metadata
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENTRY_POINT = ("mlsec-audit", "mlsec_dagster.mlflow_app.entry:create_app")


@pytest.fixture(scope="session")
def entry_point(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which a server finds ours: that of the installation, or else one made for the test."""
    installed = {(point.name, point.value) for point in importlib.metadata.entry_points(group="mlflow.app")}
    paths = [str(ROOT)]
    if ENTRY_POINT not in installed:
        place = tmp_path_factory.mktemp("entry_point")
        information = place / "mlsec_dagster_test-0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: mlsec-dagster-test\nVersion: 0\n")
        (information / "entry_points.txt").write_text(f"[mlflow.app]\n{' = '.join(ENTRY_POINT)}\n")
        paths.append(str(place))
    environment = {"PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])}
    if sys.dont_write_bytecode:  # A server is three processes that import the same 2,000 modules.
        environment |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("bytecode"))}
    return environment
