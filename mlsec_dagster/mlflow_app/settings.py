"""What the environment says, checked before the server serves anything.

| variable | meaning |
| --- | --- |
| `MLSEC_MLFLOW_AUDIT_DIR` | directory of the log; it has to exist, be writable, and not be writable by everybody |
| `MLSEC_MLFLOW_AUTH` | "basic-auth" (default): MLflow's own authentication, as `--app-name basic-auth` has it; "none": no authentication |
| `MLSEC_MLFLOW_AUDIT_ROTATE_BYTES` | a file that would grow beyond this many bytes is followed by the next one; 67108864 if not set |
| `MLSEC_MLFLOW_AUDIT_ROTATE_SECONDS` | a file older than this is followed by the next one; 3600 if not set |

Authentication is on unless it is switched off in so many words: `--app-name` replaces `basic-auth`, and a server must not lose its
authentication because somebody wanted a log. Off, while something that only authentication needs is configured, is refused.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from uuid import uuid4

import click

from mlsec_dagster.errors import ConfigurationError

DIRECTORY: Final = "MLSEC_MLFLOW_AUDIT_DIR"
AUTHENTICATION: Final = "MLSEC_MLFLOW_AUTH"
ROTATE_BYTES: Final = "MLSEC_MLFLOW_AUDIT_ROTATE_BYTES"
ROTATE_SECONDS: Final = "MLSEC_MLFLOW_AUDIT_ROTATE_SECONDS"
_ROTATE_BYTES: Final = 64 << 20
_ROTATE_SECONDS: Final = 3600
# Nobody sets these for a server that lets everybody in.
_OF_AUTHENTICATION: Final = ("MLFLOW_AUTH_CONFIG_PATH", "MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD")


class RefusedError(ConfigurationError, click.ClickException):
    """The server does not start. `mlflow server` prints the sentence alone, without a traceback."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How this server writes its log.

    Attributes:
        directory: Of the log.
        authentication: Which authentication is within.
        rotate_bytes: Size at which a file is followed by the next one.
        rotate_seconds: Age likewise.
    """

    directory: Path
    authentication: Literal["basic-auth", "none"]
    rotate_bytes: int = _ROTATE_BYTES
    rotate_seconds: int = _ROTATE_SECONDS


def settings_from(environment: Mapping[str, str]) -> Settings:
    """The settings, checked.

    Raises:
        RefusedError: One of them cannot be right, or the directory cannot be written to.
    """
    authentication = environment.get(AUTHENTICATION, "basic-auth")
    if authentication not in ("basic-auth", "none"):
        raise RefusedError(f'{AUTHENTICATION} is "basic-auth" or "none", not {authentication!r}; leave it unset for basic-auth.')
    configured = [name for name in _OF_AUTHENTICATION if environment.get(name)]
    if authentication == "none" and configured:
        raise RefusedError(
            f"{AUTHENTICATION}=none would switch off the authentication that {configured[0]} configures; unset one of the two."
        )
    file = environment.get("MLFLOW_AUTH_CONFIG_PATH")
    if file and not Path(file).is_file():  # MLflow itself would go on without it.
        raise RefusedError(f"MLFLOW_AUTH_CONFIG_PATH={file} is no file: name the one that configures authentication.")
    return Settings(
        directory=_writable(environment.get(DIRECTORY)),
        authentication=authentication,
        rotate_bytes=_number(environment, ROTATE_BYTES, _ROTATE_BYTES, least=64 << 10),
        rotate_seconds=_number(environment, ROTATE_SECONDS, _ROTATE_SECONDS, least=1),
    )


def _number(environment: Mapping[str, str], name: str, default: int, *, least: int) -> int:
    text = environment.get(name)
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise RefusedError(f"{name} is a whole number of at least {least:,}, not {text!r}.")
    return int(text)


def _writable(text: str | None) -> Path:
    if not text:
        raise RefusedError(f"The audit log has no directory: set {DIRECTORY} to one that this server, and nobody else, may write to.")
    directory = Path(text).absolute()
    try:
        mode = directory.stat().st_mode
    except OSError as error:
        raise RefusedError(f"{DIRECTORY}={text} cannot be used ({error.strerror}): make the directory, or name another one.") from error
    if not stat.S_ISDIR(mode):
        raise RefusedError(f"{DIRECTORY}={text} is no directory: name one.")
    if mode & stat.S_IWOTH:
        raise RefusedError(f"Everybody may write to {DIRECTORY}={text}, and so to the log: take that right away (chmod o-w).")
    # Rights alone do not tell: a file system may be mounted for reading, or be full.
    probe = directory / f".probe-{uuid4().hex}"
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        probe.unlink()
    except OSError as error:
        raise RefusedError(
            f"{DIRECTORY}={text} cannot be written to ({error.strerror}): give this server the right, or name another."
        ) from error
    return directory
