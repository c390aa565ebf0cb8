"""What a user gets who installs the wheel, and not our checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_wheel_carries_types_migrations_and_entry_points(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry_points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    assert "mlsec_dagster/py.typed" in names
    in_checkout = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mlsec_dagster").rglob("*.py")}
    assert in_checkout - set(names) == set()
    assert any(name.startswith("mlsec_dagster/storage/migrations/versions/") for name in names)
    assert "mlsec = mlsec_dagster.cli:main" in entry_points
    assert "[dagster_dg_cli.registry_modules]\nmlsec_dagster = mlsec_dagster" in entry_points
