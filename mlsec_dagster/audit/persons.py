"""Which rows of the trail are about a person?

person = Person(principals=["arn:aws:iam::123456789012:user/ann"], emails=["ann@example.com"], addresses=["192.0.2.7"])
matches = person.matches(table)
matches.own, matches.quarantined, matches.mentions     # a mask of the table's rows each
"""

# pyarrow brings no types of its own and makes its compute functions when it is imported, so a type checker does not know them.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Self
from unicodedata import normalize

import pyarrow as pa
import pyarrow.compute as pc

from mlsec_dagster.audit.pseudonyms import Pseudonyms
from mlsec_dagster.audit.rows import FILE_SCHEMA
from mlsec_dagster.errors import ConfigurationError

IDENTITIES: Final = ("principal", "principal_name", "credential", "role", "invoked_by", "acting_as")
"""Columns that say who it was."""

_OURS: Final = {"kind", "log_object", "action", "plane", "outcome"}
_TEXTS: Final = tuple(field.name for field in FILE_SCHEMA if field.type == pa.string() and field.name not in _OURS)
COLUMNS: Final = ("kind", "log_object", *_TEXTS)
"""Columns that have to be read to find a person."""

_SHORTEST: Final = 3
_PLAIN: Final = re.compile(r"[A-Za-z0-9._-]+")

_ANY: Final = ""
# What would make another address of it: more letters, and points and hyphens with more letters behind them.
_BEFORE: Final = r"(?:^|[^\pL\pN_.+-]|\\[nrtbf]|\\u00[0-3][0-9A-Fa-f]|%[0-9A-Fa-f]{2})"
_BEHIND: Final = r"(?:$|[^\pL\pN_.-]|[.-](?:$|[^\pL\pN_]))"
# In a text that is no identity, a point may also begin what a file's name ends in.
_SUFFIX: Final = r"(?:$|[^\pL\pN_-]|-(?:$|[^\pL\pN_]))"


