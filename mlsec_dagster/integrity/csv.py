"""CSV files, which have neither types nor a way to tell an empty text from a null.

Without a manifest's schema every column is text, because a guess from the first rows would make the digest depend on them. With one,
each column is read as its type. An empty field without quotes is null, and `""` is an empty text, as pyarrow, polars and Spark write
them; no other spelling of null ("NA", "null") is known, so that a person named Null stays one.
"""

# pyarrow brings no types of its own, so what comes out of it is unknown to a type checker.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mlsec_dagster.integrity.limits import Meter
from mlsec_dagster.integrity.readers import Source, Wanted

if TYPE_CHECKING:
    import pyarrow as pa

# A row must fit in one piece.
_PIECE_BYTES = 8 << 20


def opened(file: "pa.NativeFile", name: str, meter: Meter, wanted: Wanted) -> Source:
    """Opens a CSV file (UTF-8, header in its first row, comma or, for `.tsv`, tab)."""
    import pyarrow as pa
    from pyarrow import csv

    parse = csv.ParseOptions(delimiter="\t" if name.lower().endswith(".tsv") else ",", newlines_in_values=True, ignore_empty_lines=False)
    # Names may be given twice, so the header is only looked at here, and columns are told by their place.
    with csv.open_csv(_again(file), parse_options=parse, read_options=csv.ReadOptions(block_size=_PIECE_BYTES, use_threads=False)) as head:
        names = list(head.schema.names)
    meter.columns(len(names))
    kinds = [kind or pa.string() for kind in wanted(names)]
    places = [str(place) for place in range(len(names))]
    reader = csv.open_csv(
        _again(file),
        parse_options=parse,
        read_options=csv.ReadOptions(block_size=_PIECE_BYTES, column_names=places, skip_rows_after_names=1),
        convert_options=csv.ConvertOptions(
            column_types=dict(zip(places, kinds, strict=True)),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["true", "True", "TRUE"],
            false_values=["false", "False", "FALSE"],
        ),
    )
    losses: list[str] = []
    return Source(name, names, kinds, _batches(reader, names, losses), meter, losses)


def _again(file: "pa.NativeFile") -> Any:
    """Gives the same open file from its beginning to a reader that would close it."""
    import pyarrow as pa

    file.seek(0)
    return pa.input_stream(_Kept(file), compression=None)


class _Kept:
    """A file object that is not closed by its reader."""

    def __init__(self, file: "pa.NativeFile") -> None:
        self._file = file
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        return self._file.read(None if size < 0 else size)

    def readable(self) -> bool:
        return True

    def close(self) -> None: ...


def _batches(reader: Any, names: Sequence[str], losses: list[str]) -> "Iterator[tuple[Sequence[pa.Array[Any]], int]]":
    import pyarrow.types as t

    hidden: set[int] = set()
    for batch in reader:
        for place, column in enumerate(batch.columns):
            if column.null_count and place not in hidden and (t.is_string(column.type) or t.is_binary(column.type)):
                hidden.add(place)
                losses.append(f"column {names[place]!r}: an empty CSV field is stated as null; some writers mean an empty text by it")
        yield batch.columns, batch.num_rows
