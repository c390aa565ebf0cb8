"""The `expectations` check: does what is stored keep to a Great Expectations suite?

    checks = mlsec.build_expectation_checks(assets=[raw_flights], suite="expectations/flights.json", blocking=True)

It reads the stored bytes that were verified (`stored.py`), so that a suite is never asked about data which somebody swapped, and a pickle
that was swapped is never loaded. `docs/expectations.md` tells what it reads and what it does not do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from mlsec_dagster import _compat
from mlsec_dagster.asset_checks.building import Definition, build_check, evaluation, facts, partitions_of_check
from mlsec_dagster.asset_checks.stored import Resolver, StoredAsset, VerifiedData
from mlsec_dagster.errors import ConfigurationError, UnverifiableError
from mlsec_dagster.integrity.verdicts import Materialization, visible
from mlsec_dagster.presentation import MAX_ROWS
from mlsec_dagster.resources import SecurityStore, Signer
from mlsec_dagster.sealing import subject_name
from mlsec_dagster.stability.suites import Outcome, columns_of, hold_against, read_suite

CHECK_NAME = "expectations"

NAMED = 3
"""Expectations that a sentence names; the table has them all."""


@dataclass(frozen=True, slots=True)
class ExpectationSettings:
    """What one `expectations` check does.

    Attributes:
        suite: The suite as JSON, read and known to GX.
        severity: Severity of a failure.
        blocking: Whether a failure keeps downstream from running in the same run.
        sensitive: Columns whose values must not be shown.
        resolver: Overrides where self-written assets lie.
        store: The ledger's database.
        signer: The key.
    """

    suite: Mapping[str, Any]
    severity: dg.AssetCheckSeverity
    blocking: bool
    sensitive: frozenset[str]
    resolver: Resolver | None
    store: SecurityStore | None
    signer: Signer | None


def build_expectation_checks(
    *,
    assets: Sequence[dg.AssetKey | str | Sequence[str] | dg.AssetsDefinition | dg.SourceAsset],
    suite: Any,
    severity: dg.AssetCheckSeverity | None = None,
    blocking: bool = False,
    sensitive: Sequence[str] = (),
    resolver: Resolver | None = None,
    store: SecurityStore | None = None,
    signer: Signer | None = None,
) -> Sequence[dg.AssetChecksDefinition]:
    """Returns one `expectations` check for each asset, which holds what is stored against a Great Expectations suite.

    A check passes if every expectation of the suite holds for the stored table. It fails when one does not hold, and with a sentence of
    its own when that could not be found out: because the bytes are not those that were sealed, because they hold no table, or because GX
    stopped with an error. The table is read as a pandas frame, as a whole.

    Args:
        assets: The assets to check. Give definitions rather than keys where you have them: with a definition the check knows the
            partitions and the IO manager; with a key alone it goes by the location that the asset's materialization reports.
        suite: An ExpectationSuite of GX 1.x, or the path of one as JSON.
        severity: The severity if a check fails. Defaults to ERROR if it blocks, else to WARN.
        blocking: Whether a failure blocks downstream assets in the same run. Defaults to False.
        sensitive: Columns whose values must not be shown: of these the check tells shares only. Those that `guard` was told of count too.
        resolver: For assets that write for themselves and report neither `path` nor `dagster/uri`: called with the asset key and its
            materialization, returns a path, a URI, or a table (an Ibis or DuckDB relation).
        store: Where the ledger is. Default: SQLite under `$DAGSTER_HOME/mlsec/`.
        signer: What signs. Default: an Ed25519 key file under `$DAGSTER_HOME/mlsec/keys/`.

    Returns:
        Sequence[AssetChecksDefinition]: One definition for each asset: a blocking definition over several assets would block downstream of
        all of them when one fails.

    Raises:
        ConfigurationError: The suite does not exist, is empty, or has something in it that GX does not know or that the declared columns of
            an asset (`dagster/column_schema`) lack; a blocking check of severity WARN, which Dagster does not let block.
        MissingExtraError: Great Expectations is not installed.

    Examples:
        .. code-block:: python

            checks = mlsec.build_expectation_checks(assets=[raw_flights], suite="expectations/flights.json")
    """
    _compat.ensure_no_duplicate_assets(assets)
    settings = expectation_settings(
        suite=suite, severity=severity, blocking=blocking, sensitive=sensitive, resolver=resolver, store=store, signer=signer
    )
    checks: list[dg.AssetChecksDefinition] = []
    for asset in assets:
        definition = asset if isinstance(asset, (dg.AssetsDefinition, dg.SourceAsset)) else None
        for key in _compat.keys_of(asset):
            checks.append(build_expectation_check(key, definition, settings))
    return checks


def expectation_settings(
    *,
    suite: Any,
    severity: dg.AssetCheckSeverity | None = None,
    blocking: bool = False,
    sensitive: Sequence[str] = (),
    resolver: Resolver | None = None,
    store: SecurityStore | None = None,
    signer: Signer | None = None,
) -> ExpectationSettings:
    """The settings, with what cannot be right refused before anything runs. Arguments and errors: see `build_expectation_checks`."""
    if blocking and severity == dg.AssetCheckSeverity.WARN:
        raise ConfigurationError(
            "A check of severity WARN blocks nothing, as Dagster lets only failures of severity ERROR block: "
            "leave the severity out, or set blocking=False."
        )
    return ExpectationSettings(
        suite=read_suite(suite),
        severity=severity or (dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN),
        blocking=blocking,
        sensitive=frozenset(sensitive),
        resolver=resolver,
        store=store,
        signer=signer,
    )


def build_expectation_check(key: dg.AssetKey, definition: Definition | None, settings: ExpectationSettings) -> dg.AssetChecksDefinition:
    """One check on one asset; `definition` gives its partitions, IO manager and columns, if it is of this code location.

    Raises:
        ConfigurationError: The suite names a column that the asset declares not to have.
    """
    _require_declared_columns(key, definition, settings.suite)
    partitions_def, _ = facts(key, definition)

    def evaluate(context: Any) -> Iterator[_compat.AssetCheckEvaluation]:
        asset = StoredAsset.of_check(
            context,
            key,
            definition,
            check_name=CHECK_NAME,
            resolver=settings.resolver,
            store=settings.store,
            signer=settings.signer,
        )
        try:
            partitions = partitions_of_check(context, partitions_def)
        except Exception as error:
            yield _could_not(asset, None, None, error, settings)
            return
        for partition in partitions:
            yield _evaluate(asset, partition, settings)

    expectations = len(settings.suite["expectations"])
    return build_check(
        key,
        definition,
        evaluate,
        name=CHECK_NAME,
        description=(
            f"The stored data keep to the {expectations} expectations of the suite {visible(settings.suite['name'])!r}; "
            f"a failure names those that do not hold."
        ),
        blocking=settings.blocking,
        metadata={"mlsec/suite": settings.suite["name"], "mlsec/sensitive": sorted(settings.sensitive)},
    )


def frame_of(data: VerifiedData) -> Any:
    """Verified data as a pandas DataFrame, whole.

    Raises:
        UnverifiableError: It is no table, is damaged, or is a pickle without a seal.
    """
    if data.relation is not None:
        return data.relation.df() if hasattr(data.relation, "df") else data.relation.to_pandas()
    return _from_memory(data.value(), data.subject) if data.pickled else _from_files(data)


def _from_memory(value: Any, subject: str) -> Any:
    import pandas as pd

    if isinstance(value, pd.DataFrame):
        return _with_index_as_columns(value)
    for name in ("collect", "read_all"):  # a polars LazyFrame, a pyarrow RecordBatchReader
        if hasattr(value, name) and not hasattr(value, "to_pandas"):
            value = getattr(value, name)()
    if hasattr(value, "to_pandas"):
        frame = value.to_pandas()
        if isinstance(frame, pd.DataFrame):
            return frame
    raise UnverifiableError(f"{subject} is a {type(value).__name__}, and expectations are about tables: return a DataFrame.")


def _with_index_as_columns(frame: Any) -> Any:
    """The same columns that the frame would have as Parquet, and has as a manifest: an index other than a plain range is columns."""
    import pandas as pd

    if isinstance(frame.index, pd.RangeIndex):
        return frame
    names = [f"__index_level_{level}__" if name is None else str(name) for level, name in enumerate(frame.index.names)]
    return frame.reset_index(names=names)


def _from_files(data: VerifiedData) -> Any:
    import pandas as pd
    import pyarrow as pa

    from mlsec_dagster.integrity.containers import table_format, table_parts
    from mlsec_dagster.integrity.limits import Limits
    from mlsec_dagster.integrity.readers import reading

    if data.copy is None:
        raise UnverifiableError(f"{data.subject} has no stored bytes that could be read.")
    parts = table_parts(data.copy) if data.copy.is_dir() else [data.copy]
    if all(table_format(part) == "csv" for part in parts):
        # A CSV file has no types, and suites about one are written against those that pandas sees in it.
        frames = [pd.read_csv(part, sep="\t" if part.suffix.lower() == ".tsv" else ",") for part in parts]
        return pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
    with reading(data.copy, Limits(), lambda names: [None] * len(names)) as source:
        schema = pa.schema([pa.field(name, kind) for name, kind in zip(source.names, source.types, strict=True)])
        # A later part of a directory may have a narrower type of the same kind.
        batches = [
            pa.record_batch([values.cast(kind) for values, kind in zip(columns, source.types, strict=True)], schema=schema)
            for columns, _ in source.batches
        ]
    return pa.Table.from_batches(batches, schema=schema).to_pandas()


def _evaluate(asset: StoredAsset, partition: str | None, settings: ExpectationSettings) -> _compat.AssetCheckEvaluation:
    """Hold one subject against the suite. Never raises: whatever goes wrong is a failed evaluation that says so."""
    materialization: Materialization | None = None
    try:
        materialization = asset.materialization(partition)
        with asset.verified(partition, unsealed=True) as data:
            materialization = data.materialization
            outcomes = hold_against(settings.suite, frame_of(data))
        passed = all(outcome.held for outcome in outcomes)
        return evaluation(
            asset.key,
            CHECK_NAME,
            passed=passed,
            sentence=_sentence(subject_name(asset.name, partition), settings.suite["name"], outcomes),
            severity=settings.severity,
            blocking=settings.blocking,
            partition=partition,
            materialization=materialization,
            metadata=_metadata(asset, data, outcomes, settings),
        )
    except Exception as error:
        return _could_not(asset, partition, materialization, error, settings)


def _could_not(
    asset: StoredAsset, partition: str | None, materialization: Materialization | None, error: Exception, settings: ExpectationSettings
) -> _compat.AssetCheckEvaluation:
    return evaluation(
        asset.key,
        CHECK_NAME,
        passed=False,
        # What pandas and GX say of an error may quote the data.
        sentence=asset.could_not(partition, error, quoting=False),
        severity=settings.severity,
        blocking=settings.blocking,
        partition=partition,
        materialization=materialization,
        metadata={"suite": visible(settings.suite["name"])},
    )


def _sentence(subject: str, suite: str, outcomes: Sequence[Outcome]) -> str:
    broken = [outcome for outcome in outcomes if outcome.held is False]
    unknown = [outcome for outcome in outcomes if outcome.held is None]
    total = len(outcomes)
    if not broken and not unknown:
        return f"All {total} expectations of {suite!r} hold for {subject}."
    open_questions = _listed([f"{_claim(outcome)} ({outcome.trouble})" for outcome in unknown])
    if not broken:
        return (
            f"{subject} could not be verified: {len(unknown)} of {total} expectations could not be evaluated: {open_questions}. "
            f"Those that could be evaluated hold. Mend the suite, or the data if a column is missing."
        )
    sentence = (
        f"{len(broken)} of {total} expectations {'does' if len(broken) == 1 else 'do'} not hold for {subject}: "
        f"{_listed([_broken(outcome) for outcome in broken])}. "
    )
    if unknown:
        sentence += f"{len(unknown)} more could not be evaluated: {open_questions}. "
    return sentence + "Find out what changed upstream and materialize it again, or change the suite if the data are meant to be so."


def _claim(outcome: Outcome) -> str:
    return f"{' and '.join(map(repr, outcome.columns))}: {outcome.claim}" if outcome.columns else outcome.claim


def _broken(outcome: Outcome) -> str:
    return _claim(outcome) + ("" if outcome.unexpected is None else f" ({_share(outcome.unexpected)} unexpected)")


def _listed(items: Sequence[str]) -> str:
    more = len(items) - NAMED
    return "; ".join(items[:NAMED]) + (f"; and {more} more" if more > 0 else "")


def _share(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or share == 0 else "under 0.1%"


def _metadata(asset: StoredAsset, data: VerifiedData, outcomes: Sequence[Outcome], settings: ExpectationSettings) -> dict[str, Any]:
    notes = list(data.notes)
    sensitive = settings.sensitive | {column for outcome in outcomes for column in outcome.columns}
    declared = _declared_to_guard(asset)
    if declared is not None:
        sensitive = settings.sensitive | declared
    elif sensitive - settings.sensitive:
        notes.append("No values are shown, because this job leaves out the dataset_hash check, which knows the columns that are sensitive.")
    metadata: dict[str, Any] = {"expectations": _table(outcomes, sensitive)}
    if len(outcomes) > MAX_ROWS:
        metadata["expectations in all"] = len(outcomes)
    if data.seal is None:
        notes.append("Nothing in the ledger speaks for these bytes, so whether they are what was written cannot be known.")
    if notes:
        metadata["to know"] = dg.MetadataValue.text(" ".join(notes))
    if data.materialization is not None:
        metadata["materialized by"] = dg.MetadataValue.dagster_run(data.materialization.run_id)
    metadata["suite"] = visible(settings.suite["name"])
    metadata["file digest"] = data.manifest.files_root
    metadata["content digest"] = data.manifest.content_root
    metadata["ledger entry"] = None if data.seal is None else f"{data.seal.index} (mlsec ledger show {data.seal.index})"
    return {name: value for name, value in metadata.items() if value is not None}


def _table(outcomes: Sequence[Outcome], sensitive: frozenset[str]) -> dg.TableMetadataValue:
    records = []
    for outcome in outcomes[:MAX_ROWS]:
        hidden = bool(sensitive.intersection(outcome.columns))
        records.append(
            dg.TableRecord(
                {
                    "expectation": _cell(outcome.claim),
                    "column": _cell(", ".join(outcome.columns)),
                    "result": {True: "holds", False: "does not hold", None: "could not be evaluated"}[outcome.held],
                    "observed": _cell(outcome.trouble or (_hidden(outcome.observed) if hidden else _value(outcome.observed))),
                    "expected": _hidden(outcome.arguments) if hidden else _cell(_arguments(outcome.arguments)),
                    "unexpected": "" if outcome.unexpected is None else _share(outcome.unexpected),
                }
            )
        )
    columns = [
        dg.TableColumn("expectation", "string"),
        dg.TableColumn("column", "string"),
        dg.TableColumn("result", "string"),
        dg.TableColumn("observed", "string", description="what the whole column has, or a few of the unexpected values"),
        dg.TableColumn("expected", "string", description="what the suite says"),
        dg.TableColumn("unexpected", "string", description="share of unexpected values among those that are not null"),
    ]
    return dg.MetadataValue.table(records, dg.TableSchema(columns=columns))


def _hidden(value: Any) -> str:
    return "(not shown)" if value else ""


def _value(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple | set) else str(value)


def _arguments(arguments: Mapping[str, Any]) -> str:
    return "; ".join(f"{name.replace('_', ' ')} {_value(value)}" for name, value in arguments.items() if value is not None)


def _cell(text: str) -> str:
    """A table cell is shown as text, so only invisible characters are a danger."""
    return visible(text)[:200]


def _declared_to_guard(asset: StoredAsset) -> frozenset[str] | None:
    """Columns that `guard` was told not to show; None if it may have been told of some, and this run's job does not have its check."""
    graph = asset.step_context.job_def.asset_layer.asset_graph
    key = dg.AssetCheckKey(asset.key, "dataset_hash")
    if key in graph.asset_check_keys:
        return frozenset((graph.get_check_spec(key).metadata or {}).get("mlsec/sensitive", ()))
    return frozenset() if asset.seals().ledger.guarded_since(asset.name) is None else None


def _require_declared_columns(key: dg.AssetKey, definition: Definition | None, suite: Mapping[str, Any]) -> None:
    if not isinstance(definition, dg.AssetsDefinition):
        return
    declared = definition.get_asset_spec(key).metadata.get("dagster/column_schema")
    schema = getattr(declared, "value", declared)
    if not isinstance(schema, dg.TableSchema):
        return
    present = {column.name for column in schema.columns}
    for expectation in suite["expectations"]:
        missing = [column for column in columns_of(expectation) if column not in present]
        if missing:
            raise ConfigurationError(
                f"The suite {suite['name']!r} expects something of the column {missing[0]!r} ({expectation['type']}), and "
                f"{key.to_user_string()} declares no such column: correct the suite, or the asset's dagster/column_schema."
            )


def suite_path(suite: str, folder: os.PathLike[str] | str) -> str:
    """A suite's path as it is meant in a file that lies in `folder`."""
    return os.path.normpath(os.path.join(folder, suite))  # noqa: PTH118 - joins an absolute path as it is, too
