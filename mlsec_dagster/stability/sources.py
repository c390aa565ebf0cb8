"""Where a window lies, and how a query gets there: files and tables in memory through an own DuckDB, everything else where it is.

Whatever it is, columns are renamed by their position, so that no name that comes from the data is ever part of a query. What only Arrow
can read as the manifest does (CSV, Feather, frames with types that DuckDB does not know) is read by `integrity.readers` and, when it is
more than a little, put down once as Parquet in a private folder, because a window is gone over several times.
"""

# Ibis, DuckDB and pyarrow bring no types of their own, so what comes out of them is unknown to a type checker.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import os
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mlsec_dagster.errors import LimitExceededError, MissingExtraError, MlsecError, UnverifiableError
from mlsec_dagster.integrity import containers, readers
from mlsec_dagster.integrity.canonical import plain
from mlsec_dagster.integrity.files import open_unchanging
from mlsec_dagster.integrity.limits import DEFAULT_LIMITS, Limits, Meter
from mlsec_dagster.integrity.logical import canonical_type, item_type, parse_type, type_text

if TYPE_CHECKING:
    import pyarrow as pa

_MEMORY = "400MB"
_IN_MEMORY_BYTES = 64 << 20
_HEAD_ROWS = 20_000


@dataclass(frozen=True)
class Window:
    """A table that can be asked.

    Attributes:
        name: What it is called in messages.
        names: Column names, in order; they need not differ.
        types: The canonical Arrow type of each column as text.
        table: An Ibis table with the columns `c0`, `c1`, …
        engine: Ibis' name of the backend.
        stream: Runs an Ibis expression and yields its result in Arrow batches.
        head: The first rows in their order, with the columns of `table`; None where rows have no order.
    """

    name: str
    names: tuple[str, ...]
    types: tuple[str, ...]
    table: Any
    engine: str
    stream: "Callable[[Any], pa.RecordBatchReader]"
    head: "Callable[[], pa.Table] | None" = None

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
def opened(source: Any, limits: Limits = DEFAULT_LIMITS, types: Mapping[str, str] | None = None) -> Generator[Window, None, None]:
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
    try:
        import ibis
    except ImportError as error:  # a core dependency, but Ibis imports its backends late
        raise MissingExtraError("measuring a table needs Ibis; install mlsec-dagster again, with its dependencies") from error
    if isinstance(source, ibis.expr.types.Table):
        yield _of_ibis(ibis, source)
    elif isinstance(source, str | os.PathLike):
        with ExitStack() as stack:
            yield _of_path(ibis, stack, os.fspath(cast("os.PathLike[str]", source)), limits, types)
    elif readers.is_table(source) and not _is_relation(source):
        with ExitStack() as stack:
            yield _of_arrow(ibis, stack, source, limits)
    elif _is_relation(source):
        yield _of_relation(ibis, source)
    else:
        with ExitStack() as stack:  # an iterable of record batches, or refused there with a sentence
            yield _of_arrow(ibis, stack, source, limits)


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


def _of_path(ibis: Any, stack: ExitStack, path: str, limits: Limits, types_of: Mapping[str, str] | None) -> Window:
    import pyarrow.parquet as pq

    directory = Path(path).is_dir() and not Path(path).is_symlink()
    parts = containers.table_parts(path) if directory else [Path(path)]
    formats = {containers.table_format(part) for part in parts}
    if formats == {"csv"}:
        return _of_csv(ibis, stack, path, parts[0], limits, types_of)
    if formats != {"parquet"}:
        return _of_arrow(ibis, stack, path, limits)
    # Opening checks what each part announces against the limits, and that it is the same file when all has been read.
    with readers.reading(path, limits, _as_found) as source:
        names, kinds = tuple(source.names), list(source.types)
    folder = _private_folder(stack)
    meter = Meter(path, limits, sum(part.stat().st_size for part in parts))
    links: list[str] = []
    for number, part in enumerate(parts):
        if len(parts) <= _DESCRIPTORS:
            stack.enter_context(open_unchanging(part))
        announced = pq.read_metadata(part)
        meter.add(announced.num_rows, sum(announced.row_group(group).total_byte_size for group in range(announced.num_row_groups)))
        link = folder / f"{number}.parquet"
        link.symlink_to(part.absolute())
        links.append(str(link))
    types = tuple(_text(kind) for kind in kinds)
    if not names:
        raise UnverifiableError(f"{path} has no columns; there is nothing to measure")
    connection = _connection(stack, folder, links)
    backend = ibis.duckdb.from_connection(connection)

    def head() -> Any:
        file = pq.ParquetFile(parts[0])
        batch = next(file.iter_batches(_HEAD_ROWS, row_groups=[0]), None) if file.num_row_groups else None
        import pyarrow as pa

        table = pa.Table.from_batches([batch] if batch is not None else [], batch.schema if batch is not None else file.schema_arrow)
        return table.rename_columns([f"c{position}" for position in range(table.num_columns)])

    try:
        table = backend.read_parquet(links)
    except Exception as error:
        raise UnverifiableError(_failed("duckdb", path, error)) from None
    if len(table.columns) != len(names):
        raise UnverifiableError(f"{path} has columns that DuckDB reads otherwise than Arrow; write it again with plain types")
    return Window(path, names, types, _by_position(table), "duckdb", _streamer(ibis, connection), head)


_DESCRIPTORS = 200


def _as_found(names: Sequence[str]) -> "list[pa.DataType | None]":
    return [None] * len(names)


