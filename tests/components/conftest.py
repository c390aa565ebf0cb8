"""A project as `dg` lays it out, and the `dg` command to work on it."""

import itertools
import os
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result

from mlsec_dagster.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = itertools.count()

ASSETS = """
import dagster as dg

@dg.asset
def orders():
    return [1, 2, 3]

@dg.asset(key=["reports", "total"])
def total(orders):
    return sum(orders)
"""

DEFINITIONS = """
from pathlib import Path

import dagster as dg
import mlsec_dagster as mlsec


@dg.definitions
def defs():
    return {module}.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""


@dataclass(frozen=True)
class Project:
    root: Path
    package: str

    @property
    def defs_folder(self) -> Path:
        return self.root / self.package / "defs"

    def write_yaml(self, attributes: str, folder: str = "checks") -> Path:
        file = self.defs_folder / folder / "defs.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"type: mlsec_dagster.DatasetChecksComponent\n\nattributes:\n{attributes}")
        return file

    def load_with(self, module: str) -> ModuleType:
        """The project's definitions.py, loading the defs folder with the function of `dg` or of `mlsec`."""
        (self.root / self.package / "definitions.py").write_text(DEFINITIONS.format(module=module))
        return import_module(f"{self.package}.definitions")

    def dg(self, *arguments: str) -> Result:
        """Run the real command, in this process: Dagster's own imports take seconds each time."""
        from dagster_dg_cli.cli import create_dg_cli

        before = Path.cwd()
        os.chdir(self.root)
        try:
            return CliRunner().invoke(create_dg_cli(), list(arguments), catch_exceptions=False)
        finally:
            os.chdir(before)

    def names_in_check_yaml(self, file: Path, line: int, complaint: str) -> None:
        """Assert that `dg check yaml` fails and names file and line of a mistake."""
        checked = self.dg("check", "yaml")
        assert checked.exit_code == 1
        assert f"{file}:{line} " in checked.output
        assert complaint in checked.output

    def mistake_of_loading(self, file: Path) -> str:
        """What is said of this file when definitions are built, which has to fail."""
        with pytest.raises(Exception, match="Error while building definitions") as raised:
            self.load_with("dg").defs()
        said, error = [], raised.value
        while error is not None:
            said += [str(error)] if isinstance(error, ConfigurationError) else []
            error = error.__cause__
        (mistake,) = [each for each in said if str(file) in each]
        return mistake


@pytest.fixture
def project(tmp_path: Path, dagster_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    # Each project has a name of its own, as all of them are imported into one process.
    (dagster_home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    package = f"shop_{os.getpid()}_{next(NUMBERS)}"
    project = Project(tmp_path / "project", package)
    project.defs_folder.mkdir(parents=True)
    (project.root / package / "__init__.py").touch()
    (project.defs_folder / "assets.py").write_text(ASSETS)
    (project.root / package / "definitions.py").write_text(DEFINITIONS.format(module="dg"))
    (project.root / "pyproject.toml").write_text(
        f'[project]\nname = "shop"\nversion = "1"\n[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "{package}"\n'
    )
    monkeypatch.syspath_prepend(str(project.root))
    _register(tmp_path, monkeypatch)
    yield project
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def _register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package is not installed, announce it as installing it would: by the entry point in pyproject.toml."""
    group = "dagster_dg_cli.registry_modules"
    if any(each.name == "mlsec_dagster" for each in metadata.entry_points(group=group)):
        return
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][group]
    info = tmp_path / "installed" / "mlsec_dagster-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mlsec-dagster\nVersion: 0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n" + "".join(f"{name} = {module}\n" for name, module in declared.items()))
    monkeypatch.syspath_prepend(str(info.parent))
