"""Where a window lies, and how a query gets there: files and tables in memory through an own DuckDB, everything else where it is.

Whatever it is, columns are renamed by their position, so that no name that comes from the data is ever part of a query. What only Arrow
can read as the manifest does (CSV, Feather, frames with types that DuckDB does not know) is read by `integrity.readers`. Of that, and of
Parquet files, what is small is held in memory and asked no queries at all (`Held`); what is not is put down once as Parquet in a private
folder, because a window is gone over several times. What a file or a table would unfold to is told before it does (`unfolding`).
"""

# Ibis, DuckDB and pyarrow bring no types of their own, so what comes out of them is unknown to a type checker.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from mlsec_dagster.errors import LimitExceededError, MissingExtraError, MlsecError, UnverifiableError
from mlsec_dagster.integrity import containers, readers
from mlsec_dagster.integrity.files import open_unchanging
from mlsec_dagster.integrity.limits import DEFAULT_LIMITS, Limits, Meter
from mlsec_dagster.integrity.logical import canonical_type, parse_type, type_text
from mlsec_dagster.stability.connections import connected, private_folder, streamer
from mlsec_dagster.stability.conversion import converted, known
from mlsec_dagster.stability.unfolding import may_unfold, pieces, weigh

if TYPE_CHECKING:
    import pyarrow as pa

SMALL_BYTES: Final = 50 << 20
SMALL_CELLS: Final = 4_000_000
"""Up to here a window is held in memory, where counting it is faster than asking an engine."""


@dataclass(frozen=True)
class Held:
    """A small window, whole.

    Attributes:
        name: What it is called in messages.
        names: Column names, in order; they need not differ.
        types: The canonical Arrow type of each column as text.
        table: Its rows, with the columns `c0`, `c1`, … in types as `conversion.known` has them.
    """

    name: str
    names: tuple[str, ...]
    types: tuple[str, ...]
    table: "pa.Table"


@dataclass(frozen=True)
class Window:
    """A table that answers queries.

    Attributes:
        name: What it is called in messages.
        names: Column names, in order; they need not differ.
        types: The canonical Arrow type of each column as text.
        table: An Ibis table with the columns `c0`, `c1`, …
        engine: Ibis' name of the backend.
        stream: Runs an Ibis expression and yields its result in Arrow batches.
    """

    name: str
    names: tuple[str, ...]
    types: tuple[str, ...]
    table: Any
    engine: str
    stream: "Callable[[Any], pa.RecordBatchReader]"

    def batches(self, expression: Any) -> "Iterator[pa.RecordBatch]":
        """Runs an expression.

        Raises:
            UnverifiableError: The engine failed. What it said may quote data, so only the kind of its error is passed on.
        """
        try:
            yield from self.stream(expression)
        except MlsecError:
            raise
        except Exception as error:  # every backend raises its own
            raise UnverifiableError(_failed(self.engine, self.name, error)) from None

    def rows(self, expression: Any) -> list[dict[str, Any]]:
        """Runs an expression of a few rows."""
        return [row for batch in self.batches(expression) for row in batch.to_pylist()]


def _failed(engine: str, name: str, error: Exception) -> str:
    kind = type(error).__name__
    why = "it needs more memory than it may use" if "memory" in kind.lower() else "look at it with the engine's own tools"
    return f"{engine} could not measure {name} ({kind}); {why}"


@contextmanager
def opened(source: Any, limits: Limits = DEFAULT_LIMITS, types: Mapping[str, str] | None = None) -> Generator[Window | Held, None, None]:
    """Opens a window for several queries.

    Args:
        source: A path (Parquet, CSV, Feather, or a directory of such parts), a table in memory as `integrity.readers.reading` takes it
            (what can be read only once is read once), a DuckDB relation, or an Ibis table.
        limits: Bounds for files, checked on their metadata before anything is decoded.
        types: By name, the type of each column as text, for CSV, which has none. They are guessed from its beginning otherwise. If the file
            does not hold them, all of its columns are texts.

    Raises:
        UnverifiableError: It is no table, is damaged, or changed while it was read.
        LimitExceededError: It asks for more than the limits allow.
        MissingExtraError: The library of an Ibis backend is not installed.
    """
    with ExitStack() as stack:
        if type(source).__module__.startswith("ibis."):
            yield _of_ibis(_ibis(), source)
        elif _is_relation(source):
            yield _of_relation(_ibis(), source)
        elif isinstance(source, str | os.PathLike):
            yield _of_path(stack, os.fspath(cast("os.PathLike[str]", source)), limits, types)
        else:  # a table in memory, an iterable of record batches, or refused there with a sentence
            yield _of_arrow(stack, source, limits)


