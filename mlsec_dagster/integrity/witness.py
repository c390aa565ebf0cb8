"""The witness: a place outside the database owner's reach that remembers which ledger he has shown before.

    witness = Witness("s3://audit-bucket/mlsec", interval_minutes=10)     # a bucket with object lock
    witness = Witness("/mnt/other-host/mlsec")

Checkpoints go there under names that are written once: `<year>-<month>/<size>-<root>.txt`. Two files of one size are a fork;
a size that the ledger does not reach is a rollback. One witness belongs to one ledger. The witness needs no key and proves
nothing by itself: what lies there counts only as far as a trusted key has signed it.
"""

import os
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from mlsec_dagster.errors import ConfigurationError, LedgerError, StoreError
from mlsec_dagster.integrity.checkpoints import Checkpoint, parse_checkpoint

_NAME: Final = re.compile(r"(?P<month>\d{4}-\d{2})/(?P<size>\d{20})-(?P<root>[0-9a-f]{64})\.txt\Z")
_MAX_NOTE: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Witnessed:
    """One remembered checkpoint, by its name alone. `Witness.read` gives the signed note.

    Attributes:
        size: Entries.
        root: Root over them.
        path: Where it lies.
        at: When the witness stored it, seconds since the epoch by the witness's clock, if the witness tells.
    """

    size: int
    root: bytes
    path: str
    at: float | None


class Witness:
    """Checkpoints at a directory or any fsspec URI.

    Args:
        uri: Directory or fsspec URI (`s3://`, `gs://`, `abfs://`, …). Its credentials come from the environment.
        interval_minutes: `Ledger.witness_if_due` publishes at most this often.
        options: Passed to the fsspec file system.
    """

    def __init__(self, uri: str | os.PathLike[str], *, interval_minutes: float = 10, options: Mapping[str, Any] | None = None) -> None:
        self.uri = os.fspath(uri)
        self.interval_seconds = interval_minutes * 60
        self._options = dict(options or {})
        if not self.uri:
            raise ConfigurationError("The witness needs a directory or a URI such as s3://bucket/prefix.")
        local = self.uri.removeprefix("file://")
        self._directory = None if "://" in local else Path(local)

    def __repr__(self) -> str:
        return f"Witness({self.name!r})"

    @property
    def name(self) -> str:
        """The address without user and password."""
        return re.sub(r"(?<=://)[^/@]*@", "***@", self.uri)

    def publish(self, checkpoint: Checkpoint) -> None:
        """Remember a checkpoint. One that is there already is left as it is.

        Raises:
            StoreError: The witness cannot be written.
        """
        month = datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m")
        name, data = f"{checkpoint.size:020d}-{checkpoint.root.hex()}.txt", checkpoint.note.encode()
        try:
            if self._directory is not None:
                _write_once(self._directory / month / name, data)
                return
            system, base = self._system()
            path = f"{base}/{month}/{name}"
            try:
                system.pipe_file(path, data, mode="create")
            except FileExistsError:
                return
            except (NotImplementedError, TypeError, ValueError):  # File systems that cannot say "only if it is not there".
                if not system.exists(path):
                    system.pipe_file(path, data)
        except Exception as error:  # Every file system has errors of its own.
            raise self._unreachable("written", error) from error

    def newest(self) -> list[Witnessed]:
        """The largest checkpoints of the latest month: usually one, several if there was a fork.

        Raises:
            StoreError: The witness cannot be read.
        """
        recent = self._list(latest_only=True)
        largest = max((seen.size for seen in recent), default=0)
        return [seen for seen in recent if seen.size == largest]

    def all(self) -> list[Witnessed]:
        """Everything that the witness remembers, by size.

        Raises:
            StoreError: The witness cannot be read.
        """
        return sorted(self._list(latest_only=False), key=lambda seen: (seen.size, seen.root))

    def read(self, seen: Witnessed) -> Checkpoint | None:
        """The signed checkpoint behind a name, or None if the file is not the checkpoint that its name says.

        Raises:
            StoreError: The witness cannot be read.
        """
        try:
            if self._directory is not None:
                with open(seen.path, "rb") as file:
                    data = file.read(_MAX_NOTE)
            else:
                data = bytes(self._system()[0].cat_file(seen.path, end=_MAX_NOTE))
        except Exception as error:
            raise self._unreachable("read", error) from error
        try:
            checkpoint = parse_checkpoint(data.decode())
        except (LedgerError, UnicodeDecodeError):
            return None
        return checkpoint if (checkpoint.size, checkpoint.root) == (seen.size, seen.root) else None

    def _list(self, *, latest_only: bool) -> list[Witnessed]:
        try:
            if self._directory is not None:
                return list(_local_names(self._directory, latest_only))
            system, base = self._system()
            system.invalidate_cache()
            if not system.exists(base):
                return []
            folders = sorted(path for path in system.ls(base, detail=False) if re.search(r"/\d{4}-\d{2}/?\Z", path))
            found: list[Witnessed] = []
            for folder in folders[-1:] if latest_only else folders:
                for info in system.ls(folder, detail=True):
                    if match := _NAME.search(info["name"]):
                        found.append(Witnessed(int(match["size"]), bytes.fromhex(match["root"]), info["name"], _stored_at(info)))
            return found
        except Exception as error:
            raise self._unreachable("read", error) from error

    def _system(self) -> tuple[Any, str]:
        try:
            from fsspec.core import url_to_fs  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
        except ImportError as error:
            raise StoreError(f"The witness {self.name} needs the package fsspec and the driver of its scheme ({error}).") from error
        system, base = url_to_fs(self.uri, **self._options)  # pyright: ignore[reportUnknownVariableType]
        return system, str(base).rstrip("/")  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]

    def _unreachable(self, verb: str, error: Exception) -> StoreError:
        if isinstance(error, StoreError):
            return error
        reason = re.sub(r"(?<=://)[^/@\s]*@", "***@", " ".join(f"{type(error).__name__}: {error}".split()))
        return StoreError(
            f"The witness {self.name} cannot be {verb} ({reason}). "
            "The ledger is complete, but a rollback cannot be excluded until the witness is back."
        )


def _write_once(target: Path, data: bytes) -> None:
    """Complete or not at all, and never over what is there."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.parent / f".{secrets.token_hex(8)}"
    try:
        with open(beside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def _local_names(directory: Path, latest_only: bool) -> list[Witnessed]:
    if not directory.exists():
        return []
    folders = sorted(path for path in directory.iterdir() if re.fullmatch(r"\d{4}-\d{2}", path.name))
    found: list[Witnessed] = []
    for folder in folders[-1:] if latest_only else folders:
        for file in os.scandir(folder):
            if match := _NAME.search(f"{folder.name}/{file.name}"):
                found.append(Witnessed(int(match["size"]), bytes.fromhex(match["root"]), file.path, file.stat().st_mtime))
    return found


def _stored_at(info: Mapping[str, Any]) -> float | None:
    for name in ("LastModified", "last_modified", "mtime", "updated", "created"):
        value = info.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, str):
            try:
                return datetime.fromisoformat(value).timestamp()
            except ValueError:
                continue
    return None
