"""Pseudonyms: e-mail addresses, IP addresses and user agents that only the holder of a key can read.

    pseudonyms = Pseudonyms(PseudonymKeys.from_file(path))
    pseudonyms.event(event).principal            # "arn:…:assumed-role/Admin/pseudonym:v1:x3Qh…"
    pseudonyms.of("ann@example.com")             # what to search for: under each key
    pseudonyms.reveal("pseudonym:v1:x3Qh…")      # "ann@example.com"

A pseudonym is the value under AES-SIV (RFC 5297), which needs no nonce: equal values stay equal, so that they can be counted and searched
for, and a token that was made up or changed does not open. Values are padded to 16 bytes, so that their length tells little. What remains
to be seen is which rows have the same value, under the same key.

**Accesses stay known when the key changes.** Their identity is taken from the event before anything is replaced, and then goes through
`key`, a keyed hash whose key never rotates. Without that hash the identity itself would betray the principal: all else that is in it
stands in the row, and guesses could be tested. For the same reason an `id` that is a hash of the log's line is replaced by a keyed one,
and so is one that quotes an e-mail address.

https://www.rfc-editor.org/rfc/rfc5297
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from ipaddress import ip_address
from typing import Any, Final

import msgspec

from mlsec_dagster.audit.events import AuditEvent, Quarantined
from mlsec_dagster.audit.pseudonym_keys import ID_BYTES, PseudonymKeys
from mlsec_dagster.audit.schema import EVENT_COLUMNS
from mlsec_dagster.errors import ConfigurationError, VerificationError

PREFIX: Final = "pseudonym:v1:"
TOKEN: Final = re.compile(r"pseudonym:v1:[A-Za-z0-9_-]{48,}")

_NO_TEXTS: Final = frozenset({"source", "id", "time", "logged", "action", "plane", "outcome", "port", "bytes_out", "bytes_in"})
TEXTS: Final = tuple(name for name in EVENT_COLUMNS if name not in _NO_TEXTS | {"address", "user_agent"})
"""Columns in which e-mail addresses are replaced unless others are named: the identities, and every other text, for it may quote one."""

_AAD: Final = b"mlsec:pseudonym:v1"
_BLOCK: Final = 16
_HASHED: Final = "blake3:"
_KEYED: Final = "keyed:"

# RFC 5321 allows more before the @, but there slashes and colons are what surrounds an address in names of resources.
_EMAIL: Final = re.compile(r"\w[\w.+~'-]{0,63}(?:@|%40|%2540|\\u0040)(?=[^\W_])((?:[\w-]{1,63}\.){1,8}[^\W\d_][\w-]{0,62})")
_AT: Final = re.compile(r"%2540|%40|\\u0040")
_IPV4: Final = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d]|\.\d)")
_IPV6: Final = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:(?<=:)(?:\d{1,3}\.){3}\d{1,3})?(?![\w:])")
_SERVICE: Final = re.compile(r"[a-z0-9-]+\.amazonaws\.com|AWS Internal|private|gce-internal-ip")
"""What stands for an address where a service made the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What is replaced.

    Attributes:
        emails: Columns within whose text e-mail addresses are replaced.
        addresses: Whether the column `address` is, unless it names a service.
        user_agents: Whether the column `user_agent` is.
        kept_domains: E-mail addresses of these domains, and of those below them, are no persons.
    """

    emails: Sequence[str] = TEXTS
    addresses: bool = True
    user_agents: bool = True
    kept_domains: Sequence[str] = ("gserviceaccount.com",)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.emails) - (set(EVENT_COLUMNS) - _NO_TEXTS))
        if unknown:
            raise ConfigurationError(
                f"E-mail addresses cannot be replaced in a column {unknown[0]!r}; expected some of {', '.join(TEXTS)}."
            )


class Pseudonyms:
    """Makes pseudonyms, and reveals them.

    Args:
        keys: The keys.
        chosen: What is replaced.
    """

    def __init__(self, keys: PseudonymKeys, chosen: Chosen | None = None) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV

        self.chosen = chosen or Chosen()
        self._ciphers = {name: AESSIV(key) for name, key in keys.keys.items()}
        self._newest = next(iter(self._ciphers))
        self._access = keys.access
        self._kept = tuple(domain.lower() for domain in self.chosen.kept_domains)
        self._token = lru_cache(maxsize=16_384)(self._made)  # Few persons make most of a log.

    # --- tokens

    def token(self, value: str) -> str:
        """The pseudonym of a value, under the newest key."""
        return self._token(value)

    def of(self, value: str) -> list[str]:
        """What stands for a value in the trail, under each key, the newest first; e-mail and IP addresses in any spelling."""
        value = _plain(value)
        return [self._made(value, name) for name in self._ciphers]

    def reveal(self, token: str) -> str:
        """The value behind a pseudonym.

        Raises:
            VerificationError: It is none, or was not made with one of these keys.
        """
        from cryptography.exceptions import InvalidTag

        if not TOKEN.fullmatch(token):
            raise VerificationError(f"{token[:100]!r} is no pseudonym; expected {PREFIX} and at least 48 letters, digits, - and _.")
        text = token.removeprefix(PREFIX)
        try:
            data = urlsafe_b64decode(text + "==")
        except (Base64Error, ValueError):
            data = b""
        name = data[:ID_BYTES]
        if urlsafe_b64encode(data).decode().rstrip("=") != text:
            raise VerificationError("This pseudonym was not made with its key: it was made up or changed.")
        if name not in self._ciphers:
            raise VerificationError(f"The key {name.hex()} of this pseudonym is not among the keys at hand.")
        try:
            padded = self._ciphers[name].decrypt(data[ID_BYTES:], [_AAD, name])
        except (InvalidTag, ValueError):
            raise VerificationError("This pseudonym was not made with its key: it was made up or changed.") from None
        return padded.rstrip(b"\0")[:-1].decode("utf-8", "surrogatepass")

    def revealed(self, text: str) -> str:
        """A text with every pseudonym that was made with these keys replaced by its value; others stay."""

        def value(found: re.Match[str]) -> str:
            try:
                return self.reveal(found[0])
            except VerificationError:
                return found[0]

        return TOKEN.sub(value, text)

    def _made(self, value: str, name: bytes | None = None) -> str:
        name = name or self._newest
        data = value.encode("utf-8", "surrogatepass") + b"\x80"  # ISO/IEC 7816-4 padding, which can always be taken off.
        data += bytes(-len(data) % _BLOCK)
        return PREFIX + urlsafe_b64encode(name + self._ciphers[name].encrypt(data, [_AAD, name])).decode().rstrip("=")

    # --- rows

    def key(self, access_key: bytes) -> bytes:
        """The key under which a row is known, made of the identity that it had before anything was replaced."""
        return blake2b(access_key, digest_size=len(access_key), key=self._access).digest()

    def event(self, event: AuditEvent) -> AuditEvent:
        """The event with pseudonyms; what tells it apart has to be taken from it before."""
        changes: dict[str, Any] = {}
        for column in self.chosen.emails:
            text = getattr(event, column)
            if isinstance(text, str) and (new := self.without_emails(text)) != text:
                changes[column] = new
        if self.chosen.addresses and event.address and not _SERVICE.fullmatch(event.address):
            changes["address"] = self.token(_plain(event.address))
        if self.chosen.user_agents and event.user_agent:
            changes["user_agent"] = self.token(event.user_agent)
        # An identity may hold the name of what was accessed, as one of Azure Monitor does.
        if event.id.startswith(_HASHED) or self.without_emails(event.id) != event.id:
            changes["id"] = self._keyed_id(event.id)
        return msgspec.structs.replace(event, **changes) if changes else event

    def quarantined(self, row: Quarantined) -> Quarantined:
        """The row with pseudonyms in its text, for all e-mail and IP addresses, whatever was chosen: nothing tells what the text is."""
        raw, reason = (self._without_addresses(self.without_emails(text)) for text in (row.raw, row.reason))
        return msgspec.structs.replace(row, raw=raw, reason=reason, id=self._keyed_id(row.id))

    def _keyed_id(self, text: str) -> str:
        return f"{_KEYED}{blake2b(text.encode(), digest_size=16, key=self._access).hexdigest()}"

    def without_emails(self, text: str) -> str:
        """A text with pseudonyms for its e-mail addresses."""
        return _EMAIL.sub(self._email, text) if "@" in text or "40" in text else text

    def _email(self, found: re.Match[str]) -> str:
        domain = found[1].lower()
        if any(domain == kept or domain.endswith(f".{kept}") for kept in self._kept):
            return found[0]
        return self.token(_AT.sub("@", found[0]).lower())

    def _without_addresses(self, text: str) -> str:
        return _IPV4.sub(self._address, _IPV6.sub(self._address, text))

    def _address(self, found: re.Match[str]) -> str:
        plain = _plain(found[0])
        return self.token(plain) if _is_address(plain) else found[0]


def _plain(value: str) -> str:
    """One spelling of an e-mail or IP address, so that one person is one pseudonym; anything else as it is."""
    if _EMAIL.fullmatch(value):
        return _AT.sub("@", value).lower()
    try:
        return str(ip_address(value))
    except ValueError:
        return value


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
