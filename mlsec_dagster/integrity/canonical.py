"""The canonical bytes of a column's values, and their BLAKE3 digest.

    >>> leaf_digest([pa.array([1, None])], pa.int64(), "x") == leaf_digest([pa.array([1]), pa.array([None], pa.int64())], pa.int64(), "x")
    True                                                                                                           # doctest: +SKIP

Two arrays have the same bytes exactly when they hold the same values, whatever buffers, offsets, dictionaries or chunks they are
kept in. The format is specified in `docs/manifests.md`, "Canonical values"; the two must be changed together, with a new
version in `_LEAF`. Each value that a buffer holds where there is none (a null slot) is replaced by zeros before hashing.
"""

# pyarrow brings no types of its own and makes its compute functions when it is imported, so a type checker does not know them.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mlsec_dagster.errors import LimitExceededError, LossyContainerError, UnverifiableError, VerificationError
from mlsec_dagster.integrity import buffers
from mlsec_dagster.integrity.digests import framed
from mlsec_dagster.integrity.logical import canonical_type, item_type, type_text

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_LEAF = b"mlsec:leaf:v1"
# The float64 integers up to here are exact; above, one float stands for several integers.
_EXACT_FLOAT = 2**53


def leaf_digest(chunks: "Sequence[pa.Array[Any]]", kind: "pa.DataType", column: str) -> bytes:
    """Returns the digest (32 bytes) of one column's values in one row block.

    Args:
        chunks: The values, in any number of arrays and in any encoding of `kind` or of a type of its family.
        kind: The canonical type in which they are stated.
        column: Its name, for messages; it does not enter the digest.

    Raises:
        VerificationError: A value cannot be stated exactly in `kind`.
        LossyContainerError: The values went through floating point, which cannot tell the integers of `kind` apart.
        LimitExceededError: One text, binary value or list is 4 GiB (items) long or longer.
    """
    import blake3
    import pyarrow as pa

    hasher = blake3.blake3()
    hasher.update(framed(_LEAF, type_text(kind).encode()))
    dense = [plain(chunk, column) for chunk in chunks]
    values = dense[0] if len(dense) == 1 else pa.concat_arrays(dense) if dense else pa.nulls(0, kind)
    _Encoder(hasher.update, column).node(values, kind)
    return hasher.digest()


def plain(values: "pa.Array[Any]", column: str) -> "pa.Array[Any]":
    """Takes extension types, dictionaries, run ends and views away, at every level."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as t

    kind = values.type
    if isinstance(values, pa.ExtensionArray):
        return plain(values.storage, column)
    if isinstance(values, pa.DictionaryArray):
        return plain(values.dictionary_decode(), column)
    if t.is_run_end_encoded(kind):
        return plain(pc.run_end_decode(values), column)
    if not (t.is_nested(kind) or t.is_string_view(kind) or t.is_binary_view(kind)):
        return values
    if t.is_list_view(kind) or t.is_large_list_view(kind):
        return plain(_listed(values), column)
    if _has_view(kind):
        # Arrow's own cast takes views for lists even if they overlap or lie in another order.
        raise UnverifiableError(f"column {column!r}: {kind} has list views within another type; convert them to lists")
    dense = _dense(canonical_type(kind, column))
    try:
        return values if kind.equals(dense) else values.cast(dense)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UnverifiableError(f"column {column!r}: {kind} has no canonical form ({error}); convert it to plain nested values") from error


def _listed(values: "pa.Array[Any]") -> "pa.Array[Any]":
    """Turns list views, which may overlap and lie in any order, into lists."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = buffers.numbers(pc.list_value_length(values))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
    return pa.LargeListArray.from_arrays(offsets, values.flatten(), mask=values.is_null() if values.null_count else None)


