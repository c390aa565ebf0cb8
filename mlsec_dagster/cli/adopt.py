"""`mlsec adopt`: trust data as it is from now on, on purpose and on the record."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import click

from mlsec_dagster.cli.output import Progress, say, say_json
from mlsec_dagster.cli.settings import Settings, ledger_options, nearest, signer_options, who
from mlsec_dagster.errors import ConfigurationError, LimitExceededError, MlsecError, UnverifiableError

if TYPE_CHECKING:
    import dagster as dg

    from mlsec_dagster.cli.project import Asset
    from mlsec_dagster.integrity.manifest import Manifest
    from mlsec_dagster.io_managers.storage import Stored
    from mlsec_dagster.sealing import Seals

SHOWN: Final = 20
"""Partitions that are listed before the question."""


@dataclass(frozen=True, slots=True)
class _Content:
    """What would be trusted for one partition."""

    partition: str | None
    manifest: "Manifest"
    location: str | None
    note: str = ""

    @property
    def digest(self) -> str:
        return str(self.manifest.files_root or self.manifest.content_root)

    @property
    def size(self) -> int | None:
        return sum(entry.size for entry in self.manifest.files) if self.manifest.files else None

    @property
    def extent(self) -> str:
        if self.size is not None:
            return f"{self.size:,} bytes"
        return f"{self.manifest.multiset.rows:,} rows" if self.manifest.multiset else ""


@click.command()
@click.argument("asset_key")
@click.option("--partition", "partitions", metavar="KEY", multiple=True, help="A partition to adopt. May be repeated.")
@click.option("--all-partitions", is_flag=True, help="Every partition that is stored.")
@click.option("--reason", metavar="TEXT", required=True, help="Why it can be trusted; recorded in the ledger with your name.")
@click.option(
    "-m", "--module-name", "module", metavar="MODULE", help="Module with the definitions, to look through the asset's own IO manager."
)
@click.option("-f", "--python-file", "file", metavar="FILE", help="The same, as a file.")
@click.option("-w", "--workspace", metavar="FILE", help="The same, as a workspace file.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; needs --yes.")
@signer_options
@ledger_options
def adopt(
    settings: Settings,
    asset_key: str,
    partitions: tuple[str, ...],
    all_partitions: bool,
    reason: str,
    module: str | None,
    file: str | None,
    workspace: str | None,
    yes: bool,
    as_json: bool,
    signer: str | None,
    signer_public_key: str | None,
) -> None:
    """Trust what is stored for an asset as it is from now on.

    For data that was there before the project was guarded, and for sealed data that was replaced on purpose (restored from a backup,
    corrected by hand, materialized without the guard). Hashes what is stored now, shows it, asks, and records it with who and why. What
    happened to the data before cannot be known, and the ledger says so.

    \b
      mlsec adopt raw_flights --partition 2013-01-07 --reason "restored from the backup of May 2nd"
      mlsec adopt raw_flights --all-partitions --reason "loaded before the guard" -m my_project.definitions
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    if as_json and not yes:
        raise click.UsageError("--json cannot ask: give --yes too, once you have seen what will be trusted.")
    if not reason.strip():
        raise click.UsageError("--reason is empty: say why the data can be trusted.")
    if partitions and all_partitions:
        raise click.UsageError("Give --partition or --all-partitions, not both.")
    if sum(map(bool, (module, file, workspace))) > 1:
        raise click.UsageError("Give one of -m, -f and -w.")
    ring = settings.ring(signer, signer_public_key)
    with Progress() as progress, settings.dagster_instance() as instance:
        progress("loading the project")
        from mlsec_dagster.cli.project import assets_of
        from mlsec_dagster.sealing import Seals

        assets = assets_of(module=module, file=file, workspace=workspace)
        key = _known_key(asset_key, instance, assets)
        asset = assets.get(key) if assets else None
        wanted = _partitions(key, partitions, all_partitions, instance, asset)
        seals = Seals(settings.open_writing(ring), instance)
        contents, absent = _examine(key, wanted, seals, asset, progress, strict=not all_partitions)
        by = who()
        _show(asset_key, contents, absent, seals, error=as_json)
        if not yes:
            click.confirm(
                f"Trust {'this' if len(contents) == 1 else f'these {len(contents):,} partitions'} from now on, as {by}?", abort=True
            )
        receipt = seals.adopt(
            key.to_user_string(),
            {each.partition: (each.manifest, each.location) for each in contents},
            reason=reason.strip(),
            adopted_by=by,
        )
        try:
            if seals.ledger.witness is not None:
                seals.ledger.witness_now()
        except MlsecError as error:
            say(f"Recorded, but it has not reached the witness: {error}", error=True, style="yellow")
    entries = [entry.index for entry in receipt.entries]
    if as_json:
        adopted = [
            {"partition": each.partition, "location": each.location, "size": each.size, "digest": each.digest, "entry": entry}
            for each, entry in zip(contents, entries, strict=True)
        ]
        say_json({"asset": asset_key, "adopted": adopted, "absent": absent, "adopted_by": by, "reason": reason.strip()})
    else:
        span = f"entry {entries[0]}" if len(entries) == 1 else f"entries {entries[0]} to {entries[-1]}"
        say(
            f"Adopted by {by}, ledger {span}. Run the dataset_hash check, or load it: both hold it against this from now on.",
            style="green",
        )


