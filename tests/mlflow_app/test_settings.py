"""A server that cannot log does not start, and says why."""

from pathlib import Path

import pytest

from mlsec_dagster.errors import ConfigurationError
from mlsec_dagster.mlflow_app.settings import settings_from


@pytest.fixture
def directory(tmp_path: Path) -> str:
    place = tmp_path / "log"
    place.mkdir(mode=0o700)
    return str(place)


def test_a_directory_is_enough(directory: str) -> None:
    settings = settings_from({"MLSEC_MLFLOW_AUDIT_DIR": directory})
    assert (settings.directory, settings.authentication) == (Path(directory), "basic-auth")
    assert not [*Path(directory).iterdir()]


def test_a_directory_that_cannot_hold_the_log_is_refused(directory: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for place, why in (
        ("", "has no directory"),
        (f"{directory}/absent", "No such file"),
        (str(file), "is no directory"),
        ("/proc", "cannot"),
    ):
        with pytest.raises(ConfigurationError, match=why):
            settings_from({"MLSEC_MLFLOW_AUDIT_DIR": place})


def test_a_directory_that_everybody_may_write_to_is_refused(directory: str) -> None:
    Path(directory).chmod(0o1777)
    with pytest.raises(ConfigurationError, match="Everybody may write"):
        settings_from({"MLSEC_MLFLOW_AUDIT_DIR": directory})


def test_authentication_is_switched_off_in_so_many_words_only(directory: str) -> None:
    environment = {"MLSEC_MLFLOW_AUDIT_DIR": directory, "MLSEC_MLFLOW_AUTH": "none"}
    assert settings_from(environment).authentication == "none"
    for value in ("", "off", "None"):
        with pytest.raises(ConfigurationError, match="leave it unset"):
            settings_from({**environment, "MLSEC_MLFLOW_AUTH": value})
    for name in ("MLFLOW_AUTH_CONFIG_PATH", "MLFLOW_AUTH_ADMIN_PASSWORD"):
        with pytest.raises(ConfigurationError, match=f"would switch off the authentication that {name} configures"):
            settings_from({**environment, name: "something"})


def test_a_configuration_of_authentication_that_is_not_there_is_refused(directory: str) -> None:
    with pytest.raises(ConfigurationError, match="is no file"):
        settings_from({"MLSEC_MLFLOW_AUDIT_DIR": directory, "MLFLOW_AUTH_CONFIG_PATH": f"{directory}/auth.ini"})


@pytest.mark.parametrize("value", ["-1", "0", "1e6", "many"])
def test_a_rotation_that_is_no_number_is_refused(directory: str, value: str) -> None:
    for name in ("MLSEC_MLFLOW_AUDIT_ROTATE_BYTES", "MLSEC_MLFLOW_AUDIT_ROTATE_SECONDS"):
        with pytest.raises(ConfigurationError, match=name):
            settings_from({"MLSEC_MLFLOW_AUDIT_DIR": directory, name: value})
