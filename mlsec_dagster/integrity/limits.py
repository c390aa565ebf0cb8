"""How much a table may ask for before it is refused: a small file can decode to terabytes."""

from dataclasses import dataclass, field

from mlsec_dagster.errors import LimitExceededError


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds for one table. Genuine data stays far below; raise one with `Limits(rows=…)` where it does not.

    Attributes:
        rows: Rows in all.
        columns: Top-level columns.
        decoded_bytes: Bytes of canonical values in all; they are streamed, so this bounds time, not memory.
        row_bytes: Bytes of one row, which has to be held in memory.
        ratio: Decoded bytes per byte of the file or directory. Only looked at beyond `ratio_from` decoded bytes, because a
            column of a single value rightly compresses to nearly nothing.
        ratio_from: See `ratio`; in bytes.
    """

    rows: int = 100_000_000_000
    columns: int = 20_000
    decoded_bytes: int = 64 << 40
    row_bytes: int = 1 << 30
    ratio: int = 2000
    ratio_from: int = 4 << 30


DEFAULT_LIMITS = Limits()


@dataclass(slots=True)
class Meter:
    """Counts what has been decoded, and stops at the first limit that is passed.

    Attributes:
        name: What is read, for messages.
        limits: The bounds.
        encoded: Bytes of the file or files, or None for a table in memory.
    """

    name: str
    limits: Limits
    encoded: int | None = None
    rows: int = field(default=0, init=False)
    decoded: int = field(default=0, init=False)

    def columns(self, count: int) -> None:
        """Checks the number of columns."""
        if count > self.limits.columns:
            raise self._exceeded(f"has {count:,} columns", "columns", self.limits.columns, count)

    def row(self, size: int) -> None:
        """Checks the size of one row in bytes."""
        if size > self.limits.row_bytes:
            raise self._exceeded(f"has one row of {size:,} bytes", "row_bytes", self.limits.row_bytes, size)

    def add(self, rows: int, decoded: int) -> None:
        """Counts rows and their bytes, as read so far."""
        self.rows += rows
        # Rows of no width at all (null columns) cost time too.
        self.decoded += max(decoded, rows)
        self.expect(self.rows, self.decoded)

    def expect(self, rows: int, decoded: int) -> None:
        """Checks totals, whether counted or announced by the file's own metadata."""
        if rows > self.limits.rows:
            raise self._exceeded(f"has {rows:,} rows or more", "rows", self.limits.rows, rows)
        if decoded > self.limits.decoded_bytes:
            raise self._exceeded(f"decodes to {decoded:,} bytes or more", "decoded_bytes", self.limits.decoded_bytes, decoded)
        if self.encoded is not None and decoded > self.limits.ratio_from and decoded > self.limits.ratio * self.encoded:
            found = -(-decoded // max(self.encoded, 1))
            raise self._exceeded(
                f"({self.encoded:,} bytes) decodes to {decoded:,} bytes or more, {found:,} times its size",
                "ratio",
                self.limits.ratio,
                found,
            )

    def _exceeded(self, what: str, limit: str, allowed: int, found: int) -> LimitExceededError:
        return LimitExceededError(
            f"{self.name} {what}; the limit is {limit}={allowed:,}. If the data is genuine, pass limits=Limits({limit}={found}) or more"
        )
