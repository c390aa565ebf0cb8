"""Public keys that CloudTrail signs digest files with: fetched from it, or given as files.

    keys = PublicKeys({"ea2f…": "cloudtrail-eu-west-1.der"})
    keys.find(digest.fingerprint, region="eu-west-1", start=digest.start, end=digest.end)
    findings = check_signature(digest, keys.known, bucket=bucket, key=key)

They are fetched with the credentials that boto3 finds in the environment, from the region of the digest file.
https://docs.aws.amazon.com/awscloudtrail/latest/APIReference/API_ListPublicKeys.html
"""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from mlsec_dagster.audit.digest_files import public_keys
from mlsec_dagster.errors import ConfigurationError, MissingExtraError, UnverifiableError

_REGION: Final = re.compile(r"[a-z]{2}(?:-[a-z]+)+-\d+")
_CODE: Final = re.compile(r"[A-Za-z0-9_.]{1,64}")
_AGAIN_SECONDS: Final = 300.0
"""A region that has refused is not asked again for so long."""


class KeysUnavailableError(UnverifiableError):
    """Keys could not be fetched, so a signature can be called neither right nor wrong."""


class PublicKeys:
    """Keys by fingerprint. Keep it between ticks: what was fetched is not fetched again.

    Args:
        given: Files with keys in DER, by fingerprint.
        client: Makes a boto3 client for CloudTrail in a region. Default: with the credentials of the environment.

    Attributes:
        known: Keys in DER, by fingerprint.

    Raises:
        ConfigurationError: A file cannot be read.
    """

    def __init__(self, given: Mapping[str, str] | None = None, *, client: Callable[[str], Any] | None = None) -> None:
        self.known: dict[str, bytes] = {}
        for fingerprint, path in (given or {}).items():
            try:
                self.known[fingerprint] = Path(path).read_bytes()
            except OSError as error:
                raise ConfigurationError(
                    f"The public key {fingerprint[:64]!r} of CloudTrail cannot be read from {path} ({error.strerror}). "
                    "Name the DER file that holds it, or leave it out to have it fetched."
                ) from None
        self._client = client or _client
        self._refused: dict[str, tuple[float, str]] = {}

    def find(self, fingerprint: str, *, region: str, start: int, end: int) -> None:
        """Have the key with this fingerprint in `known`, if CloudTrail has it.

        Args:
            fingerprint: As the digest file says.
            region: That the digest file is of.
            start: When it begins, microseconds since the epoch.
            end: When it ends.

        Raises:
            KeysUnavailableError: CloudTrail could not be asked. A clause that says what to do.
        """
        # A region is a folder's name, which anybody may have made, and would become part of a host's.
        if fingerprint in self.known or _REGION.fullmatch(region) is None:
            return
        until, told = self._refused.get(region, (0.0, ""))
        if time.monotonic() < until:
            raise KeysUnavailableError(told)
        told = self._fetch(region, start, end)
        if told:
            self._refused[region] = (time.monotonic() + _AGAIN_SECONDS, told)
            raise KeysUnavailableError(told)

    def _fetch(self, region: str, start: int, end: int) -> str:
        """Nothing, or why there are no keys."""
        try:
            from botocore.exceptions import BotoCoreError, ClientError  # pyright: ignore[reportMissingTypeStubs]
        except ImportError:
            return f"digest files of {region} are not verified: fetching CloudTrail's public keys needs mlsec-dagster[aws]"
        try:
            self.known.update(public_keys(self._client(region), start, end))
        except MissingExtraError as error:
            return f"digest files of {region} are not verified: {error}"
        except (BotoCoreError, ClientError) as error:
            answer: dict[str, Any] = getattr(error, "response", None) or {}
            code = str(answer.get("Error", {}).get("Code", "")) or type(error).__name__
            if code == "InvalidTimeRangeException":
                return ""  # The digest file says when it begins and ends, and is not verified yet: there is no key of such a time.
            return (
                f"digest files of {region} are not verified, for CloudTrail's public keys cannot be fetched"
                f"{f' ({code})' if _CODE.fullmatch(code) else ''}: allow cloudtrail:ListPublicKeys to this process's credentials, "
                "or give CloudTrail(public_keys={fingerprint: file})"
            )
        return ""


def _client(region: str) -> Any:
    try:
        import boto3  # pyright: ignore[reportMissingTypeStubs]
        from botocore.config import Config  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise MissingExtraError("Fetching CloudTrail's public keys needs boto3: install mlsec-dagster[aws].") from error
    # A tick has a minute for everything.
    settings: Any = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})
    made: Any = boto3
    return made.client("cloudtrail", region_name=region, config=settings)
