"""A keyed digest of a warehouse table, computed where the table lies.

    >>> multiset_digest(ibis.duckdb.connect("w.duckdb").table("flights"), key).root              # doctest: +SKIP
    'blake3:…'

What it is. Each row is written as text, injectively: per column `N` for a null, else `V`, the length in characters, `:`, and the value.
A keyed pseudo-random function, SHA-256(k2 || SHA-256(k1 || row)), turns it into 256 bits; their eight 32-bit words are summed over all
rows, exactly (no wrap-around), together with the number of rows. This is an additive multiset hash (Clarke et al., "Incremental
Multiset Hash Functions", ASIACRYPT 2003, MSet-Add-Hash). The order of rows, which a database does not keep, does not enter it.

What it is worth. Whoever does not know the key cannot find another set of rows with the same sums, except by chance (2^-256). Whoever
does know it can: sums of known hashes fall to generalised birthday attacks (Wagner, 2002), with less work than collisions of SHA-256. The
key is derived for these columns, but it is part of the query, so the database and its query log see it: this protects against
whoever may write the table, not against whoever operates the database. It names no row, and cannot prove an append.

Digests are comparable only if the same engine made them, because engines write numbers and times as text in their own ways.
"""

# Ibis and pyarrow bring no types of their own, so what comes out of them is unknown to a type checker.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import hashlib
import hmac
import re
from typing import Any

from mlsec_dagster.errors import MissingExtraError, UnverifiableError
from mlsec_dagster.integrity.digests import framed
from mlsec_dagster.integrity.multiset import MultisetDigest

_WORDS, _DIGITS = 8, 8
_LABEL = b"mlsec:multiset:v1"
# Functions that state a time as a whole number and bytes as digits whatever the session's settings are; the engines that have them.
_MICROSECONDS = {"duckdb": "epoch_us", "pyspark": "unix_micros", "bigquery": "unix_micros"}
_NANOSECONDS = {"duckdb": "epoch_ns"}
_HEX = {"duckdb": "hex", "pyspark": "hex", "bigquery": "to_hex"}


def multiset_digest(table: Any, key: bytes) -> MultisetDigest:
    """Computes the digest of a table in its database.

    Args:
        table: An Ibis table of any backend with SHA-256 and hexadecimal casts (DuckDB, BigQuery), or a DuckDB relation.
        key: At least 16 secret bytes; keep it where the table's writers cannot read it.

    Returns:
        The digest.

    Raises:
        UnverifiableError: A column has a type that has no stable text (nested types, intervals), there are no columns, the engine
            lacks a function, or the query fails.
        MissingExtraError: Ibis is not installed.
    """
    ibis = _ibis()
    if len(key) < 16:
        raise UnverifiableError(f"the key of a multiset digest has {len(key)} bytes; expected 16 or more random ones")
    if isinstance(table, ibis.expr.types.Table):
        engine = ibis.get_backend(table).name
        query, columns, key_id = _query(table, engine, key)
        return _digest(lambda: query.to_pyarrow().to_pylist()[0], columns, key_id, engine)
    if not hasattr(table, "query") or not hasattr(table, "limit"):
        raise UnverifiableError(
            f"{type(table).__name__} is neither an Ibis table nor a DuckDB relation; see multiset_of for tables in memory"
        )
    schema = ibis.schema(_arrow_schema(table))
    query, columns, key_id = _query(ibis.table(schema, name="mlsec_rows"), "duckdb", key)

    def run() -> dict[str, Any]:
        result = table.query("mlsec_rows", str(ibis.to_sql(query, dialect="duckdb")))
        return dict(zip(result.columns, result.fetchall()[0], strict=True))

    return _digest(run, columns, key_id, "duckdb")


def multiset_of(value: Any, key: bytes, *, like: MultisetDigest | None = None) -> MultisetDigest:
    """Computes the digest that a table in memory has when it lies in DuckDB.

    Args:
        value: A pandas or polars DataFrame, or anything that pyarrow takes as a table.
        key: As for `multiset_digest`.
        like: The digest of the stored table; the value is converted to its column types first, as the database did when it stored it.

    Returns:
        The digest.

    Raises:
        UnverifiableError: As `multiset_digest`; or the value does not fit the column types of `like`.
        MissingExtraError: Ibis or DuckDB is not installed.
    """
    ibis = _ibis()
    import sys

    import pyarrow as pa

    connection = ibis.duckdb.connect()
    try:
        pandas = sys.modules.get("pandas")
        if pandas is not None and isinstance(value, pandas.DataFrame):
            # Read by DuckDB itself, so that NaN and null are taken for the same as when the frame was stored.
            connection.con.register("mlsec_value", value)
        else:
            connection.con.register("mlsec_value", value.to_arrow() if hasattr(value, "to_arrow") else pa.table(value))
        table = connection.table("mlsec_value")
        if like is not None:
            names = [name for name, _ in like.columns]
            if list(table.columns) != names:
                raise UnverifiableError(f"the value has the columns {list(table.columns)}, the stored table has {names}")
            table = table.cast(dict(like.columns))
        return multiset_digest(table, key)
    finally:
        connection.disconnect()