def _ibis() -> Any:
    try:
        import ibis
    except ImportError as error:  # a core dependency, but Ibis imports its backends late
        raise MissingExtraError("measuring a table needs Ibis; install mlsec-dagster again, with its dependencies") from error
    return ibis


def _is_relation(source: Any) -> bool:
    return hasattr(source, "query") and hasattr(source, "limit") and "duckdb" in type(source).__module__


def _of_ibis(ibis: Any, table: Any) -> Window:
    try:
        backend = ibis.get_backend(table)
    except (ImportError, ModuleNotFoundError) as error:
        raise MissingExtraError("the Ibis backend of this table is not installed; install mlsec-dagster[spark] for Spark") from error
    except ibis.IbisError as error:
        raise UnverifiableError("the Ibis table belongs to no connection; pass one that a backend knows") from error
    engine = str(backend.name)
    names, types = _described(table.schema())

    def stream(expression: Any) -> Any:
        return backend.to_pyarrow(expression).to_reader()

    return Window(f"the {engine} table", names, types, _by_position(table), engine, stream)


def _described(schema: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names = tuple(str(name) for name in schema.names)
    types: list[str] = []
    for kind in schema.types:
        try:
            types.append(_text(kind.to_pyarrow()))
        except Exception:  # a type that Arrow has no word for: the engine's own
            types.append(str(kind.copy(nullable=True)))
    return names, tuple(types)


def _text(kind: "pa.DataType") -> str:
    try:
        return type_text(canonical_type(kind))
    except UnverifiableError:
        return str(kind)


def _by_position(table: Any) -> Any:
    return table.select(**{f"c{position}": table[name] for position, name in enumerate(table.columns)})


def _of_relation(ibis: Any, relation: Any) -> Window:
    try:
        schema = ibis.Schema.from_pyarrow(relation.limit(0).to_arrow_table().schema)
    except Exception as error:
        raise UnverifiableError(_failed("duckdb", "the relation", error)) from None
    names, types = _described(schema)

    def stream(expression: Any) -> Any:
        return relation.query("mlsec_rows", str(ibis.to_sql(expression, dialect="duckdb"))).to_arrow_reader(65_536)

    return Window("the DuckDB relation", names, types, _by_position(ibis.table(schema, name="mlsec_rows")), "duckdb", stream)


def _of_path(stack: ExitStack, path: str, limits: Limits, types_of: Mapping[str, str] | None) -> Window | Held:
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory = Path(path).is_dir() and not Path(path).is_symlink()
    parts = containers.table_parts(path) if directory else [Path(path)]
    formats = {containers.table_format(part) for part in parts}
    if formats == {"csv"}:
        return _of_csv(stack, path, parts[0], limits, types_of)
    if formats != {"parquet"}:
        return _of_arrow(stack, path, limits)
    # Opening checks what each part announces against the limits, and that it is the same file when all has been read.
    with readers.reading(path, limits, _as_found) as source:
        names, kinds = tuple(source.names), list(source.types)
    if not names:
        raise UnverifiableError(f"{path} has no columns; there is nothing to measure")
    meter, rows, texts = Meter(path, limits, sum(part.stat().st_size for part in parts)), 0, 0
    for number, part in enumerate(parts):
        if number < _DESCRIPTORS:
            stack.enter_context(open_unchanging(part))
        try:
            announced = pq.read_metadata(part)
        except (pa.ArrowException, OSError) as error:
            raise UnverifiableError(f"{part} cannot be read any more ({type(error).__name__})") from None
        rows += announced.num_rows
        meter.add(announced.num_rows, sum(announced.row_group(group).total_byte_size for group in range(announced.num_row_groups)))
        texts += may_unfold(announced)
    small = rows * len(names) <= SMALL_CELLS
    # What is small in cells is read piece by piece and counted; asking first is for what would take long until it is too much.
    if not small or texts > limits.ratio_from:
        weigh(parts, meter)
    if small:
        return _of_arrow(stack, path, limits)
    return _of_parquet(_ibis(), stack, path, parts, names, tuple(_text(kind) for kind in kinds))


def _of_parquet(ibis: Any, stack: ExitStack, path: str, parts: Sequence[Path], names: tuple[str, ...], types: tuple[str, ...]) -> Window:
    connection, links = connected(stack, parts)
    try:
        table = ibis.duckdb.from_connection(connection).read_parquet(links)
    except Exception as error:
        raise UnverifiableError(_failed("duckdb", path, error)) from None
    if len(table.columns) != len(names):
        raise UnverifiableError(f"{path} has columns that DuckDB reads otherwise than Arrow; write it again with plain types")
    return Window(path, names, types, _by_position(table), "duckdb", streamer(ibis, connection))


_DESCRIPTORS = 200


def _as_found(names: Sequence[str]) -> "list[pa.DataType | None]":
    return [None] * len(names)


def _of_csv(stack: ExitStack, path: str, first: Path, limits: Limits, types: Mapping[str, str] | None) -> Window | Held:
    import pyarrow as pa
    import pyarrow.csv as pacsv

    if types is None:
        parse = pacsv.ParseOptions(delimiter="\t" if first.suffix.lower() == ".tsv" else ",")
        try:
            with pacsv.open_csv(first, parse_options=parse) as guess:
                types = {field.name: _text(field.type) for field in guess.schema if not pa.types.is_null(field.type)}
        except (pa.ArrowException, OSError, UnicodeDecodeError):
            types = {}  # read below, where its damage is put into a sentence
    kinds = {name: _parsed(text) for name, text in types.items()}

    def wanted(names: Sequence[str]) -> "list[pa.DataType | None]":
        return [kinds.get(name) for name in names]

    try:
        return _of_arrow(stack, path, limits, wanted)
    except LimitExceededError:
        raise
    except MlsecError:
        return _of_arrow(stack, path, limits)


def _parsed(text: str) -> "pa.DataType | None":
    try:
        return parse_type(text)
    except UnverifiableError:
        return None


def _of_arrow(stack: ExitStack, source: Any, limits: Limits, wanted: "readers.Wanted" = _as_found) -> Window | Held:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kept: list[pa.RecordBatch] = []
    size, cells = 0, 0
    writer: pq.ParquetWriter | None = None
    spool: Path | None = None
    with readers.reading(source, limits, wanted) as opening:
        name, names, types = opening.name, tuple(opening.names), tuple(_text(kind) for kind in opening.types)
        if not names:
            raise UnverifiableError(f"{name} has no columns; there is nothing to measure")
        schema = pa.schema([pa.field(f"c{position}", known(kind)) for position, kind in enumerate(opening.types)])
        for arrays, rows in _in_pieces(opening, measured=not isinstance(source, str | os.PathLike)):
            columns = [converted(array, field.type) for array, field in zip(arrays, schema, strict=True)]
            batch = pa.RecordBatch.from_arrays(columns, schema=schema)
            size, cells = size + batch.nbytes, cells + rows * len(names)
            kept.append(batch)
            if size > SMALL_BYTES or cells > SMALL_CELLS:
                if writer is None:
                    spool = private_folder(stack) / "window.parquet"
                    writer = stack.enter_context(pq.ParquetWriter(spool, schema, compression="lz4"))
                for each in kept:
                    writer.write_batch(each, row_group_size=122_880)
                kept = []
    if writer is None or spool is None:
        return Held(name, names, types, pa.Table.from_batches(kept, schema))
    writer.close()
    return _of_parquet(_ibis(), stack, name, [spool], names, types)


def _in_pieces(opening: readers.Source, *, measured: bool) -> "Iterator[tuple[Sequence[pa.Array[Any]], int]]":
    """The rows, in pieces that may be unfolded; `measured`: the source has no size of its own, but that of its arrays."""
    for arrays, rows in opening.batches:
        if measured:
            opening.meter.encoded = (opening.meter.encoded or 0) + sum(array.nbytes for array in arrays)
        yield from pieces(arrays, rows, opening.meter)
