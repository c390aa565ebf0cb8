"""Files that are missing, damaged, of another kind or swapped at the worst moment: what was not sealed is never used."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

import mlsec_dagster as mlsec
from tests.faults.claims import (
    RAW,
    assert_blocked_between_write_and_check,
    assert_check_fails,
    assert_clean,
    assert_refused_at_read,
    evaluation_of,
    said,
)
from tests.guard.projects import RAN, ParquetIOManager, Project, flights, parquet_project

pytestmark = pytest.mark.timeout(60)


def _symlink_to_itself_elsewhere(path: Path) -> None:
    """The very same bytes, but from now on somebody else decides what they are."""
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def _dangling_symlink(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_suffix(".nowhere"))


def _symlink_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _directory_with_the_file_in_it(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.mkdir()
    (path / path.name).write_bytes(data)


def _empty_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            child.unlink()
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


ATTACKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda path: path.unlink(), "nothing is stored for it"),
    "empty": (lambda path: path.write_bytes(b""), "raw is not what"),
    "truncated": (lambda path: os.truncate(path, path.stat().st_size // 2), "raw is not what"),
    "another kind": (lambda path: path.write_bytes(b"carrier,distance\nUA,1\n"), "raw is not what"),
    "no rows left": (lambda path: flights(0).to_parquet(path), "raw is not what"),
    "symlink to the same bytes": (_symlink_to_itself_elsewhere, "a symbolic link"),
    "dangling symlink": (_dangling_symlink, "a symbolic link"),
    "symlink loop": (_symlink_loop, "a symbolic link"),
    "fifo": (_fifo, "a FIFO"),
    "directory with the file in it": (_directory_with_the_file_in_it, "raw is not what"),
    "empty directory": (_empty_directory, "raw is not what"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_stands_in_place_of_a_sealed_file_is_refused_everywhere_and_heals(
    instance: dg.DagsterInstance, tmp_path: Path, name: str
) -> None:
    attack, says = ATTACKS[name]
    path = tmp_path / "raw.parquet"
    project = parquet_project(tmp_path, instance)
    assert_clean(project)

    attack(path)
    assert_refused_at_read(project, says)
    assert_check_fails(project, says)
    _clear(path)
    assert_blocked_between_write_and_check(project, lambda: attack(path), says)
    _clear(path)
    assert_clean(project)
