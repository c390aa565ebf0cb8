"""What `mlsec demo` runs: clean weeks, seven attacks on them, and a table of what came of each.

$ mlsec demo                  # builds its history anew in .demo
$ mlsec demo --ui             # opens Dagster on that history
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlsec_dagster.demo.project import MARKER, DrillError, Project, Run, mlsec_command, new_project
from mlsec_dagster.demo.scenarios import ATTACKS, CLEAN_WEEKS, Outcome, ingest_clean_weeks, train
from mlsec_dagster.errors import ConfigurationError

if TYPE_CHECKING:
    from mlsec_dagster.demo.accesses import Sweep

WIDTH = 120
"""Columns of the summary where the output is no terminal."""


def main(arguments: Sequence[str]) -> int:
    """Run the drill, or open Dagster on the history that the last one left.

    Args:
        arguments: Command line arguments after `mlsec demo`.

    Returns:
        The exit code: 0 if every attack was caught, 1 if one was missed.

    Raises:
        ConfigurationError: The directory cannot be used.
    """
    parser = argparse.ArgumentParser(
        "mlsec demo", description="Attack a guarded pipeline on real flights data, and see each attack caught."
    )
    parser.add_argument(
        "--home", type=Path, default=Path(".demo"), metavar="DIR", help="where to; an earlier demo there is removed [.demo]"
    )
    parser.add_argument("--ui", action="store_true", help="open Dagster on the history that the last demo left")
    options = parser.parse_args(arguments)
    if options.ui:
        return _open_ui(options.home.resolve())
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    return run_drill(options.home, console)


def run_drill(home: Path, console: Console) -> int:
    """Build the history, attack it, print what came of it; returns the exit code."""
    # Dagster, pandas and the guard take a second to import; the first line should not wait for them.
    console.print(
        f"Setting up a guarded Dagster project in {home}: the flights that left New York in the first {CLEAN_WEEKS} weeks of 2013"
    )
    from mlsec_dagster.demo import pipeline
    from mlsec_dagster.demo.accesses import Registered
    from mlsec_dagster.demo.definitions import guarded

    started = perf_counter()
    with new_project(home, lambda witness: guarded(str(witness)), pipeline.defs) as project, Registered(project) as registered:
        ticks = partial(_tick, console)
        try:
            console.print("\n[bold]Clean runs[/bold]: each dataset is sealed when it is written, checked, and verified when it is read")
            ingest_clean_weeks(project, ticks)
            outcomes: list[Outcome] = []
            console.print(
                "\n[bold]Attacks[/bold], each undone before the next: somebody writes to storage, the ledger's database, the source"
            )
            for number, attack in enumerate(ATTACKS, 1):
                outcomes.append(attack(project))
                _tell(console, number, outcomes[-1])
            console.print("\n[bold]Afterwards[/bold], with every attack undone")
            train(project, ticks)
            console.print("\n[bold]The registry[/bold]: the model is in a real MLflow server now, and two people have a login to it")
            sweep = registered.play()
            _tell_accesses(console, sweep)
        except DrillError as error:
            console.print(Text.assemble(("The drill stopped: ", "red bold"), str(error)))
            return 1
        console.print()
        console.print(summary(outcomes))
        return _conclude(console, project, outcomes, sweep, perf_counter() - started)


def summary(outcomes: Sequence[Outcome]) -> Table:
    """One row for each attack."""
    table = Table(show_lines=True)
    table.add_column("attack", width=17)
    table.add_column("what came of it", overflow="fold")
    table.add_column("trained?", justify="center", width=8)
    for number, outcome in enumerate(outcomes, 1):
        story = Table.grid(padding=(0, 1))
        story.add_column(style="dim", no_wrap=True)
        story.add_column(overflow="fold")
        story.add_row("attacker", Text(outcome.did))
        story.add_row("caught by", Text(outcome.caught_by) if outcome.caught_by else Text("nothing", style="red bold"))
        story.add_row("where", Text(outcome.where, style="bold"))
        story.add_row("look at", Text("\n".join(outcome.look)))
        trained = Text("YES", style="red bold") if outcome.trained else Text("no", style="green")
        table.add_row(Text(f"{number}. {outcome.name}", style="bold"), story, trained)
    return table


def _tick(console: Console, what: str, run: Run) -> None:
    passed = len(run.checks_passed)
    checks = f"{passed} check{'s' if passed != 1 else ''} passed"
    console.print(f"  [green]✓[/green] {what:<19} {', '.join(sorted(run.materialized)):<29} {checks} {run.seconds:6.1f} s")


def _tell(console: Console, number: int, outcome: Outcome) -> None:
    mark = "[green]caught[/green]" if outcome.caught else "[red bold]MISSED[/red bold]"
    console.print(f"  {number}. {outcome.name}: {mark}")
    if outcome.remark:
        console.print(Text(f"     {outcome.remark}", style="dim"))


def _tell_accesses(console: Console, sweep: "Sweep") -> None:
    for taken, did in ((sweep.colleague, "downloaded one version"), (sweep.stranger, "downloaded every version there is")):
        versions = f"version{'s' if len(taken.versions) != 1 else ''} {', '.join(taken.versions) or 'unknown'}"
        mark = "[green]in the trail[/green]" if taken.complete else "[red bold]NOT ALL IN THE TRAIL[/red bold]"
        console.print(f"  {taken.user} {did}: {mark}, {versions}, {taken.bytes:,} bytes in {taken.reads} read{'s' * (taken.reads != 1)}")
    console.print(Text(f"     {sweep.seconds:.0f} s after the last byte. Look at: {'; '.join(sweep.look)}", style="dim"))


def _conclude(console: Console, project: Project, outcomes: Sequence[Outcome], sweep: "Sweep", seconds: float) -> int:
    missed = [outcome.name for outcome in outcomes if not outcome.caught]
    console.print()
    if missed:
        console.print(
            f"[red bold]Missed: {', '.join(missed)}.[/red bold] {len(outcomes) - len(missed)} of {len(outcomes)} caught in {seconds:.0f} s."
        )
    else:
        console.print(
            f"[green bold]All {len(outcomes)} attacks were caught[/green bold] in {seconds:.0f} s. No model was trained on what they left."
        )
    console.print(Text(f"The pages are those of the Dagster UI: {mlsec_command()} demo --ui (or make ui) opens it on this history."))
    console.print(Text(f"What went past the guard stays on record: {project.verify_command()}"))
    return 1 if missed or not sweep.seen else 0


def _open_ui(home: Path) -> int:
    if not (home / MARKER).exists():
        raise ConfigurationError(f"{home} holds no demo yet: run `mlsec demo` first.")
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        # Runs that are started there must see what the drill saw.
        "MLSEC_WITNESS": str(home / "witness"),
        # The security team's own location, beside the pipeline's, with a ledger and a key of its own.
        "MLSEC_SECURITY_DATASETS": "training_set,delay_model",
    }
    modules = ("mlsec_dagster.demo.definitions", "mlsec_dagster.definitions")
    command = [sys.executable, "-m", "dagster", "dev", *(word for module in modules for word in ("-m", module))]
    os.execve(sys.executable, command, environment)  # noqa: S606 - Dagster takes this process over, and with it signals and exit code
