"""What `dg scaffold defs mlsec_dagster.ExpectationChecksComponent <name>` writes."""

import json
from pathlib import Path
from typing import Any

import click
import dagster as dg

from mlsec_dagster.components.scaffolding import materialized_assets

SUITE = "suite.json"


class ExpectationChecksScaffolder(dg.Scaffolder[Any]):
    """Writes a defs.yaml that checks every asset of the project, and the beginning of a suite, as an empty one would pass everything."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write the component's file and its suite, and say what is left to do."""
        assets = materialized_assets(request.project_root)
        dg.scaffold_component(request, {"assets": assets or ["name_of_an_asset"], "suite": SUITE})
        begun = {
            "name": request.target_path.name,
            "expectations": [{"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 1}, "meta": {}}],
            "meta": {},
        }
        suite = Path(request.target_path) / SUITE
        suite.write_text(json.dumps(begun, indent=2) + "\n", encoding="utf-8")
        if not assets:
            click.echo("The project materializes no assets yet: put the keys of those to check under `assets`.")
        click.echo(f"Put what you expect of the data into {suite.name}, for all of the assets; use one component for each suite.")
