"""What the entry point `mlsec-audit` names; imported by nobody else.

`mlflow server` imports it before it starts a worker. That is the one moment at which a setting that cannot be right ends the
command with a sentence; found by a worker, it would end in tracebacks of all of them.
"""

import click

from mlsec_dagster.mlflow_app.application import create_app, prepare

__all__ = ["create_app"]

_command = click.get_current_context(silent=True)
if _command is not None and _command.params.get("app_name") == "mlsec-audit":
    prepare(_command.params)
