"""An app for MLflow's tracking server that writes down every access, because MLflow itself does not.

    export MLSEC_MLFLOW_AUDIT_DIR=/var/log/mlflow-audit
    mlflow server --app-name mlsec-audit …

It is `basic-auth` with an audit log around it: whoever was not let in before is not let in now, and is in the log. The log's
format is that of `mlsec_dagster.audit.sources.mlflow`, which reads it.

`entry` is what MLflow loads, `application` puts the parts together, `wrapper` sees requests pass, `access` is what is
known of one, `naming` says what it is about, `lines` puts it into words, `files` writes. Nothing is imported here.
"""
