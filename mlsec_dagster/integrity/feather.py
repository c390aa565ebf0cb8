"""Feather (Arrow IPC) files, of which each record batch is weighed before it is decompressed.

A compressed buffer begins with the length that it unfolds to, and Arrow allocates that much at once. So the lengths are read
first, from the file's own index: footer, message, record batch. Layouts: `File.fbs`, `Message.fbs` and "Buffer compression" in
the Arrow columnar format.
"""

# pyarrow brings no types of its own, so what comes out of it is unknown to a type checker.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlsec_dagster.errors import UnverifiableError
from mlsec_dagster.integrity.limits import Meter
from mlsec_dagster.integrity.readers import Source, Wanted

if TYPE_CHECKING:
    import pyarrow as pa


def opened(file: "pa.NativeFile", name: str, meter: Meter, wanted: Wanted) -> Source:  # noqa: ARG001 - typed, so nothing is wanted
    """Opens a Feather V2 file after checking what its messages announce against the limits."""
    import pyarrow as pa

    try:
        rows, decoded, largest = _announced(file)
    except (IndexError, ValueError, OverflowError) as error:
        raise UnverifiableError(f"{name} is damaged: its Arrow footer or a message header cannot be read; materialize it again") from error
    meter.row(largest)
    meter.expect(meter.rows + rows, meter.decoded + decoded)
    reader = pa.ipc.open_file(file)
    schema = reader.schema
    meter.columns(len(schema))
    return Source(name, list(schema.names), list(schema.types), _batches(reader), meter)


def _batches(reader: "pa.RecordBatchFileReader") -> "Iterator[tuple[Sequence[pa.Array[Any]], int]]":
    for position in range(reader.num_record_batches):
        batch = reader.get_batch(position)
        # Offsets and indices come from the file and are followed blindly later.
        batch.validate(full=True)
        yield batch.columns, batch.num_rows


@dataclass(frozen=True, slots=True)
class _Table:
    """A FlatBuffers table: where it begins, and where each of its fields lies."""

    data: bytes
    place: int

    @classmethod
    def root(cls, data: bytes) -> "_Table":
        return cls(data, _int(data, 0, 4))

    def field(self, position: int) -> int:
        """Returns where a field lies, or 0 if it is left at its default."""
        vtable = self.place - _int(self.data, self.place, 4)
        slot = 4 + 2 * position
        offset = _int(self.data, vtable + slot, 2) if slot < _int(self.data, vtable, 2) else 0
        return self.place + offset if offset else 0

    def number(self, position: int, size: int) -> int:
        place = self.field(position)
        return _int(self.data, place, size) if place else 0

    def table(self, position: int) -> "_Table | None":
        place = self.field(position)
        return _Table(self.data, place + _int(self.data, place, 4)) if place else None

    def structs(self, position: int, size: int) -> Iterator[int]:
        """Yields where each element of a vector of structs lies."""
        place = self.field(position)
        if place:
            vector = place + _int(self.data, place, 4)
            for index in range(_int(self.data, vector, 4)):
                yield vector + 4 + index * size


def _int(data: bytes, place: int, size: int) -> int:
    if place < 0 or place + size > len(data):
        raise IndexError(place)
    return int.from_bytes(data[place : place + size], "little", signed=True)


def _announced(file: "pa.NativeFile") -> tuple[int, int, int]:
    """Returns rows, decoded bytes, and the decoded bytes of the largest message, which Arrow keeps in memory as a whole."""
    size = file.size()
    footer_size = int.from_bytes(file.read_at(4, size - 10), "little")
    if not 0 < footer_size <= size - 10:
        raise ValueError(footer_size)
    footer = _Table.root(file.read_at(footer_size, size - 10 - footer_size))
    rows = decoded = largest = 0
    # Footer: 2 = dictionaries, 3 = record batches; Block: offset (8), metadata length (4, padded to 8), body length (8).
    for vector in (2, 3):
        for block in footer.structs(vector, 24):
            place, length = _int(footer.data, block, 8), _int(footer.data, block + 8, 4)
            count, unfolded = _message(file, place, length)
            rows += count if vector == 3 else 0
            decoded += unfolded
            largest = max(largest, unfolded)
    return rows, decoded, largest


def _message(file: "pa.NativeFile", place: int, length: int) -> tuple[int, int]:
    data = file.read_at(length, place)
    # A message starts with 0xFFFFFFFF and its length (since Arrow 0.15).
    message = _Table.root(data[8:])
    header = message.table(2)
    if header is None:
        raise ValueError(place)
    batch = header.table(1) if message.number(1, 1) == 2 else header  # 2 = DictionaryBatch, which holds a RecordBatch
    if batch is None:
        raise ValueError(place)
    compressed = bool(batch.field(3))
    total = 0
    for buffer in batch.structs(2, 16):
        offset, size = _int(batch.data, buffer, 8), _int(batch.data, buffer + 8, 8)
        if compressed and size >= 8:
            unfolded = int.from_bytes(file.read_at(8, place + length + offset), "little", signed=True)
            total += size if unfolded < 0 else unfolded
        else:
            total += size
    return batch.number(0, 8), total
