"""What `dg scaffold defs mlsec_dagster.DatasetChecksComponent <name>` writes."""

from typing import Any

import click
import dagster as dg

from mlsec_dagster.components.scaffolding import materialized_assets

NEXT_STEP = """
The checks are in place. To have every read verified as well, load the project in definitions.py with

    mlsec_dagster.load_from_defs_folder(path_within_project=Path(__file__).parent)

in place of dagster's load_from_defs_folder.
"""


class DatasetChecksScaffolder(dg.Scaffolder[Any]):
    """Writes a defs.yaml that guards every asset of the project, to be cut down to those that matter."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write the component's file, and say what is left to do."""
        datasets = materialized_assets(request.project_root)
        dg.scaffold_component(request, {"datasets": datasets or ["name_of_an_asset"], "policy": "tracked"})
        if not datasets:
            click.echo("The project materializes no assets yet: put the keys of those to guard under `datasets`.")
        click.echo(NEXT_STEP)
