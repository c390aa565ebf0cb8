"""IO managers that keep files at paths: `UPathIOManager` and everything built on it, local or behind fsspec."""

from __future__ import annotations

import copy
import errno
import inspect
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from mlsec_dagster import _compat
from mlsec_dagster.errors import UnverifiableError
from mlsec_dagster.integrity.files import copy_and_hash
from mlsec_dagster.integrity.manifest import FileEntry, Manifest
from mlsec_dagster.io_managers.storage import Stored, Subject, Verify, load_between_verifications

INNER = ("inner_io_manager", "_internal_io_manager")
"""Methods and properties under which the cloud packages' configurable IO managers keep the manager that does the work."""


def inner_manager(manager: Any) -> Any:
    """The manager that does the work inside a configurable one of the cloud packages; any other is its own."""
    for name in INNER:
        inner = getattr(manager, name, None)
        if inner is not None:
            return inner() if callable(inner) else inner
    return manager


class PathStorage:
    """A `UPathIOManager`: files at paths, local or behind fsspec.

    Each path is copied to a private directory while it is hashed, and the IO manager is handed the copy: whatever happens to the
    original from then on, what is deserialised is what was verified.
    """

    how = "a private copy, hashed while it is copied, is what the IO manager reads"

    def __init__(self, manager: Any, upath_manager: _compat.UPathIOManager) -> None:
        self._manager = manager
        self._upath_manager = upath_manager
        self._private = Path(tempfile.mkdtemp(prefix="mlsec-"))
        # Lazy frames read their file only after load_input has returned, so copies live as long as the IO manager does.
        weakref.finalize(self, shutil.rmtree, self._private, ignore_errors=True)
        self._copies = 0

    def _path(self, subject: Subject) -> Any:
        return _compat.upath_locations(self._upath_manager, subject.context())[subject.partition]

    def pickles_at(self, subject: Subject, location: str) -> bool:
        """Whether `location` is where this IO manager keeps the subject, as a pickle of Dagster's own kind."""
        return _pickles(self._upath_manager) and str(self._path(subject)) == location

    def _fetch(self, path: Any) -> tuple[tuple[FileEntry, ...], Path]:
        """Digests of what lies at `path`, and the private copy of exactly those bytes."""
        self._copies += 1
        target = self._private / str(self._copies) / path.name
        target.parent.mkdir(mode=0o700)
        if not path.exists() and not _is_link(path):
            raise _nothing_at(path)
        if _is_local(path):
            return copy_and_hash(Path(str(path)), target), target
        fetched = target.with_name(target.name + ".fetched")
        path.fs.get(path.path, str(fetched), recursive=path.fs.isdir(path.path))
        try:
            return copy_and_hash(fetched, target), target
        finally:
            shutil.rmtree(fetched) if fetched.is_dir() else fetched.unlink()

    @contextmanager
    def examine(self, subject: Subject) -> Iterator[Stored | None]:
        path = self._path(subject)
        try:
            entries, copied = self._fetch(path)
        except FileNotFoundError:
            yield None
            return
        try:
            yield Stored(Manifest(files=entries), copied, str(path), pickled=_pickles(self._upath_manager))
        finally:
            shutil.rmtree(copied.parent, ignore_errors=True)

    def _read_copy(self, original: Any, context: dg.InputContext, path: Any, copied: Path) -> Any:
        return original.load_from_path(context=context, path=type(path)(copied) if isinstance(path, Path) else _local_path(copied))

    def load(self, context: dg.InputContext, subjects: Mapping[str | None, Subject], verify: Verify) -> Any:
        partition_of = {str(self._path(subject)): partition for partition, subject in subjects.items()}
        original = self._upath_manager

        def verified_copy(path: Any) -> Path:
            if str(path) not in partition_of:
                if not path.exists():
                    raise _nothing_at(path)
                raise UnverifiableError(f"The IO manager reads {path}, which is not where any sealed partition lies, so it was not loaded.")
            partition = partition_of[str(path)]
            try:
                entries, copied = self._fetch(path)
            except FileNotFoundError:
                verify(partition, None)
                raise
            verify(partition, Stored(Manifest(files=entries), copied, str(path)))
            return copied

        async def load_later(context: dg.InputContext, path: Any) -> Any:
            return await self._read_copy(original, context, path, verified_copy(path))

        def load_now(context: dg.InputContext, path: Any) -> Any:
            return self._read_copy(original, context, path, verified_copy(path))

        # The base class asks of the function itself whether it is to be awaited.
        load_from_path = load_later if inspect.iscoroutinefunction(original.load_from_path) else load_now
        if not _loads_path_by_path(original) or not _only_delegates(self._manager, original):
            return load_between_verifications(self, self._manager.load_input, context, subjects, verify)
        return _redirected(original, load_from_path).load_input(context)


def _nothing_at(path: Any) -> FileNotFoundError:
    """What `open` itself raises, so that a project that looks at the error sees the same as without a guard."""
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _is_local(path: Any) -> bool:
    return getattr(path, "protocol", "") in ("", "file", "local")


def _is_link(path: Any) -> bool:
    """A link that leads nowhere is something that lies there, and copying it says why it is refused."""
    return _is_local(path) and Path(str(path)).is_symlink()


def _local_path(path: Path) -> Any:
    from upath import UPath

    return UPath(path)


def _pickles(manager: Any) -> bool:
    """Whether an IO manager writes and reads pickles in Dagster's own way, so that its files hold nothing that some other party wrote."""
    cls = type(manager)
    own = all(getattr(cls, name).__module__.startswith(("dagster.", "dagster_")) for name in ("dump_to_path", "load_from_path"))
    return own and any(base.__name__.startswith("PickledObject") for base in cls.__mro__)


def _loads_path_by_path(manager: Any) -> bool:
    """Whether every byte goes through `load_from_path`, as in the base class; a manager that scans several files at once does not."""
    cls, base = type(manager), _compat.UPathIOManager
    return all(getattr(cls, name) is getattr(base, name) for name in ("load_partitions", "load_partitions_async", "load_input"))


def _only_delegates(manager: Any, inner: Any) -> bool:
    """Whether loading through the outer manager is loading through its inner one: a user's subclass may do more."""
    return manager is inner or type(manager).load_input.__module__.startswith("dagster_")


def _redirected(manager: Any, load_from_path: Callable[..., Any]) -> Any:
    """A copy of an IO manager whose reads of a path go through `load_from_path`; the original stays as it was."""
    clone = copy.copy(manager)
    object.__setattr__(clone, "load_from_path", load_from_path)
    return clone
