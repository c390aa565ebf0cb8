"""Manifests: what a dataset is, as digests.

    >>> sealed = Manifest(files=hash_path("flights"), table=table_grid("flights"))                   # doctest: +SKIP
    >>> now = Manifest(files=hash_path("flights"), table=table_grid("flights", previous=sealed.table))  # doctest: +SKIP
    >>> sealed.compare(now).sentence                                                               # doctest: +SKIP
    "values changed in place: column 'delay' in block 3 (rows 196,608 to 262,143)"

A manifest holds digests, names and types, and never a value of the data.
"""

import json
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from mlsec_dagster.errors import UnverifiableError
from mlsec_dagster.integrity.comparison import Difference, compare_files, compare_tables, describe_files
from mlsec_dagster.integrity.digests import DIGEST_SIZE, digest_text, framed, hash_bytes, merkle_root, parse_digest
from mlsec_dagster.integrity.files import FileEntry
from mlsec_dagster.integrity.multiset import MultisetDigest
from mlsec_dagster.integrity.tables import Column, Prefix, TableGrid

_MAGIC = b"mlsec:manifest:v1\n"
_MAX_HEADER = 1 << 30


@dataclass(frozen=True, slots=True)
class Manifest:
    """The digest tree of a dataset: its files, its table's grid or its multiset digest, whichever there are."""

    files: tuple[FileEntry, ...] = ()
    table: TableGrid | None = None
    multiset: MultisetDigest | None = None

    @property
    def files_root(self) -> str | None:
        """The digest over all files' paths, sizes and digests ("blake3:<hex>"), or None without files."""
        if not self.files:
            return None
        entries = sorted(self.files, key=lambda entry: entry.path.encode())
        leaves = [framed(entry.path.encode(), entry.size.to_bytes(8, "little"), entry.digest.encode()) for entry in entries]
        return digest_text("blake3", merkle_root(leaves))

    @property
    def content_root(self) -> str | None:
        """The root of the table's grid, or of its multiset digest, or None if the content is known by its files only."""
        if self.table is not None:
            return self.table.root
        return self.multiset.root if self.multiset is not None else None

    @property
    def digest(self) -> str:
        """The address of `to_bytes()`."""
        return hash_bytes(self.to_bytes())

    def compare(self, other: "Manifest") -> Difference:
        """Says how a later manifest differs from this one."""
        files = compare_files(self.files, other.files)
        if self.table is not None and other.table is not None:
            table = compare_tables(self.table, other.table)
            if not table and files:
                return Difference("files", f"the table's content is the same, its files are not: {describe_files(files)}", files)
            return Difference(table.kind, table.sentence, files, table.blocks, table.is_append)
        if self.multiset is not None and other.multiset is not None:
            return self.multiset.compare(other.multiset)
        if (self.content_root is None) != (other.content_root is None):
            return Difference("files", f"only one of the two manifests knows the table; {describe_files(files)}", files)
        if not files:
            return Difference("identical", describe_files(files))
        return Difference(
            "files", describe_files(files), files, is_append=bool(self.files) and all(change.kind == "added" for change in files)
        )

    def to_bytes(self) -> bytes:
        """Returns the manifest in its one binary form: a mark, the header's length, the header as JSON, then all leaves."""
        header: dict[str, Any] = {"files": [[entry.path, entry.size, entry.digest, entry.version] for entry in self.files]}
        leaves: list[bytes] = []
        if self.table is not None:
            prefix = self.table.prefix
            header["table"] = {
                "columns": [[column.name, column.type] for column in self.table.columns],
                "blocks": [[rows, len(list(run))] for rows, run in groupby(self.table.block_rows)],
                "losses": list(self.table.losses),
                "prefix": None if prefix is None else prefix.rows,
            }
            leaves = [leaf for column in self.table.leaves for leaf in column] + list(prefix.leaves if prefix else ())
        if self.multiset is not None:
            header["multiset"] = self.multiset.to_json()
        text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        return b"".join((_MAGIC, len(text).to_bytes(8, "little"), text, *leaves))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Manifest":
        """Reads what `to_bytes` wrote.

        Raises:
            UnverifiableError: It is no manifest, is damaged, or was written by a newer version.
        """
        if not data.startswith(_MAGIC):
            raise UnverifiableError(f"this is no manifest of version 1 (it begins with {data[:24]!r}); a newer version may have written it")
        try:
            manifest = cls._parse(data[len(_MAGIC) :])
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise UnverifiableError(f"the manifest is damaged ({error}); restore it, or seal the dataset again") from error
        # One manifest has one form: whatever else would be read as the same is refused.
        if manifest.to_bytes() != data:
            raise UnverifiableError("the manifest is damaged (it is not in its one binary form); restore it, or seal the dataset again")
        return manifest

    @classmethod
    def _parse(cls, data: bytes) -> "Manifest":
        size = int.from_bytes(data[:8], "little")
        header: dict[str, Any] = json.loads(data[8 : 8 + size])
        files = tuple(FileEntry(path, count, digest, version) for path, count, digest, version in header["files"])
        for entry in files:
            parse_digest(entry.digest)
        table = None
        if (found := header.get("table")) is not None:
            runs = [(int(rows), int(count)) for rows, count in found["blocks"]]
            columns = tuple(Column(name, kind) for name, kind in found["columns"])
            total, ahead = sum(count for _, count in runs), found["prefix"]
            expected = (total * len(columns) + (0 if ahead is None else len(columns))) * DIGEST_SIZE
            if len(data) - 8 - size != expected or (total > len(data) and columns):
                raise ValueError(f"{len(data) - 8 - size:,} bytes of leaves, expected {expected:,}")
            raw = memoryview(data)[8 + size :]
            leaves = [bytes(raw[start : start + DIGEST_SIZE]) for start in range(0, len(raw), DIGEST_SIZE)]
            grid = tuple(tuple(leaves[place * total : (place + 1) * total]) for place in range(len(columns)))
            prefix = None if ahead is None else Prefix(ahead, tuple(leaves[total * len(columns) :]))
            blocks = tuple(rows for rows, count in runs for _ in range(count))
            table = TableGrid(columns, blocks, grid, tuple(found["losses"]), prefix)
        elif len(data) != 8 + size:
            raise ValueError("bytes behind the header")
        multiset = header.get("multiset")
        return cls(files, table, None if multiset is None else MultisetDigest.from_json(multiset))
