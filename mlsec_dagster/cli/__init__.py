"""`mlsec`, the command of the person who owns the ledger. `docs/cli.md` tells all of it.

    mlsec verify --key SHA256:5c9d…        # is the ledger what was signed, and was everything sealed?
    mlsec adopt raw_flights --reason "restored from the backup of May 2nd"

Nothing here imports Dagster before a command needs it.
"""

import sys
from typing import Any, Final, NoReturn

import click

from mlsec_dagster.cli import adopt, baseline, keys, ledger, trail, trail_findings, trail_holds, trail_persons, trail_upkeep, verify
from mlsec_dagster.cli.output import say
from mlsec_dagster.errors import ConfigurationError, MlsecError, VerificationError

VERIFIED: Final = 0
DIFFERS: Final = 1
USAGE: Final = 2
ROLLBACK_UNVERIFIABLE: Final = 3
UNVERIFIED: Final = 4

EXIT_CODES: Final = """\b
Exit codes:
  0  everything was verified
  1  the ledger, an entry, a trail or a materialization is not what it should be
  2  usage or configuration
  3  all that could be verified is fine, but a rollback of the ledger cannot be excluded (no witness, or one too old)
  4  could not verify: store unreachable, key missing, …
"""


class _Commands(click.Group):
    """Turns the exceptions that this package raises on purpose into one sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            _stop(error, USAGE)
        except VerificationError as error:
            _stop(error, DIFFERS)
        except MlsecError as error:
            _stop(error, UNVERIFIED)
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            _stop(f"{error.filename or 'The output, or a file'}: {error.strerror or error}.", UNVERIFIED)
        except click.Abort:
            _stop("Stopped; nothing was changed.", USAGE)
        except KeyboardInterrupt:
            sys.exit(130)


def _stop(reason: object, code: int) -> NoReturn:
    say(f"Error: {reason}", error=True)
    raise click.exceptions.Exit(code)


@click.group(cls=_Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="mlsec-dagster", prog_name="mlsec")
def main() -> None:
    """Verify and manage the tamper-evident ledger of a guarded Dagster project.

    \b
    First look:
      mlsec demo                        # attack a guarded example pipeline, and see it caught
      mlsec verify                      # is the ledger what was signed, and was everything sealed?
      mlsec ledger show --limit 20      # what was recorded last
      mlsec trail --since 24h           # who read, wrote or deleted which data and which model
    """  # noqa: D301 - click's mark for text that is not to be wrapped


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.pass_context
def demo(ctx: click.Context) -> None:
    """Attack a guarded pipeline on real flights data, and see each attack caught.

    \b
      mlsec demo             # the drill: under two minutes
      mlsec demo --ui        # open Dagster on the history that it left
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    from mlsec_dagster.demo.drill import main as drill

    ctx.exit(drill(ctx.args) or VERIFIED)


main.add_command(verify.verify)
main.add_command(adopt.adopt)
main.add_command(ledger.ledger)
for command in (trail_upkeep.compact, trail_upkeep.retain, trail_holds.hold, trail_persons.erase, trail_persons.reveal):
    trail.trail.add_command(command)
trail.trail.add_command(trail_persons.pseudonyms)
trail.trail.add_command(trail_findings.acknowledge)
main.add_command(trail.trail)
main.add_command(baseline.baseline)
main.add_command(keys.keys)
