"""What `dg scaffold defs mlsec_dagster.AuditLogComponent <name>` writes."""

from typing import Any

import click
import dagster as dg

NEXT_STEP = """
Put your own logs under `logs` in place of the example:

    - cloudtrail: {bucket: org-trail, prefix: AWSLogs/o-1/, accounts: ["123456789012"]}    # s3_access, gcp, azure
    - mlflow: {directory: /var/log/mlflow-audit}                                           # wandb, kubernetes

Buckets are read with the project's resource `s3` (S3Resource), `gcs` (GCSResource) or `adls2` (ADLS2Resource).
"""


class AuditLogScaffolder(dg.Scaffolder[Any]):
    """Writes a defs.yaml that tails one log, as no part of a project tells where its audit logs are."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write the component's file, and say what is left to do."""
        dg.scaffold_component(request, {"logs": [{"mlflow": {"directory": "/var/log/mlflow-audit"}}]})
        click.echo(NEXT_STEP)
