"""Arrow arrays as NumPy sees their buffers.

Not through `to_numpy`, which imports pandas: half a second and forty megabytes that a step which verifies a file need not spend.
"""

# pyarrow brings no types of its own, so what comes out of it is unknown to a type checker.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def numbers(values: "pa.Array[Any]") -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Returns integers as int64, nulls as 0."""
    import numpy as np
    import pyarrow.types as t

    filled = values.fill_null(0) if values.null_count else values
    kind = f"{'u' if t.is_unsigned_integer(values.type) else 'i'}{values.type.bit_width // 8}"
    buffer = filled.buffers()[1]
    if buffer is None or not len(filled):
        return np.zeros(len(filled), np.int64)
    return np.frombuffer(buffer, kind)[filled.offset : filled.offset + len(filled)].astype(np.int64)


def offsets(values: "pa.Array[Any]") -> "np.ndarray[Any, Any]":
    """Returns where each text or binary value begins in the data buffer, and behind them where the last one ends."""
    import numpy as np
    import pyarrow.types as t

    wide = t.is_large_string(values.type) or t.is_large_binary(values.type)
    buffer = values.buffers()[1]
    if buffer is None or not len(values):
        return np.zeros(1, np.int32)
    return np.frombuffer(buffer, np.int64 if wide else np.int32)[values.offset : values.offset + len(values) + 1]


def bits(buffer: "pa.Buffer | None", offset: int, count: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Returns `count` bits from `offset` on, packed from the least significant bit, with zeros behind the last."""
    import numpy as np

    if buffer is None or not count:
        return np.zeros((count + 7) // 8, np.uint8)
    raw = np.frombuffer(buffer, np.uint8)[offset // 8 : (offset + count + 7) // 8]
    if offset % 8:
        return np.packbits(np.unpackbits(raw, bitorder="little")[offset % 8 : offset % 8 + count], bitorder="little")
    packed = raw.copy()
    if count % 8:
        packed[-1] &= (1 << count % 8) - 1
    return packed


def mask(packed: "np.ndarray[Any, np.dtype[np.uint8]]", count: int) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Returns packed bits as one boolean each."""
    import numpy as np

    return np.unpackbits(packed, count=count, bitorder="little").view(np.bool_)


def valid(values: "pa.Array[Any]") -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Returns which values are not null."""
    present = values.is_valid()
    return mask(bits(present.buffers()[1], present.offset, len(present)), len(present))