def _has_view(kind: "pa.DataType") -> bool:
    import pyarrow as pa
    import pyarrow.types as t

    if t.is_list_view(kind) or t.is_large_list_view(kind):
        return True
    if t.is_dictionary(kind) or t.is_run_end_encoded(kind):
        return _has_view(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return _has_view(kind.storage_type)
    return any(_has_view(kind.field(place).type) for place in range(kind.num_fields)) if t.is_nested(kind) else False


def _dense(kind: "pa.DataType") -> "pa.DataType":
    """The type in which nested values are laid out for hashing: 64-bit offsets, and a map as the list that it is."""
    import pyarrow as pa
    import pyarrow.types as t

    if t.is_string(kind):
        return pa.large_string()
    if t.is_binary(kind):
        return pa.large_binary()
    if t.is_fixed_size_list(kind):
        return pa.list_(_dense(kind.value_type), kind.list_size)
    if t.is_list(kind) or t.is_map(kind):
        return pa.large_list(_dense(item_type(kind)))
    if t.is_struct(kind):
        return pa.struct([pa.field(field.name, _dense(field.type)) for field in kind])
    return kind


class _Encoder:
    """Writes the canonical bytes of one leaf to a hasher."""

    def __init__(self, write: Callable[[Any], object], column: str) -> None:
        self.write = write
        self.column = column

    def frame(self, data: "np.ndarray[Any, Any]") -> None:
        import numpy as np

        self.write(data.nbytes.to_bytes(8, "little"))
        self.write(np.ascontiguousarray(data).view(np.uint8).data)

    def node(self, values: "pa.Array[Any]", kind: "pa.DataType") -> None:
        import numpy as np
        import pyarrow as pa
        import pyarrow.types as t

        if t.is_null(values.type) and not t.is_null(kind):
            values = pa.nulls(len(values), _dense(kind))
        self.write(len(values).to_bytes(8, "little"))
        if t.is_null(kind):
            return
        valid = None
        if values.null_count:
            packed = buffers.bits(values.buffers()[0], values.offset, len(values))
            valid = buffers.mask(packed, len(values))
            self.frame(packed)
        else:
            self.frame(np.empty(0, np.uint8))
        if t.is_struct(kind):
            # `flatten` also makes a child null where its parent is, whatever the child's own buffers say.
            for child, field in zip(values.flatten(), kind, strict=True):
                self.node(child, field.type)
        elif t.is_list(kind) or t.is_map(kind) or t.is_fixed_size_list(kind):
            self.list_items(values, kind)
        elif t.is_string(kind) or t.is_binary(kind):
            self.texts(values, valid)
        elif t.is_boolean(kind):
            filled = values if valid is None else values.fill_null(False)
            self.frame(buffers.bits(filled.buffers()[1], filled.offset, len(filled)))
        else:
            self.fixed(_exact(values, kind, self.column), valid)

    def list_items(self, values: "pa.Array[Any]", kind: "pa.DataType") -> None:
        import pyarrow.compute as pc
        import pyarrow.types as t

        lengths = pc.list_value_length(values)
        if t.is_fixed_size_list(kind):
            size = kind.list_size
            if len(lengths) > lengths.null_count and pc.any(pc.not_equal(lengths, size)).as_py():
                raise VerificationError(f"column {self.column!r} holds lists of other lengths than the {size} items of its type")
        else:
            self.lengths(buffers.numbers(lengths))
        # `flatten` leaves out the items that lie under null slots.
        self.node(values.flatten(), item_type(kind))

    def lengths(self, lengths: "np.ndarray[Any, Any]") -> None:
        import numpy as np

        if lengths.dtype.itemsize > 4 and len(lengths) and lengths.max() >= 2**32:
            raise LimitExceededError(f"column {self.column!r} holds one value of 4 GiB or more, which cannot be stated; split it")
        self.frame(lengths.astype(np.uint32, copy=False))

    def texts(self, values: "pa.Array[Any]", valid: "np.ndarray[Any, Any] | None") -> None:
        import numpy as np
        import pyarrow.types as t

        if t.is_fixed_size_binary(values.type):
            import pyarrow as pa

            values = values.cast(pa.binary())
        offsets = buffers.offsets(values)
        lengths = np.diff(offsets)
        if valid is not None and lengths[~valid].any():
            text = t.is_string(values.type) or t.is_large_string(values.type)
            values = values.fill_null("" if text else b"")
            offsets = buffers.offsets(values)
            lengths = np.diff(offsets)
        self.lengths(lengths)
        data = values.buffers()[2]
        raw = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
        self.frame(raw[offsets[0] : offsets[-1]])

    def fixed(self, values: "pa.Array[Any]", valid: "np.ndarray[Any, Any] | None") -> None:
        import numpy as np
        import pyarrow.types as t

        width = values.type.bit_width // 8
        buffer = values.buffers()[1]
        if buffer is None or not len(values) or not width:
            self.frame(np.zeros(len(values) * width, np.uint8))
            return
        start = values.offset * width
        raw = np.frombuffer(buffer, np.uint8)[start : start + len(values) * width]
        if t.is_floating(values.type):
            # Adding zero turns -0.0 into 0.0 and makes the copy that is needed below.
            with np.errstate(invalid="ignore"):
                floats = raw.view(f"f{width}") + np.array(0, f"f{width}")
            not_numbers = floats != floats  # true for NaN only
            if not_numbers.any():
                floats[not_numbers] = np.nan
            raw = floats.view(np.uint8)
        if valid is not None and width in (1, 2, 4, 8):
            raw = raw.view(f"u{width}") * valid.view("u1")
        elif valid is not None:
            raw = raw.reshape(-1, width) * valid.view("u1")[:, None]
        self.frame(raw)


def _exact(values: "pa.Array[Any]", kind: "pa.DataType", column: str) -> "pa.Array[Any]":
    """Converts fixed-width values to `kind`; each one exactly, or not at all."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as t

    found = values.type
    if found.equals(kind):
        return values
    if t.is_decimal(found) and t.is_decimal(kind) and (found.precision, found.scale) == (kind.precision, kind.scale):
        return values.cast(kind)
    if t.is_floating(found) and t.is_integer(kind) and len(values) > values.null_count:
        limit = _EXACT_FLOAT if t.is_float64(found) else 2**24 if t.is_float32(found) else 2**11
        if pc.any(pc.greater_equal(pc.abs(values.cast(pa.float64())), float(limit))).as_py():
            raise LossyContainerError(
                f"column {column!r}: integers of {limit:,} and more were kept as {type_text(found)}, which cannot tell neighbours apart; "
                f"keep them as {type_text(kind)} (pandas: the nullable Int64 type)"
            )
    try:
        converted = values.cast(kind)
        back = converted.cast(found)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        # Arrow's own message quotes the value, and what is raised here reaches logs and the ledger.
        raise VerificationError(f"column {column!r} holds a value of {found} that cannot be stated as {type_text(kind)}") from None
    same = pc.equal(values, back)
    if t.is_floating(found):
        same = pc.or_(same, pc.and_(pc.is_nan(values), pc.is_nan(back)))
    if len(values) > values.null_count and not pc.all(same).as_py():
        raise VerificationError(f"column {column!r} holds values of {found} that {type_text(kind)} cannot state exactly")
    return converted
