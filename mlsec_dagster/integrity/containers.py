"""Table files: Parquet, Feather, CSV, and directories of them as Spark writes them.

A container is told by its first and last bytes, never by its name alone, and is read through one descriptor, so that what is read
is one file even if its name is given to another meanwhile.
"""

# pyarrow brings no types of its own, so what comes out of it is unknown to a type checker.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import os
import stat
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlsec_dagster.errors import UnverifiableError
from mlsec_dagster.integrity.files import open_unchanging
from mlsec_dagster.integrity.limits import Limits, Meter
from mlsec_dagster.integrity.logical import canonical_type, same_family, type_text
from mlsec_dagster.integrity.readers import Source, Wanted

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["parquet", "csv", "feather"]


def table_format(path: str | os.PathLike[str]) -> Format | None:
    """Says which kind of table a regular file holds, by its content; None when it is none that is known.

    CSV has no mark of its own: a file named `.csv` or `.tsv` whose beginning is text counts as one.

    Raises:
        UnverifiableError: The file is missing or unreadable.
    """
    with open_unchanging(path) as descriptor:
        return _format(descriptor, os.fspath(path))


def _format(descriptor: int, path: str) -> Format | None:
    size = os.fstat(descriptor).st_size
    head, tail = os.pread(descriptor, 4096, 0), os.pread(descriptor, 8, max(size - 8, 0))
    if head[:4] == b"PAR1" and tail[-4:] == b"PAR1" and size >= 12:
        return "parquet"
    if head[:6] == b"ARROW1" and tail[-6:] == b"ARROW1":
        return "feather"
    if path.lower().endswith((".csv", ".tsv")) and b"\0" not in head:
        return "csv"
    return None


@contextmanager
def opened(path: str, limits: Limits, wanted: Wanted) -> Generator[Source, None, None]:
    """Opens a table file, or a directory of parts that are read in the order of their names."""
    if Path(path).is_dir() and not Path(path).is_symlink():
        parts = table_parts(path)
        meter = Meter(path, limits, sum(part.stat().st_size for part in parts))
        with _opened_file(parts[0], meter, wanted) as first:
            names, types, losses = first.names, first.types, list(first.losses)
        whole = Source(path, names, types, iter(()), meter, losses)
        whole.batches = _read_parts(parts, whole, wanted)
        yield whole
    else:
        with open_unchanging(path) as descriptor:
            size = os.fstat(descriptor).st_size
        with _opened_file(Path(path), Meter(path, limits, size), wanted) as source:
            yield source


def table_parts(path: str | os.PathLike[str]) -> list[Path]:
    """Returns the data files of a directory in reading order: sorted by path, without names that begin with "." or "_".

    Raises:
        UnverifiableError: There are none; something is neither file nor directory; or a directory is a partition column
            ("month=1"), whose values are not in the files.
    """
    root, parts, directories = Path(path), list[Path](), [Path(path)]
    while directories:
        directory = directories.pop()
        for child in directory.iterdir():
            if child.name.startswith((".", "_")):
                continue
            mode = child.lstat().st_mode
            if stat.S_ISDIR(mode):
                if "=" in child.name:
                    raise UnverifiableError(
                        f"{child}: a partition column's values are in no file, so {root} cannot be read as one table; verify it as files"
                    )
                directories.append(child)
            elif stat.S_ISREG(mode):
                parts.append(child)
            else:
                raise UnverifiableError(f"{child} is neither a regular file nor a directory; remove it from {root}")
    if not parts:
        raise UnverifiableError(f"{root} holds no table file; materialize it again")
    return sorted(parts, key=lambda part: part.relative_to(root).as_posix().encode("utf-8", "surrogateescape"))


def _read_parts(parts: Sequence[Path], whole: Source, wanted: Wanted) -> "Iterator[tuple[Sequence[pa.Array[Any]], int]]":
    expected = [canonical_type(kind, name) for name, kind in zip(whole.names, whole.types, strict=True)]
    for part in parts:
        with _opened_file(part, whole.meter, wanted) as source:
            found = [canonical_type(kind, name) for name, kind in zip(source.names, source.types, strict=True)]
            if source.names != whole.names or not all(same_family(ours, theirs) for ours, theirs in zip(found, expected, strict=True)):
                columns = ", ".join(f"{name} {type_text(kind)}" for name, kind in zip(source.names, found, strict=True))
                raise UnverifiableError(
                    f"{part} has other columns ({columns[:200]}) than {parts[0].name}; the parts of a table have one schema"
                )
            yield from source.batches
            whole.losses.extend(loss for loss in source.losses if loss not in whole.losses)


@contextmanager
def _opened_file(path: Path, meter: Meter, wanted: Wanted) -> Generator[Source, None, None]:
    import pyarrow as pa

    from mlsec_dagster.integrity import csv, feather, parquet

    with ExitStack() as stack:
        descriptor = stack.enter_context(open_unchanging(path))
        kind = _format(descriptor, str(path))
        if kind is None:
            size = os.fstat(descriptor).st_size
            what = (
                "is empty"
                if not size
                else f"({size:,} bytes) does not begin and end as Parquet or Feather do and is not named .csv or .tsv"
            )
            raise UnverifiableError(f"{path} {what}, so it cannot be read as a table; if it was cut short, materialize it again")
        # Arrow reads in several threads; through the descriptor's own path it does so without asking Python for each piece.
        own = f"/dev/fd/{descriptor}"
        file = stack.enter_context(pa.OSFile(own) if Path(own).exists() else pa.PythonFile(os.fdopen(os.dup(descriptor), "rb")))
        read = {"parquet": parquet.opened, "feather": feather.opened, "csv": csv.opened}[kind]
        yield read(file, str(path), meter, wanted)
