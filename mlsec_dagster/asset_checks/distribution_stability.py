"""The `distribution_stability` check: does a dataset look as it has looked before?

    checks = mlsec.build_distribution_stability_checks(assets=[raw_flights], label="arr_late", time="time_hour", ignore=["flight"])

The check counts the very bytes that were sealed, and compares them with earlier windows: partitions of a time, or successive
materializations. `docs/stability.md` tells how it decides, and what it cannot see. Below 20 windows it says that it is learning, which is
neither a pass nor an alarm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import dagster as dg

from mlsec_dagster import _compat
from mlsec_dagster.asset_checks.building import Definition, build_check, evaluation, facts, partitions_of_check
from mlsec_dagster.asset_checks.series import Series, series_of
from mlsec_dagster.asset_checks.stored import Resolver, StoredAsset, VerifiedData, roots
from mlsec_dagster.errors import ConfigurationError, SigningKeyError, UnverifiableError
from mlsec_dagster.integrity.verdicts import when
from mlsec_dagster.presentation import plain
from mlsec_dagster.resources import SecurityStore, Signer
from mlsec_dagster.stability.subject import has_begun

if TYPE_CHECKING:
    from mlsec_dagster.integrity.verdicts import Materialization
    from mlsec_dagster.stability.assessment import Assessment, History
    from mlsec_dagster.stability.baselines import Kept
    from mlsec_dagster.stability.power import Change
    from mlsec_dagster.stability.profiles import Roles
    from mlsec_dagster.stability.slices import SliceAssessment

CHECK_NAME = "distribution_stability"


@dataclass(frozen=True, slots=True)
class StabilityCheckSettings:
    """What one `distribution_stability` check does.

    Attributes:
        label: Column that a model is to predict.
        time: Column that holds the time of a row.
        ignore: Columns that are not looked at.
        sensitive: Columns whose values must not be shown.
        false_alarms: How often a window in which nothing changed may alarm.
        severity: Severity of an alarm.
        blocking: Whether an alarm keeps downstream from running in the same run.
        resolver: Overrides where self-written assets lie.
        store: The ledger's database.
        signer: The key.
    """

    label: str | None = None
    time: str | None = None
    ignore: Sequence[str] = ()
    sensitive: Sequence[str] = ()
    false_alarms: float = 0.01
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.WARN
    blocking: bool = False
    resolver: Resolver | None = None
    store: SecurityStore | None = None
    signer: Signer | None = None

    def __post_init__(self) -> None:
        if not 0 < self.false_alarms < 0.5:
            raise ConfigurationError(
                f"false_alarms is the share of ordinary windows that may alarm, between 0 and 0.5, and not {self.false_alarms!r}: "
                f"0.01 is one in a hundred."
            )
        if self.label is not None and self.label in self.ignore:
            raise ConfigurationError(f"The column {self.label!r} cannot be the label and ignored at the same time: take it out of one.")
        if self.blocking and self.severity == dg.AssetCheckSeverity.WARN:
            raise ConfigurationError(
                "A check of severity WARN blocks nothing, as Dagster lets only failures of severity ERROR block: "
                "leave the severity out, or set blocking=False."
            )

    def roles(self) -> Roles:
        from mlsec_dagster.stability.profiles import Roles

        return Roles(self.label, self.time, tuple(self.ignore), tuple(self.sensitive))


def build_distribution_stability_checks(
    *,
    assets: Sequence[dg.AssetKey | str | Sequence[str] | dg.AssetsDefinition | dg.SourceAsset],
    label: str | None = None,
    time: str | None = None,
    ignore: Sequence[str] = (),
    sensitive: Sequence[str] = (),
    false_alarms: float = 0.01,
    severity: dg.AssetCheckSeverity | None = None,
    blocking: bool = False,
    resolver: Resolver | None = None,
    store: SecurityStore | None = None,
    signer: Signer | None = None,
) -> Sequence[dg.AssetChecksDefinition]:
    """Returns one `distribution_stability` check for each asset.

    A check compares a materialization with those before it: its number of rows, its columns, each of them by itself, all of them together,
    and the labels given the features. It alarms when the whole is further from them than they are from each other. Its thresholds come
    from the data's own past; the one thing to choose is how often it may be wrong.

    Args:
        assets: The assets to check. Give definitions rather than keys where you have them: with a definition the check knows the
            partitions and the IO manager.
        label: Column that a model is to predict. Without it, labels that were flipped are not seen.
        time: Column that holds the time of a row.
        ignore: Columns that may change freely and are not looked at.
        sensitive: Columns whose values must not be shown; only aggregates of them are.
        false_alarms: How often a window in which nothing changed may alarm. Defaults to 0.01, one in a hundred.
        severity: The severity of an alarm. Defaults to ERROR if it blocks, else to WARN.
        blocking: Whether an alarm, and whatever else keeps the check from passing, blocks downstream assets in the same run. Defaults to
            False.
        resolver: For assets that write for themselves and report neither `path` nor `dagster/uri`: called with the asset key and its
            materialization, returns a path, a URI, or a table (an Ibis or DuckDB relation).
        store: Where the baselines are. Default: SQLite under `$DAGSTER_HOME/mlsec/`.
        signer: What signs them. Default: an Ed25519 key file under `$DAGSTER_HOME/mlsec/keys/`.

    Returns:
        Sequence[AssetChecksDefinition]: One definition for each asset.

    Raises:
        ConfigurationError: A false-alarm rate that is none; a label that is ignored; or a blocking check of severity WARN, which Dagster
            does not let block.
    """
    _compat.ensure_no_duplicate_assets(assets)
    settings = StabilityCheckSettings(
        label=label,
        time=time,
        ignore=ignore,
        sensitive=sensitive,
        false_alarms=false_alarms,
        severity=severity or (dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN),
        blocking=blocking,
        resolver=resolver,
        store=store,
        signer=signer,
    )
    checks: list[dg.AssetChecksDefinition] = []
    for asset in assets:
        definition = asset if isinstance(asset, (dg.AssetsDefinition, dg.SourceAsset)) else None
        for key in _compat.keys_of(asset):
            checks.append(build_distribution_stability_check(key, definition, settings))
    return checks


def build_distribution_stability_check(
    key: dg.AssetKey, definition: Definition | None, settings: StabilityCheckSettings
) -> dg.AssetChecksDefinition:
    """One check on one asset; `definition` gives its partitions and IO manager, if it is of this code location."""
    partitions_def, _ = facts(key, definition)

    def evaluate(context: Any) -> Iterator[Any]:
        asset = StoredAsset.of_check(
            context,
            key,
            definition,
            check_name=CHECK_NAME,
            resolver=settings.resolver,
            store=settings.store,
            signer=settings.signer,
        )
        look = _Look(asset, settings)
        try:
            partitions = look.in_order(partitions_of_check(context, partitions_def))
        except Exception as error:
            yield look.failed(None, error)
        else:
            for partition in partitions:
                yield look.evaluate(partition)

    return build_check(
        key,
        definition,
        evaluate,
        name=CHECK_NAME,
        description=(
            "The dataset looks as it has looked before: rows, columns, labels given features "
            f"(false alarms: {settings.false_alarms:.2%} of ordinary windows); below 20 windows it is learning."
        ),
        blocking=settings.blocking,
        metadata={
            "mlsec/false_alarms": settings.false_alarms,
            **{
                f"mlsec/{role}": list(names)
                for role, names in (
                    ("label", [settings.label] if settings.label else []),
                    ("time", [settings.time] if settings.time else []),
                    ("ignore", settings.ignore),
                    ("sensitive", settings.sensitive),
                )
                if names
            },
        },
    )


class _Look:
    """One execution of the check."""

    def __init__(self, asset: StoredAsset, settings: StabilityCheckSettings) -> None:
        self.asset = asset
        self.settings = settings
        self.roles = settings.roles()

    def in_order(self, partitions: Sequence[str | None]) -> list[str | None]:
        """Partitions of one run in the order in which they follow one another, so that each has those before it to be compared with."""
        series = series_of(self.asset.partitions_def, partitions[0], self.asset.instance) if len(partitions) > 1 else None
        if series is None:
            return list(partitions)
        places = {name: place for place, name in enumerate(series.partitions)}
        return sorted(partitions, key=lambda partition: places.get(str(partition), len(places)))

    def evaluate(self, partition: str | None) -> _compat.AssetCheckEvaluation:
        """Assess one window, keep it, and say what was found. Never raises: whatever goes wrong is a failed evaluation that says so."""
        materialization: Materialization | None = None
        try:
            materialization = self.asset.materialization(partition)
            with self.asset.verified(partition, unsealed=True) as data:
                materialization = data.materialization
                source = _table(data)
                begun = self._begun()
                # What is no table and never was one is told so without all that compares tables, which takes a second to import.
                kept, history = self._history(partition, data) if begun or source is not None else ([], None)
                assessed = None if source is None or history is None else self._assess(source, history)
                sliced = None if assessed is None else self._assess_slices(source, partition, assessed)
            if assessed is None or history is None:
                return self._no_table(partition, data, kept)
            series = self._series(partition)
            if partition is not None and series is not None and _unfinished(series, partition, materialization):
                return self._unfinished(partition, data)
            entry = self._keep(partition, data, assessed)
            if sliced is not None:
                subject = f"{data.subject}, in its rows from {when(sliced.slice[0])} to {when(sliced.slice[1])},"
                return self._told(partition, data, sliced.assessment, sliced.history, entry, subject)
            return self._told(partition, data, assessed, history, entry, data.subject)
        except Exception as error:
            return self.failed(partition, error, materialization)

    def failed(
        self, partition: str | None, error: Exception, materialization: Materialization | None = None
    ) -> _compat.AssetCheckEvaluation:
        """The evaluation where nothing could be found out: it has failed, and says that this is no alarm."""
        # An engine's message may quote values of the data.
        sentence = self.asset.could_not(partition, error, quoting=False)
        return self._evaluation(partition, materialization, False, sentence, {"verdict": "could not verify"})

    def _series(self, partition: str | None) -> Series | None:
        return series_of(self.asset.partitions_def, partition, self.asset.instance)

    def _history(self, partition: str | None, data: VerifiedData) -> tuple[list[Kept], History]:
        """The windows to compare with: those before; of a partition that was filled in later, those after it if they are more."""
        from mlsec_dagster.stability.assessment import WINDOWS_NEEDED
        from mlsec_dagster.stability.baselines import Baseline

        baseline = Baseline(self.asset.seals().ledger, self.asset.name)
        series = self._series(partition)
        if series is None or partition is None:
            storage_id = data.materialization.storage_id if data.materialization else None
            kept = baseline.of_materializations(partition, apart_from=storage_id)
            phases = None
        else:
            place = list(series.partitions).index(partition)
            kept = baseline.of_partitions(series.partitions[:place])
            if len(kept) < WINDOWS_NEEDED:
                after = baseline.of_partitions(list(reversed(series.partitions[place + 1 :])))
                kept = after if len(after) > len(kept) and len(after) >= WINDOWS_NEEDED else kept
            seasons = series.phases()
            phases = None if seasons is None else [seasons[name] for name in (*(each.name for each in kept), partition)]
        return kept, baseline.history(kept, phases)

    def _begun(self) -> bool:
        """Whether there ever was a window of any partition.

        Raises:
            UnverifiableError: There was, and it is gone: whoever deletes it could otherwise have anything pass as "learning".
        """
        if has_begun(self.asset.seals().ledger, self.asset.name):
            return True
        if _compat.has_evaluation(
            self.asset.instance, dg.AssetCheckKey(self.asset.key, CHECK_NAME), "verdict", {"learning", "stable", "alarm", "schema"}
        ):
            raise UnverifiableError(
                f"the baseline of {self.asset.name} is gone from the store, though this check has compared windows before: "
                f"restore the store from a backup; to begin anew on purpose, run `mlsec baseline forget {self.asset.name}`"
            )
        return False

    def _assess(self, source: Any, history: History) -> Assessment:
        from mlsec_dagster.stability.assessment import assess

        return assess(source, history, roles=self.roles, key=self._key(), false_alarms=self.settings.false_alarms)

    def _assess_slices(self, source: Any, partition: str | None, assessed: Assessment) -> SliceAssessment | None:
        """While there are too few materializations of a table that holds its own past: its newest slice of time."""
        from mlsec_dagster.stability.slices import MOST_ROWS, assess_newest_slice

        profile = assessed.window.profile
        if partition is not None or assessed.outcome != "learning" or profile.window is None or profile.rows > MOST_ROWS:
            return None
        return assess_newest_slice(source, profile.window, roles=self.roles, key=self._key(), false_alarms=self.settings.false_alarms)

    def _key(self) -> bytes:
        """The secret that chooses the rows of a sample."""
        import secrets

        try:
            return self.asset.seals().row_key()
        except SigningKeyError:
            # Nothing is compared across windows that depends on it; a sample cannot be repeated then.
            return secrets.token_bytes(32)

    def _keep(self, partition: str | None, data: VerifiedData, assessed: Assessment) -> int:
        from mlsec_dagster.stability.baselines import Baseline

        materialization = data.materialization
        kept = {
            "run_id": materialization.run_id if materialization else None,
            "storage_id": materialization.storage_id if materialization else None,
            "timestamp": materialization.timestamp if materialization else None,
            "checked_by": self.asset.step_context.run_id,
            "sealed_as": data.seal.index if data.seal is not None else None,
            **roots(data.manifest),
        }
        return Baseline(self.asset.seals().ledger, self.asset.name).keep(partition, assessed, kept).entries[0].index

    # What is told

    def _told(
        self, partition: str | None, data: VerifiedData, assessed: Assessment, history: History, entry: int, subject: str
    ) -> _compat.AssetCheckEvaluation:
        from mlsec_dagster.asset_checks.stability_page import evaluation_metadata, power
        from mlsec_dagster.stability.evidence import evidence_of
        from mlsec_dagster.stability.power import revealed

        found = evidence_of(assessed, history, self.roles, subject=subject)
        facts = {
            "verdict": assessed.outcome,
            "would have been noticed": power(self._shown(revealed(assessed))),
            "to know": " ".join(self._notes(data, assessed)) or None,
            "ledger entry": f"{entry} (mlsec ledger show {entry})",
        }
        metadata = evaluation_metadata(assessed, found, facts=facts)
        return self._evaluation(partition, data.materialization, assessed.outcome in ("stable", "learning"), found.sentence, metadata)

    def _shown(self, changes: Sequence[Change]) -> list[Change]:
        """Without the classes of a label whose values must not be shown."""
        hidden = self.roles.label is not None and self.roles.label in self.roles.sensitive
        return [replace(change, column="") if hidden and change.what == "flipped labels" else change for change in changes]

    def _notes(self, data: VerifiedData, assessed: Assessment) -> Iterator[str]:
        yield from data.notes
        present = {column.name for column in assessed.window.profile.columns}
        roles = self.roles
        declared = (("label", [roles.label]), ("time", [roles.time]), ("ignored", roles.ignore), ("sensitive", roles.sensitive))
        for role, names in declared:
            for name in names:
                if name is not None and name not in present:
                    yield f"The declared {role} column {plain(name)} is not in the data."
        if data.seal is None:
            yield "Nothing in the ledger says that these bytes are the ones that were written."

    def _no_table(self, partition: str | None, data: VerifiedData, kept: Sequence[Kept]) -> _compat.AssetCheckEvaluation:
        if kept:
            sentence = f"{data.subject} is no table any more, and {len(kept)} windows before it were: find out what writes it now."
            return self._evaluation(partition, data.materialization, False, sentence, {"verdict": "schema"})
        sentence = f"{data.subject} is no table, so there is no distribution to compare; its bytes are what dataset_hash verifies."
        return self._evaluation(partition, data.materialization, True, sentence, {"verdict": "not applicable"})

    def _unfinished(self, partition: str, data: VerifiedData) -> _compat.AssetCheckEvaluation:
        sentence = (
            f"{data.subject} was materialized before its time was over, so it is not compared yet, nor are others with it: "
            f"materialize it again when it is complete."
        )
        return self._evaluation(partition, data.materialization, True, sentence, {"verdict": "not complete"})

    def _evaluation(
        self, partition: str | None, materialization: Materialization | None, passed: bool, sentence: str, metadata: dict[str, Any]
    ) -> _compat.AssetCheckEvaluation:
        return evaluation(
            self.asset.key,
            CHECK_NAME,
            passed=passed,
            sentence=sentence,
            severity=self.settings.severity,
            blocking=self.settings.blocking,
            partition=partition,
            materialization=materialization,
            metadata=metadata,
        )


def _unfinished(series: Series, partition: str, materialization: Materialization | None) -> bool:
    """Whether a partition was written before its time was over."""
    end = series.end_of(partition)
    return end is not None and materialization is not None and end.timestamp() > materialization.timestamp


def _table(data: VerifiedData) -> Any | None:
    """What is to be counted: a path, a relation, or a value that was pickled; None if it is no table."""
    from mlsec_dagster.integrity.containers import table_format, table_parts
    from mlsec_dagster.integrity.pickles import may_hold_table
    from mlsec_dagster.integrity.readers import is_table

    if data.relation is not None:
        return data.relation
    if data.copy is None:
        return None
    if data.pickled:
        if not may_hold_table(data.copy):
            return None
        value = data.value()
        return value if is_table(value) else None
    try:
        parts = table_parts(data.copy) if data.copy.is_dir() else [data.copy]
    except UnverifiableError:
        return None
    return data.copy if all(table_format(part) for part in parts) else None
