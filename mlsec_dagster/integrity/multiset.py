"""The value that stands for a warehouse table: how many rows, and the sums of a keyed hash over them (see `warehouse`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlsec_dagster.errors import UnverifiableError
from mlsec_dagster.integrity.comparison import Difference
from mlsec_dagster.integrity.digests import digest_text, framed


@dataclass(frozen=True, slots=True)
class MultisetDigest:
    """A keyed digest of the rows of a table, regardless of their order.

    Attributes:
        rows: The number of rows.
        lanes: The exact sums, over all rows, of the eight 32-bit words of each row's keyed hash.
        columns: Names and types as they entered the hash.
        key_id: Which key was used, as a digest that does not disclose it.
        engine: Which database engine wrote the values as text; digests of different engines cannot be compared.
    """

    rows: int
    lanes: tuple[int, ...]
    columns: tuple[tuple[str, str], ...]
    key_id: str
    engine: str = "duckdb"

    @property
    def root(self) -> str:
        """One digest over all of it."""
        columns = framed(*(part.encode() for column in self.columns for part in column))
        import blake3

        numbers = framed(*(str(number).encode() for number in (self.rows, *self.lanes)))
        return digest_text(
            "blake3", blake3.blake3(framed(b"mlsec:multiset:v1", self.key_id.encode(), self.engine.encode(), columns, numbers)).digest()
        )

    def compare(self, other: "MultisetDigest") -> Difference:
        """Says whether two tables hold the same rows. An order-free sum names no place, and cannot prove an append.

        Raises:
            UnverifiableError: The digests were made with different keys or by different engines, which says nothing about the rows.
        """
        if self.key_id != other.key_id:
            raise UnverifiableError(
                "its rows were hashed under another key than the one at hand, as after a rotation of the sealing key; "
                "materialize it again, or trust it as it is with `mlsec adopt`"
            )
        if self.engine != other.engine:
            raise UnverifiableError(
                f"its rows were hashed by {self.engine} and now by {other.engine}, which write values differently; materialize it again, "
                f"or trust it as it is with `mlsec adopt`"
            )
        if self.columns != other.columns:
            return Difference("schema", f"the columns differ: {_listed(self.columns)} before, {_listed(other.columns)} now")
        if (self.rows, self.lanes) == (other.rows, other.lanes):
            return Difference("identical", f"all {self.rows:,} rows are the same, in whichever order")
        if self.rows == other.rows:
            return Difference("rewrite", f"rows changed; their number, {self.rows:,}, did not")
        return Difference("rewrite", f"rows changed; there were {self.rows:,} and are {other.rows:,}")

    def to_json(self) -> dict[str, Any]:
        """Returns plain values for JSON; the lanes as text, since they outgrow what other JSON readers keep exactly."""
        lanes = [str(lane) for lane in self.lanes]
        return {
            "rows": self.rows,
            "lanes": lanes,
            "columns": [list(column) for column in self.columns],
            "key_id": self.key_id,
            "engine": self.engine,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "MultisetDigest":
        """Reads what `to_json` returned."""
        columns = tuple((str(name), str(kind)) for name, kind in data["columns"])
        return cls(int(data["rows"]), tuple(int(lane) for lane in data["lanes"]), columns, str(data["key_id"]), str(data["engine"]))


def _listed(columns: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in columns)[:200]
