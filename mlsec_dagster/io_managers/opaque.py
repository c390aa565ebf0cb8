"""IO managers of a kind that we do not know: verified at the path that they report, else by the value that they load."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import dagster as dg

from mlsec_dagster.errors import UnverifiableError
from mlsec_dagster.integrity.files import copy_and_hash
from mlsec_dagster.integrity.manifest import Manifest
from mlsec_dagster.integrity.readers import is_table
from mlsec_dagster.integrity.tables import table_grid
from mlsec_dagster.io_managers.storage import Stored, Subject, Verify, load_between_verifications

LOCATION_KEYS = ("dagster/uri", "path", "uri")
"""Metadata keys under which an IO manager or an asset reports where it wrote, in the order in which they are believed."""


def reported_location(metadata: Mapping[str, Any]) -> str | None:
    """Where metadata says that the data lies, or None."""
    by_name = {name.lower(): value for name, value in metadata.items()}  # "Path" is as common as "path"
    for key in LOCATION_KEYS:
        value = by_name.get(key)
        text = getattr(value, "value", value)
        if isinstance(text, str) and text:
            return text
    return None


@contextmanager
def private_copy(location: str, *, pickled: bool = False) -> Iterator[Stored | None]:
    """What lies at a path or URI, copied to a private directory while it is hashed; None if nothing does. `pickled` as for `Stored`."""
    private = Path(tempfile.mkdtemp(prefix="mlsec-"))
    try:
        if location.startswith("file://"):
            source = Path(location.removeprefix("file://"))
        elif "://" in location:
            import fsspec

            filesystem, path = fsspec.core.url_to_fs(location)
            if not filesystem.exists(path):
                yield None
                return
            source = private / "fetched"
            filesystem.get(path, str(source), recursive=filesystem.isdir(path))
        else:
            source = Path(location)
        if not os.path.lexists(source):
            yield None
            return
        target = private / "copy" / (source.name or "data")
        target.parent.mkdir(mode=0o700)
        yield Stored(Manifest(files=copy_and_hash(source, target)), target, location, pickled=pickled)
    finally:
        shutil.rmtree(private, ignore_errors=True)


def resolved_place(resolved: Any, row_key: Callable[[], bytes]) -> AbstractContextManager[Stored | None]:
    """What lies where a resolver says: at a path, at a URI, or as a table of a database."""
    if isinstance(resolved, str) or hasattr(resolved, "__fspath__"):
        return private_copy(str(resolved))
    from mlsec_dagster.integrity.warehouse import multiset_digest

    return nullcontext(Stored(Manifest(multiset=multiset_digest(resolved, row_key())), None, None, relation=resolved))


class OpaqueStorage:
    """An IO manager (or input manager) that decides by itself where and how it stores.

    If it reports a location in its output metadata, the files there are hashed before and after the read. If it does not, a table is
    verified by its values after they were loaded, which protects what comes after, not the act of deserialising.
    """

    how = "the files at the reported path are hashed before and after the read; without a path, the loaded values are verified"

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    @contextmanager
    def examine(self, subject: Subject) -> Iterator[Stored | None]:
        if subject.location is None:
            raise UnverifiableError(
                f"{type(self._manager).__name__} does not say where it stores {subject.asset_key.to_user_string()}: report a `path` in its "
                f"output metadata, build it on UPathIOManager, or pass resolver=."
            )
        with private_copy(subject.location) as stored:
            yield stored

    def load(self, context: dg.InputContext, subjects: Mapping[str | None, Subject], verify: Verify) -> Any:
        if all(subject.location for subject in subjects.values()):
            return load_between_verifications(self, self._manager.load_input, context, subjects, verify)
        value = self._manager.load_input(context)
        if len(subjects) != 1 or not is_table(value):
            raise UnverifiableError(
                f"{type(self._manager).__name__} does not say where it stores {context.asset_key.to_user_string()}, and a "
                f"{type(value).__name__} cannot be verified by value: report a `path` in its output metadata, or use UPathIOManager."
            )
        (partition,) = subjects
        verify(partition, Stored(Manifest(table=table_grid(value)), None, None))
        return value