def _known_key(name: str, instance: "dg.DagsterInstance", assets: "dict[dg.AssetKey, Asset] | None") -> "dg.AssetKey":
    import dagster as dg

    key = dg.AssetKey.from_user_string(name)
    if assets is not None:
        known, where = list(assets), "these definitions"
    else:
        known, where = list(instance.get_asset_keys()), "Dagster's event log"
    if key not in known:
        raise ConfigurationError(f"There is no asset {name!r} in {where}. {nearest(name, [other.to_user_string() for other in known])}")
    return key


def _partitions(
    key: "dg.AssetKey", given: tuple[str, ...], all_partitions: bool, instance: "dg.DagsterInstance", asset: "Asset | None"
) -> list[str | None]:
    """The partitions to adopt; `[None]` for an asset that has none."""
    name = key.to_user_string()
    definition = asset.spec.partitions_def if asset else None
    known = sorted(instance.get_materialized_partitions(key)) if asset is None or (asset.executable and definition is not None) else []
    if asset is not None and not asset.executable and definition is not None:
        known = list(definition.get_partition_keys(dynamic_partitions_store=instance))
    partitioned = definition is not None if asset else bool(known)
    if not partitioned:
        if given or all_partitions:
            raise ConfigurationError(f"{name} has no partitions: leave --partition and --all-partitions out.")
        return [None]
    if not given and not all_partitions:
        raise ConfigurationError(f"{name} is partitioned: name what to adopt with --partition KEY, or give --all-partitions.")
    for partition in given:
        if partition not in known:
            raise ConfigurationError(f"{name} has no partition {partition!r} that was materialized. {nearest(partition, known)}")
    if all_partitions and not known:
        raise ConfigurationError(f"No partition of {name} was ever materialized, so there is nothing to adopt.")
    return list(dict.fromkeys(given)) or list(known)


def _examine(
    key: "dg.AssetKey", partitions: list[str | None], seals: "Seals", asset: "Asset | None", progress: Progress, *, strict: bool
) -> tuple[list[_Content], list[str]]:
    """Hash what is stored: what is there, and the partitions for which nothing is."""
    from mlsec_dagster.sealing import latest_materializations, subject_name

    written = latest_materializations(seals.instance, key, partitions)
    found: list[_Content] = []
    absent: list[str] = []
    with ExitStack() as stack:
        through = stack.enter_context(asset.storage(seals, seals.instance)) if asset else None
        for number, partition in enumerate(partitions):
            subject = subject_name(key.to_user_string(), partition)
            progress(f"hashing {subject}:", number, len(partitions))
            event = _event(seals.instance, key, written.get(partition))
            with _stored(key, partition, seals, asset, through, event) as stored:
                if stored is not None:
                    found.append(_content(partition, stored))
                elif strict:
                    raise UnverifiableError(f"Nothing is stored for {subject}, so there is nothing to adopt: restore it or materialize it.")
                else:
                    absent.append(str(partition))
    if not found:
        raise UnverifiableError(f"Nothing is stored for any of the {len(partitions):,} partitions of {key.to_user_string()}.")
    return found, absent


def _event(instance: "dg.DagsterInstance", key: "dg.AssetKey", written: Any) -> "dg.AssetMaterialization | None":
    from mlsec_dagster import _compat

    if written is None:
        return None
    record = _compat.materializations_by_storage_id(instance, key, [written.storage_id]).get(written.storage_id)
    return record.asset_materialization if record else None


