"""Puts MLflow's app, its authentication and the log together.

    app = create_app()  # in each worker: uvicorn --factory mlsec_dagster.mlflow_app.entry:create_app

`basic-auth` is an app like ours, of which a server has one. So ours makes that app, by MLflow's own `create_app`, and wraps it.
"""

import importlib
import os
import secrets
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from packaging.version import Version

from mlsec_dagster.mlflow_app.access import CURRENT
from mlsec_dagster.mlflow_app.files import AccessLog
from mlsec_dagster.mlflow_app.lines import dropped
from mlsec_dagster.mlflow_app.settings import AUTHENTICATION, RefusedError, settings_from
from mlsec_dagster.mlflow_app.wrapper import AuditedApp

LEAST = "3.17"
"""The first MLflow whose `basic-auth` protects native routes and tells whom it authenticated in the way that is read here."""
_KIND = "_MLFLOW_SGI_NAME"  # MLflow tells its workers so what kind of server serves them.


def create_app() -> AuditedApp:
    """The app, for one process.

    Raises:
        RefusedError: The settings cannot be right, or this is no server that can be watched whole.
    """
    settings = settings_from(os.environ)
    kind = os.environ.setdefault(_KIND, "uvicorn")  # Whoever calls this without `mlflow server` serves ASGI.
    if kind != "uvicorn":
        raise RefusedError(f"The audit log needs uvicorn, MLflow's default, not {kind}: leave --gunicorn-opts and --waitress-opts away.")
    _check_version()
    log = AccessLog(settings.directory, dropped, rotate_bytes=settings.rotate_bytes, rotate_seconds=settings.rotate_seconds)
    prefix = os.environ.get("_MLFLOW_STATIC_PREFIX", "").rstrip("/")
    if settings.authentication == "none":
        return AuditedApp(_part("mlflow.server.fastapi_app").app, log, authentication=None, prefix=prefix)
    return AuditedApp(_authenticating(), log, authentication=_authentication(), prefix=prefix)


def prepare(options: Mapping[str, Any]) -> None:
    """What `mlflow server` does for `--app-name basic-auth` before it starts workers, and does not do for ours.

    Args:
        options: Of the command.

    Raises:
        RefusedError: The server cannot serve so.
    """
    if options.get("gunicorn_opts") is not None or options.get("waitress_opts") is not None:
        raise RefusedError("The audit log needs uvicorn, MLflow's default: leave --gunicorn-opts and --waitress-opts away.")
    settings = settings_from(os.environ)
    _check_version()
    if settings.authentication == "none":
        return
    authentication, errors = _part("mlflow.server.auth"), _part("mlflow.exceptions")
    try:
        authentication.get_flask_server_secret_key()
        authentication.bootstrap_admin_user()
    except errors.MlflowException as error:
        raise RefusedError(
            f"{error.message}\n\nMLflow's authentication is on unless {AUTHENTICATION}=none says that everybody may do everything."
        ) from error
    os.environ["_MLFLOW_AUTH_ADMIN_BOOTSTRAPPED"] = "true"
    if _part("mlflow.environment_variables").MLFLOW_SERVER_ENABLE_JOB_EXECUTION.get():  # Jobs log in with it, in all workers alike.
        os.environ.setdefault("_MLFLOW_INTERNAL_GATEWAY_AUTH_TOKEN", secrets.token_hex(32))


def _authenticating() -> Any:
    flask_app = _part("mlflow.server").app
    app = _part("mlflow.server.auth").create_app(flask_app)
    if not isinstance(app, _part("fastapi").FastAPI):
        raise RefusedError(f"MLflow's basic-auth made {type(app).__name__} where it used to make FastAPI: this MLflow is not known.")
    flask_app.after_request(_note_user)  # Called before those of basic-auth, whose own may fail.
    return app


def _note_user(response: Any) -> Any:
    """Flask's routes tell whom they authenticated in `flask.g`, which ends with the request."""
    from flask import g

    access = CURRENT.get()
    if access is not None:
        access.user = g.get("mlflow_authenticated_user")
    return response


def _authentication() -> str:
    configuration = _part("mlflow.server.auth.config")
    function: str = configuration.read_auth_config().authorization_function
    return "basic" if function == configuration.DEFAULT_AUTHORIZATION_FUNCTION else function


def _check_version() -> None:
    found: str = _part("mlflow.version").VERSION
    if Version(found) < Version(LEAST):
        raise RefusedError(f"The audit log needs MLflow {LEAST} or later, and finds {found}: upgrade MLflow.")


def _part(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RefusedError(
            f"{name} cannot be imported ({error}): install mlsec-dagster[mlflow], and mlflow[auth] for basic-auth."
        ) from error