def _of_csv(ibis: Any, stack: ExitStack, path: str, first: Path, limits: Limits, types: Mapping[str, str] | None) -> Window:
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
        return _of_arrow(ibis, stack, path, limits, wanted)
    except LimitExceededError:
        raise
    except MlsecError:
        return _of_arrow(ibis, stack, path, limits)


def _parsed(text: str) -> "pa.DataType | None":
    try:
        return parse_type(text)
    except UnverifiableError:
        return None


def _of_arrow(ibis: Any, stack: ExitStack, source: Any, limits: Limits, wanted: "readers.Wanted" = _as_found) -> Window:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = _private_folder(stack)
    connection = _connection(stack, folder)
    backend = ibis.duckdb.from_connection(connection)
    kept: list[pa.RecordBatch] = []
    first: pa.Table | None = None
    size, writer, spool = 0, None, folder / "window.parquet"
    with readers.reading(source, limits, wanted) as opening:
        name, names, types = opening.name, tuple(opening.names), tuple(_text(kind) for kind in opening.types)
        if not names:
            raise UnverifiableError(f"{name} has no columns; there is nothing to measure")
        schema = pa.schema([pa.field(f"c{position}", _known(kind)) for position, kind in enumerate(opening.types)])
        for arrays, rows in opening.batches:
            columns = [_converted(array, field.type) for array, field in zip(arrays, schema, strict=True)]
            batch = pa.RecordBatch.from_arrays(columns, schema=schema)
            opening.meter.add(rows, sum(array.nbytes for array in arrays))
            size += batch.nbytes
            if writer is None:
                kept.append(batch)
                if size > _IN_MEMORY_BYTES:
                    writer = stack.enter_context(pq.ParquetWriter(spool, schema, compression="lz4"))
                    for held in kept:
                        writer.write_batch(held, row_group_size=122_880)
                    first = pa.Table.from_batches(kept[:1], schema)
                    kept = []
            else:
                writer.write_batch(batch, row_group_size=122_880)
    if writer is not None:
        writer.close()
        table = backend.read_parquet(str(spool))
    else:
        first = pa.Table.from_batches(kept, schema)
        connection.register("mlsec_window", first)
        table = backend.table("mlsec_window")
    return Window(name, names, types, table, "duckdb", _streamer(ibis, connection), lambda: cast("Any", first).slice(0, _HEAD_ROWS))


def _known(kind: "pa.DataType") -> "pa.DataType":
    """The type in which a column is handed to DuckDB; a boolean, true for each value, where it has none."""
    import pyarrow as pa
    import pyarrow.types as t

    try:
        found = canonical_type(kind)
    except UnverifiableError:
        return pa.bool_()
    if t.is_float16(found):
        return pa.float32()
    if t.is_duration(found):
        return pa.int64()
    if t.is_decimal256(found):
        return pa.float64()
    if t.is_nested(found):
        # What DuckDB does not know within it, it cannot be handed; then only its length is.
        inner = list(found) if t.is_struct(found) else [pa.field("item", item_type(found))]
        # Nor a map, whose keys it wants to differ.
        return found if inner and not t.is_map(found) and all(_known(field.type).equals(field.type) for field in inner) else pa.int64()
    if t.is_null(found):
        return pa.bool_()
    return pa.binary() if t.is_fixed_size_binary(found) else found


def _converted(values: "pa.Array[Any]", wanted: "pa.DataType") -> "pa.Array[Any]":
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as t

    if values.type.equals(wanted):
        return values
    try:
        dense = plain(values, "")
        if t.is_nested(dense.type) and t.is_integer(wanted):
            return lengths(dense)
        return dense.cast(wanted)
    except (pa.ArrowException, MlsecError):
        present = pc.is_valid(values)
        return pc.if_else(present, present, None).cast(wanted)


def lengths(values: "pa.Array[Any]") -> "pa.Array[Any]":
    """Returns the length (int64) of each list or map, and of each struct how many of its fields have a value; null stays null."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as t

    if t.is_map(values.type):
        values = values.cast(pa.list_(pa.struct([pa.field("key", values.type.key_type), pa.field("value", values.type.item_type)])))
    if not t.is_struct(values.type):
        return pc.list_value_length(values).cast(pa.int64())
    total = pa.array([0] * len(values), pa.int64())
    for child in values.flatten():
        total = pc.add(total, pc.is_valid(child).cast(pa.int64()))
    return pc.if_else(pc.is_valid(values), total, None)


def _private_folder(stack: ExitStack) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlsec-")))


def _connection(stack: ExitStack, folder: Path, files: Sequence[str] = ()) -> Any:
    """An own DuckDB that can reach one private folder, and what the links of these names in it lead to, and nothing else."""
    import duckdb

    settings: dict[str, Any] = {
        "memory_limit": _MEMORY,
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "temp_directory": str(folder / "spill"),
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "perfect_ht_threshold": 14,
    }
    connection = stack.enter_context(duckdb.connect(":memory:", config=settings))
    connection.execute("SET TimeZone = 'UTC'")
    # The names are ours: a temporary folder and numbers.
    connection.execute(f"SET allowed_directories = [{_quoted(str(folder) + os.sep)}]")
    connection.execute(f"SET allowed_paths = [{', '.join(map(_quoted, files))}]")
    connection.execute("SET enable_external_access = false")
    return connection


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _streamer(ibis: Any, connection: Any) -> Callable[[Any], Any]:
    def stream(expression: Any) -> Any:
        return connection.sql(str(ibis.to_sql(expression, dialect="duckdb"))).to_arrow_reader(65_536)

    return stream