@contextmanager
def _stored(
    key: "dg.AssetKey", partition: str | None, seals: "Seals", asset: "Asset | None", through: Any, event: "dg.AssetMaterialization | None"
) -> "Iterator[Stored | None]":
    """What is stored now, found as the check finds it: by the IO manager that keeps it, by the guard's resolver, or where it was told."""
    from mlsec_dagster.integrity.statements import WRITE
    from mlsec_dagster.io_managers.opaque import OpaqueStorage, private_copy, reported_location, resolved_place
    from mlsec_dagster.io_managers.storage import keeps_nothing
    from mlsec_dagster.sealing import SUBJECT_STATEMENTS

    name = key.to_user_string()
    reported = reported_location(event.metadata) if event else None
    written = seals.ledger.latest(name, partition, (WRITE,))
    if written is not None and keeps_nothing(written.statement.predicate.get("files_root")):
        written = through = None  # its IO manager was handed None: it writes for itself
    by_manager = written is not None and written.statement.predicate.get("io_manager")
    known = seals.ledger.latest(name, partition, SUBJECT_STATEMENTS if written is None else (WRITE,))
    location = known.statement.predicate.get("location") if known else None
    resolved = None if by_manager else _resolved(key, asset, event)
    if through is not None and resolved is None:
        storage, subject = through
        if not isinstance(storage, OpaqueStorage) and (by_manager or reported is None or "://" in reported):
            with storage.examine(subject(partition, reported or location)) as stored:
                yield stored
            return
    if resolved is None and not (reported or location):
        raise UnverifiableError(
            f"It is not known where {name} is stored: its materialization reports no `path` or `dagster/uri`"
            + (", and its guard has no resolver for it." if asset else ". Point at its definitions with -m, -f or -w, to ask them.")
        )
    with private_copy(str(reported or location)) if resolved is None else resolved_place(resolved, seals.row_key) as stored:
        yield stored


def _resolved(key: "dg.AssetKey", asset: "Asset | None", event: "dg.AssetMaterialization | None") -> Any:
    """What the resolver that was given to the guard answers; None if there is none, or it does not know."""
    if asset is None or asset.resolver is None:
        return None
    try:
        return asset.resolver(key, event)
    except Exception as error:  # Whatever the project's code raises.
        raise UnverifiableError(
            f"The resolver of {key.to_user_string()} stopped with {type(error).__name__}: {error}. Run this where it can do its work."
        ) from error


def _content(partition: str | None, stored: "Stored") -> _Content:
    """The manifest of what is stored, with the table's content where it is a table, so that a later change can be located."""
    from mlsec_dagster.integrity.containers import table_format
    from mlsec_dagster.integrity.tables import table_grid

    manifest, note = stored.manifest, ""
    if stored.copy is not None and table_format(stored.copy):
        try:
            manifest = replace(manifest, table=table_grid(stored.copy))
        except LimitExceededError:
            raise
        except MlsecError as error:
            note = f"Its files are adopted, not its values: {error}"
    return _Content(partition, manifest, stored.location, note)


def _show(asset: str, contents: list[_Content], absent: list[str], seals: "Seals", *, error: bool) -> None:
    """What will be trusted, and what it replaces."""
    from mlsec_dagster.sealing import SUBJECT_STATEMENTS, subject_name

    sealed = seals.ledger.latest_by_partition(asset, [each.partition for each in contents], SUBJECT_STATEMENTS)
    for each in contents[:SHOWN]:
        say(f"{subject_name(asset, each.partition)}  {each.location or 'in its database'}  {each.extent}  {each.digest}", error=error)
        before = sealed.get(each.partition)
        if before is not None:
            said = before.statement.predicate
            known = said.get("files_root") if each.manifest.files else said.get("content_root")
            entry = f"ledger entry {before.index}" + (", a check that failed" if said.get("verdict") == "failed" else "")
            say(f"    the same as {entry}" if known == each.digest else f"    differs from {entry}, which is about {known}", error=error)
        if each.note:
            say(f"    {each.note}", error=error)
    if len(contents) > SHOWN:
        say(f"… and {len(contents) - SHOWN:,} more", error=error)
    if absent:
        names = ", ".join(absent[:5]) + (" …" if len(absent) > 5 else "")
        say(f"Nothing is stored for {len(absent):,} partitions, which are left out: {names}", error=error)
