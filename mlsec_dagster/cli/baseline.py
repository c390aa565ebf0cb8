"""`mlsec baseline`: the windows that a dataset is compared with, two of them side by side, and how to forget them all."""

import math
from typing import TYPE_CHECKING, Any

import click

from mlsec_dagster.cli.output import say, say_json, visible
from mlsec_dagster.cli.settings import Settings, ledger_options, nearest, signer_options, who
from mlsec_dagster.errors import ConfigurationError, MlsecError

if TYPE_CHECKING:
    from mlsec_dagster.integrity.ledger import Ledger
    from mlsec_dagster.stability.baselines import Baseline, Kept
    from mlsec_dagster.stability.differences import Difference, Side
    from mlsec_dagster.stability.profiles import Window


@click.group()
def baseline() -> None:
    """Look into the windows that a dataset is compared with, or forget them.

    \b
      mlsec baseline show raw_flights
      mlsec baseline diff raw_flights 2013-05-28 2013-06-04
      mlsec baseline forget raw_flights --reason "the sensor was replaced"
    """  # noqa: D301 - click's mark for text that is not to be wrapped


@baseline.command()
@click.argument("asset")
@click.option("--partition", "window", metavar="WINDOW", help="Show the columns of this window: a partition, or as `show` names it.")
@click.option("--columns", is_flag=True, help="Show the columns of the newest window.")
@click.option("--limit", type=click.IntRange(min=1), default=52, show_default=True, help="At most so many windows, the newest.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@ledger_options
def show(settings: Settings, asset: str, window: str | None, columns: bool, limit: int, as_json: bool) -> None:
    """Show the windows of ASSET, or the columns of one of them.

    Every window is authenticated before it is shown. Of columns there are counts, shares and means, never a value of the data; of
    sensitive columns no means and no small counts either.

    \b
      mlsec baseline show raw_flights
      mlsec baseline show raw_flights --partition 2013-06-04
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    found, _ = _opened(settings, asset)
    kept = found.windows()
    if window is not None or columns:
        _show_columns(asset, _chosen(asset, kept, window), _sensitive(kept), as_json)
        return
    shown = kept[-limit:]
    if as_json:
        say_json({"asset": asset, "count": len(kept), "windows": [_document(each) for each in shown]})
        return
    if not kept:
        say(f"No window of {asset} is kept: the next one starts learning.")
        return
    say(f"{'window':<28}{'rows':>12}  {'outcome':<10}{'deviation':>10}{'alarm from':>12}  entry")
    for each in shown:
        document = _document(each)
        numbers = f"{_number(document['statistic']):>10}{_number(document['threshold']):>12}"
        line = f"{visible(each.name, 26):<28}{document['rows']:>12,}  {document['outcome']:<10}{numbers}  {each.entry.index}"
        say(f"{line}  ALARMED" if document["alarmed"] else line, style="red" if document["alarmed"] else None)
    if len(kept) > len(shown):
        say(f"… and {len(kept) - len(shown):,} before them")


@baseline.command()
@click.argument("asset")
@click.argument("before")
@click.argument("now")
@click.option("--values", is_flag=True, help="Also show the value whose share changed most: a value of the data.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@ledger_options
def diff(settings: Settings, asset: str, before: str, now: str, values: bool, as_json: bool) -> None:
    """Compare two windows of ASSET column by column, the most different first.

    Of sensitive columns there are no means, no values and no small counts.

    The distance goes from 0 (alike) to 1 (no value in common) and is taken from samples. Whether it is unusual, only the check can tell.

    \b
      mlsec baseline diff raw_flights 2013-05-28 2013-06-04
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    from mlsec_dagster.stability.differences import differences

    found, _ = _opened(settings, asset)
    kept = found.windows()
    then, later = _chosen(asset, kept, before), _chosen(asset, kept, now)
    columns = differences(then.window, later.window, found.sample(then), found.sample(later), _sensitive(kept))
    rows = (then.window.profile.rows, later.window.profile.rows)
    if as_json:
        say_json(
            {
                "asset": asset,
                "before": {"window": then.name, "rows": rows[0]},
                "now": {"window": later.name, "rows": rows[1]},
                "columns": [_difference(each, values) for each in columns],
            }
        )
        return
    say(f"{asset}: {then.name} ({rows[0]:,} rows) and {later.name} ({rows[1]:,} rows)")
    say(f"{'column':<24}{'distance':>9}  {'missing':<20}{'mean':<28}{'different values':<20}")
    for each in columns:
        line = (
            f"{visible(each.column, 22):<24}{_number(each.distance):>9}  {_pair(_share(each.before.nulls), _share(each.now.nulls)):<20}"
            f"{_pair(_mean(each.before), _mean(each.now)):<28}{_pair(_distinct(each.before), _distinct(each.now)):<20}"
        )
        if each.before.type != each.now.type:
            line += f"  {each.before.type or 'not there'} -> {each.now.type or 'not there'}"
        if values and each.changed is not None:
            line += f"  {visible(each.changed[0], 30)}: {_share(each.changed[1])} -> {_share(each.changed[2])}"
        say(line.rstrip())


@baseline.command()
@click.argument("asset")
@click.option("--reason", metavar="TEXT", required=True, help="Why; recorded in the ledger with your name.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; needs --yes.")
@signer_options
@ledger_options
def forget(
    settings: Settings, asset: str, reason: str, yes: bool, as_json: bool, signer: str | None, signer_public_key: str | None
) -> None:
    """Erase all windows of ASSET and their samples of rows. The next window starts learning anew.

    For data that must be erased, and for data that is meant to look different from now on. Until there are windows enough, nothing is
    compared, so no change will be noticed. The signed statements about the windows stay, for they hold no values; backups of the store
    hold the windows still.

    \b
      mlsec baseline forget raw_flights --reason "the sensor was replaced"
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    from mlsec_dagster.stability.assessment import WINDOWS_NEEDED
    from mlsec_dagster.stability.baselines import Baseline

    if as_json and not yes:
        raise click.UsageError("--json cannot ask: give --yes too.")
    if not reason.strip():
        raise click.UsageError("--reason is empty: say why the windows are forgotten.")
    _opened(settings, asset)
    ledger = settings.open_writing(settings.ring(signer, signer_public_key))
    by = who()
    say(
        f"All windows of {asset} and their samples will be erased. Nothing is compared until {WINDOWS_NEEDED} new windows are there: "
        f"until then a change of the data raises no alarm.",
        error=as_json,
    )
    if not yes:
        click.confirm(f"Forget the baseline of {visible(asset, 200)}, as {visible(by, 200)}?", abort=True)
    erased = Baseline(ledger, asset).forget({"reason": reason.strip(), "forgotten_by": by})
    try:
        if ledger.witness is not None:
            ledger.witness_now()
    except MlsecError as error:
        say(f"Forgotten, but that has not reached the witness: {error}", error=True, style="yellow")
    if as_json:
        say_json({"asset": asset, "erased": erased, "forgotten_by": by, "reason": reason.strip()})
    else:
        say(f"Forgotten by {by}: {erased:,} windows and samples were erased.", style="green")


def _opened(settings: Settings, asset: str) -> "tuple[Baseline, Ledger]":
    """The baseline of an asset.

    Raises:
        ConfigurationError: No window of it was ever kept.
    """
    from mlsec_dagster.stability.baselines import Baseline
    from mlsec_dagster.stability.subject import SUBJECT

    ledger, _ = settings.open_reading()
    known = [name.removeprefix(SUBJECT) for name in ledger.subjects(SUBJECT)]
    if asset not in known:
        raise ConfigurationError(f"The ledger has no baseline of an asset {asset!r}. {nearest(asset, known)}")
    return Baseline(ledger, asset), ledger


def _chosen(asset: str, kept: "list[Kept]", name: str | None) -> "Kept":
    """The newest window of that name, or the newest of all."""
    if not kept:
        raise ConfigurationError(f"No window of {asset} is kept: its baseline was forgotten.")
    if name is None:
        return kept[-1]
    found = next((each for each in reversed(kept) if each.name == name), None)
    if found is None:
        raise ConfigurationError(f"No window {name!r} of {asset} is kept. {nearest(name, [each.name for each in kept])}")
    return found


def _document(kept: "Kept") -> dict[str, Any]:
    window = kept.window
    statistic, threshold = window.statistic or (None, None)
    return {
        "window": kept.name,
        "partition": kept.entry.statement.partition,
        "rows": window.profile.rows,
        "outcome": str(kept.entry.statement.predicate.get("outcome")),
        "statistic": _finite(statistic),
        "threshold": _finite(threshold),
        "alarmed": window.alarmed,
        "p_value": kept.entry.statement.predicate.get("p_value"),
        "method": kept.entry.statement.predicate.get("method"),
        "recorded_at": kept.entry.recorded_at,
        "entry": kept.entry.index,
    }


def _sensitive(kept: "list[Kept]") -> set[str]:
    """Columns that were declared sensitive at any time; what was counted before stays to be kept from view."""
    return {name for each in kept for name in each.window.sensitive}


def _show_columns(asset: str, kept: "Kept", sensitive: set[str], as_json: bool) -> None:
    from mlsec_dagster.stability.differences import side

    window: Window = kept.window
    columns = [(column.name, side(window, column.name, secret=column.name in sensitive)) for column in window.profile.columns]
    if as_json:
        say_json({"asset": asset, **_document(kept), "columns": [{"column": name, **_side(found)} for name, found in columns]})
        return
    say(f"{asset}: {kept.name}, {window.profile.rows:,} rows, ledger entry {kept.entry.index}")
    say(f"{'column':<24}{'type':<20}{'missing':>9}{'different':>12}{'mean':>14}{'deviation':>12}")
    for name, found in columns:
        say(
            f"{visible(name, 22):<24}{visible(found.type, 18):<20}{_share(found.nulls):>9}{_distinct(found):>12}{_mean(found):>14}"
            f"{_number(found.deviation):>12}"
        )


def _side(found: "Side") -> dict[str, Any]:
    return {
        "type": found.type or None,
        "missing": _finite(found.nulls),
        "distinct": found.distinct,
        "mean": _finite(found.mean),
        "deviation": _finite(found.deviation),
    }


def _difference(each: "Difference", values: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "column": each.column,
        "distance": _finite(each.distance),
        "before": _side(each.before),
        "now": _side(each.now),
    }
    if values and each.changed is not None:
        document["changed"] = {"value": each.changed[0], "before": each.changed[1], "now": each.changed[2]}
    return document


def _finite(value: float | None) -> float | None:
    """JSON knows no NaN and no infinity."""
    return value if value is not None and math.isfinite(value) else None


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.3g}"


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2%}"


def _mean(found: "Side") -> str:
    from mlsec_dagster.stability.wording import moment

    if found.mean is not None and found.type.startswith(("timestamp", "date")):
        return moment(found.mean).removesuffix(" UTC")
    return _number(found.mean)


def _distinct(found: "Side") -> str:
    return f"{found.distinct:,}" if found.type and found.distinct is not None else "-"


def _pair(before: str, now: str) -> str:
    return before if before == now else f"{before} -> {now}"
