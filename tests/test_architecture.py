"""The house rules that a reviewer would otherwise have to remember."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mlsec_dagster"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a module of the package imports, anywhere in it; relative ones made absolute."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = ".".join(parts[: len(parts) - node.level]) if node.level else ""
            module = ".".join(filter(None, (origin, node.module)))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def loaded_by(statement: str) -> set[str]:
    """Top-level packages that are loaded once `statement` has run in a new process."""
    script = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split())


def test_the_arrows_run_one_way() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_private_names_of_dagster_are_imported_in_one_file_only() -> None:
    private = re.compile(r"dagster\w*\..*\b_(?!_)")
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "_compat.py"
        for name in imported(path)
        if private.match(name)
    }
    assert found == set()


def test_the_demo_pipeline_knows_nothing_of_security() -> None:
    found = {
        name
        for path in (PACKAGE / "demo").rglob("pipeline*")
        if path.suffix == ".py"
        for name in imported(path)
        if name.partition(".")[0] == "mlsec_dagster" and not name.startswith("mlsec_dagster.demo")
    }
    assert found == set()


def test_every_public_name_resolves() -> None:
    import mlsec_dagster

    assert mlsec_dagster.__all__
    for name in mlsec_dagster.__all__:
        assert getattr(mlsec_dagster, name) is not None
        assert name in dir(mlsec_dagster)


def test_importing_the_package_loads_no_dagster() -> None:
    assert "dagster" not in loaded_by("import mlsec_dagster")


def test_domain_packages_load_neither_dagster_nor_a_table_library() -> None:
    loaded = loaded_by(
        "import mlsec_dagster.integrity, mlsec_dagster.storage, mlsec_dagster.audit.ocsf, mlsec_dagster.audit.sources.cloudtrail"
    )
    assert loaded & {"dagster", "dagster_shared", "pyarrow", "pandas", "polars", "duckdb", "numpy", "ibis"} == set()


def test_a_dagster_library_never_comes_without_a_floor() -> None:
    wanted = [*PROJECT["dependencies"], *(each for extra in PROJECT["optional-dependencies"].values() for each in extra)]
    assert [each for each in wanted if each.startswith("dagster") and ">=" not in each] == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_locks_pin_everything_with_hashes_and_name_no_index(lock: Path) -> None:
    text = re.sub(r"\\\n\s*", "", lock.read_text())
    entries = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert entries
    assert [line for line in entries if not re.match(r"[a-z0-9.-]+(\[[a-z0-9,-]+\])?==\S+ .*--hash=sha256:[0-9a-f]{64}", line)] == []
    assert "://" not in text


def test_the_demo_and_the_tests_run_on_the_same_versions() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^[a-z0-9.-]+==[^\s;]+", (ROOT / "requirements" / name).read_text(), re.MULTILINE))

    assert pins("demo.lock") - pins("dev.lock") == set()


def test_tracked_files_name_no_home_no_checkout_and_no_package_index() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a clone: which files are tracked is its knowledge")
    config = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    settings = config + "\n".join(
        value for name, value in os.environ.items() if re.search("index_url|find_links|registry", name, re.IGNORECASE)
    )
    hosts = set(re.findall(r"//(?:[^/@\s'\"]+@)?([\w.-]+\.[\w.-]+)", settings))
    places = {str(place) for place in (ROOT, Path.home()) if len(place.parts) > 1}
    words = "|".join(re.escape(word) for word in sorted(hosts | places))
    forbidden = re.compile(rf"/(?:home|Users|roo[t])/\w|--(?:extra-)?index-ur[l]|(?<![\w.-])(?:{words or '(?!)'})(?![\w-])")

    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    found = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name in filter(None, tracked)
        if (ROOT / name).is_file()
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if forbidden.search(line)
    ]
    assert found == []