@dataclass(frozen=True, slots=True)
class Matches:
    """Rows of a table that are about a person.

    Attributes:
        own: The person's own accesses: named as who it was, or where from.
        quarantined: Records that could not be read and whose text has the person in it.
        mentions: Other rows, somebody else's accesses, with the person anywhere in a text.
        placed: Rows of these whose log object has the person in its name.
        elsewhere: All other rows whose log object has, and that have the person nowhere else.
    """

    own: Any
    quarantined: Any
    mentions: Any
    placed: Any
    elsewhere: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What a person is known by. At least one of it.

    Attributes:
        principals: Values of `principal` or `acting_as`, whole.
        names: Values of `principal_name`, whole.
        emails: E-mail addresses, anywhere in an identity, in any case.
        addresses: Values of `address`, whole. Addresses are shared and change hands: give one only if it was the person's alone.
        tokens: Pseudonyms of any of these; see `with_pseudonyms`.
    """

    principals: Sequence[str] = ()
    names: Sequence[str] = ()
    emails: Sequence[str] = ()
    addresses: Sequence[str] = ()
    tokens: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.known_by:
            raise ConfigurationError("Say who is meant: a principal, a name, an e-mail address or an IP address.")
        for text in self.known_by:
            if len(text.strip()) < _SHORTEST:
                raise ConfigurationError(f"{text!r} is too short to mean one person; expected at least {_SHORTEST} characters.")
        for email in self.emails:
            if "@" not in email:
                raise ConfigurationError(f"{email!r} is no e-mail address. Is it a principal, or a name?")

    @property
    def known_by(self) -> list[str]:
        """All of it."""
        return [*self.principals, *self.names, *self.emails, *self.addresses, *self.tokens]

    def with_pseudonyms(self, pseudonyms: Pseudonyms) -> Self:
        """The person, also where pseudonyms stand in for what it is known by, under each key."""
        plain = [*self.principals, *self.names, *self.emails, *self.addresses]
        tokens = [token for value in plain for token in pseudonyms.of(value)]
        # Within a longer name only the address was replaced, so that the whole is another text now.
        principals = [*self.principals, *(pseudonyms.without_emails(text) for text in self.principals)]
        names = [*self.names, *(pseudonyms.without_emails(text) for text in self.names)]
        return replace(self, principals=list(dict.fromkeys(principals)), names=list(dict.fromkeys(names)), tokens=tokens)

    def in_text(self, text: str) -> bool:
        """Whether a text has the person anywhere in it."""
        return bool(pc.match_substring_regex(pa.scalar(text), _pattern(self.known_by, _ANY, _ANY)).as_py())

    def matches(self, table: pa.Table) -> Matches:
        """Which rows of a table are about the person.

        Args:
            table: With `COLUMNS` at least.
        """
        erased, quarantined = pc.equal(table.column("kind"), "erased"), pc.equal(table.column("kind"), "quarantined")
        nothing = pc.and_(erased, False)
        own = nothing
        for column, values in (("principal", self.principals), ("acting_as", self.principals), ("principal_name", self.names)):
            own = pc.or_(own, _one_of(table.column(column), values))
        own = pc.or_(own, _one_of(table.column("address"), [*self.addresses, *self.tokens]))
        own = pc.or_(own, _one_of(table.column("user_agent"), self.tokens))
        for column in IDENTITIES if self.emails or self.tokens else ():
            own = pc.or_(own, _with(table.column(column), [*self.emails, *self.tokens], _BEFORE, _BEHIND))
        anywhere = nothing
        for column in _TEXTS:
            anywhere = pc.or_(anywhere, _with(table.column(column), self.known_by, _BEFORE, _SUFFIX))
        placed = _with(table.column("log_object"), self.known_by, _ANY, _ANY)
        raw = pc.and_(anywhere, quarantined)
        named = _with(table.column("log_object"), self.known_by, _BEFORE, _SUFFIX)
        elsewhere = pc.and_not(pc.and_not(named, anywhere), own)
        return Matches(own, raw, pc.and_not(pc.and_not(anywhere, raw), own), placed, elsewhere)


def _one_of(column: Any, values: Sequence[str]) -> Any:
    return pc.is_in(column, value_set=pa.array(list(values), pa.string()))


def _with(column: Any, texts: Sequence[str], before: str, behind: str) -> Any:
    """Where one of the texts is, between such signs. The pattern is dear, so what cannot have any of them is not held against it."""
    words = {max(_PLAIN.findall(text), key=len, default="") for text in texts}
    if column.null_count == len(column) or not any(pc.any(pc.match_substring(column, word, ignore_case=True)).as_py() for word in words):
        return pa.chunked_array([pa.repeat(pa.scalar(False), len(chunk)) for chunk in column.chunks], pa.bool_())
    return pc.fill_null(pc.match_substring_regex(column, _pattern(texts, before, behind)), False)


def _pattern(texts: Sequence[str], before: str, behind: str) -> str:
    """Any of the texts in any case, also with the escapes that URLs and JSON have for signs (RE2)."""
    forms = {normalize(form, text) for text in texts for form in ("NFC", "NFD")} | {*texts}
    words = "|".join("".join(map(_sign, text)) for text in sorted(forms, key=len, reverse=True))
    return f"(?i){before}(?:{words}){behind}"


@lru_cache(maxsize=4096)
def _sign(sign: str) -> str:
    """A sign as it is, percent-encoded once or twice, and as JSON escapes it; letters and digits of ASCII are never escaped."""
    if _PLAIN.fullmatch(sign):
        return re.escape(sign)
    either = [re.escape(sign)]
    # As regular expressions compare letters in any case, so escapes of both cases are meant.
    for each in dict.fromkeys((sign, sign.lower(), sign.upper())):
        data = each.encode("utf-8", "surrogatepass")
        units = each.encode("utf-16-be", "surrogatepass")
        either.append("".join(f"%(?:25)?{byte:02x}" for byte in data))
        either.append("".join(rf"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)))
    if sign == " ":
        either.append(r"\+")
    if sign in '/"\\':
        either.append(re.escape(f"\\{sign}"))
    return f"(?:{'|'.join(dict.fromkeys(either))})"