def _ibis() -> Any:
    try:
        import ibis
    except ImportError as error:
        raise MissingExtraError("digests of warehouse tables need Ibis; install mlsec-dagster[duckdb]") from error
    return ibis


def _arrow_schema(relation: Any) -> Any:
    table = relation.limit(0).arrow()
    return table.schema


def _query(table: Any, engine: str, key: bytes) -> tuple[Any, tuple[tuple[str, str], ...], str]:
    """Returns the aggregation (rows and word sums), the columns as they enter it, and the name of the derived key."""
    ibis = _ibis()
    schema = table.schema()
    columns = tuple((name, _type_text(kind)) for name, kind in schema.items())
    if not columns:
        raise UnverifiableError("the table has no columns, so its rows cannot be told apart; verify its files instead")
    derived = hmac.digest(key, framed(_LABEL, *(part.encode() for column in columns for part in column)), "sha512").hex()
    parts: list[Any] = []
    for name, kind in schema.items():
        text = _text(table[name], name, kind, engine)
        parts.append(ibis.ifelse(table[name].isnull(), "N", ibis.literal("V") + text.length().cast("string") + ":" + text))
    row = ibis.literal("").join([ibis.literal(derived[64:]), *parts])
    inner = ibis.literal(derived[:64]) + row.hexdigest("sha256")
    hashed = table.select(mlsec_hash=inner.hexdigest("sha256"))
    words = [
        (ibis.literal("0x") + hashed.mlsec_hash.substr(word * _DIGITS, _DIGITS))
        .cast("int64")
        .sum()
        .cast("decimal(38, 0)")
        .name(f"lane{word}")
        for word in range(_WORDS)
    ]
    return hashed.aggregate([hashed.count().name("rows"), *words]), columns, hashlib.sha256(framed(_LABEL, b"key", key)).hexdigest()[:16]


def _type_text(kind: Any) -> str:
    if kind.is_timestamp() and kind.timezone is not None:
        kind = kind.copy(timezone="UTC")  # which zone a moment is shown in belongs to the session, not to the table
    return str(kind.copy(nullable=True))


def _text(column: Any, name: str, kind: Any, engine: str) -> Any:
    """States one column's values as text: one text per value, and one value per text."""
    ibis = _ibis()
    if kind.is_floating():
        # Zero has two signs and compares as one.
        return ibis.ifelse(column == 0, "0.0", column.cast("float64").cast("string"))
    if kind.is_timestamp():
        fine = (kind.scale or 6) > 6
        return _builtin((_NANOSECONDS if fine else _MICROSECONDS).get(engine), kind, "int64", name, engine)(column).cast("string")
    if kind.is_binary():
        return _builtin(_HEX.get(engine), kind, "string", name, engine)(column)
    if kind.is_string() and not kind.is_json():
        return column
    if kind.is_integer() or kind.is_boolean() or kind.is_decimal() or kind.is_date() or kind.is_time() or kind.is_uuid():
        return column.cast("string")
    raise UnverifiableError(f"column {name!r} has the type {kind}, of which {engine} has no stable text; store it as a plain type")


def _builtin(function: str | None, argument: Any, result: str, name: str, engine: str) -> Any:
    from ibis.expr.datatypes import dtype
    from ibis.expr.operations.udf import scalar

    if function is None:
        raise UnverifiableError(
            f"column {name!r}: no function of {engine} is known that states a {argument} whatever the session's settings"
        )

    def body(value: Any) -> Any:  # a signature for Ibis, never called
        ...

    builtin: Any = scalar.builtin
    return builtin(body, name=function, signature=((argument,), dtype(result)))


def _digest(run: Any, columns: tuple[tuple[str, str], ...], key_id: str, engine: str) -> MultisetDigest:
    try:
        found: dict[str, Any] = run()
    except Exception as error:  # every backend raises its own; the query, which holds the derived key, must not get into a message
        text = re.sub(r"[0-9a-fA-F]{32,}", "…", str(error).partition("\n")[0])[:200]
        raise UnverifiableError(f"{engine} could not compute the table's digest ({type(error).__name__}: {text})") from None
    rows = int(found["rows"])
    lanes = [found[f"lane{word}"] for word in range(_WORDS)]
    if rows and any(lane is None for lane in lanes):
        raise UnverifiableError(f"{engine} does not read hexadecimal numbers, so the table's digest cannot be computed there")
    return MultisetDigest(rows, tuple(int(lane or 0) for lane in lanes), columns, key_id, engine)
