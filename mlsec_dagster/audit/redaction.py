"""Secrets are removed from texts of logs before anything is stored.

    redact("/c/model.pkl?sv=2024-11-04&sig=a%2Fb%3D")  # "/c/model.pkl?sv=2024-11-04&sig=REDACTED"

Removed are signatures of shared access (Azure SAS, AWS and Google presigned URLs), values of parameters and members that
are named like a secret, Authorization values and cookies, passwords within URLs, private keys, and tokens that can be told by
their look. Kept are identifiers, which are not secret: access key ids, expiry times, permissions, hashes of tokens.

A secret with neither a telling name nor a telling look cannot be seen, and stays.

https://learn.microsoft.com/rest/api/storageservices/create-service-sas
https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
https://cloud.google.com/storage/docs/access-control/signed-urls
"""

import re
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Final, overload
from urllib.parse import unquote

REDACTED: Final = "REDACTED"
_SHORT: Final = 512  # Only texts below are remembered, so that memory stays bounded.
_REPLACEMENT: Final = rf"\g<1>{REDACTED}"

_ENCODED: Final = r"%(?:25){0,4}"  # Percent-encoding, also of what was encoded before.
_QUOTE: Final = rf"(?:\\*[\"']|\\+[uU]0022|{_ENCODED}22)"
_LETTER: Final = r"%(?:[46][1-9A-Fa-f]|[57][0-9Aa]|2[DdEe]|5[Ff])"  # Encoded though nothing asks for it; servers decode it all the same.
_NAMED: Final = re.compile(  # A name, and a sign behind it, in any quotes and escapes.
    rf"(?<![\w.-])([\w.-]{{1,128}}+(?:{_LETTER}[\w.-]{{0,128}}+){{0,16}}+|(?:{_LETTER}[\w.-]{{0,128}}+){{1,16}}+)"
    rf"{_QUOTE}?\s{{0,8}}(?:=|:|{_ENCODED}3[dDaA]|\\+[uU]003[dD])\s{{0,8}}{_QUOTE}?"
)
_TO_ITS_END: Final = rf"(?:(?!{_ENCODED}2[26]|\\+[uU]002[26]|\\+[\"'])[^\s\"'&;,<>(){{}}\[\]])"  # Of a parameter.
_VALUE: Final = re.compile(
    rf"\[\s{{0,8}}\\*[\"'][^\]]*|{_ENCODED}5[bB](?:(?!{_ENCODED}5[dD])\S)*{_TO_ITS_END}*"  # A list,
    rf"|(?<=\")(?:[^\"\\]|\\[^\"])+|{_TO_ITS_END}+"  # or in quotes up to their end, or up to whatever ends a parameter.
)
_SECRET_NAME: Final = re.compile(
    # Short names have to stand alone, or behind the escape of what stands before a parameter.
    r"(?:^|[-_.]|26|3[fb]|2[02c]|7b|u0026|u0022|^[nrt])(?:sig|sas|pwd|jwt)$"
    r"|(?:signature|token|secret|password|passwd|passphrase|assertion|(?:api|access|account|private|secret|shared)[-_]?key)$"
    r"|encryption(?:-customer)?-key$",
    re.IGNORECASE,
)
_HEADER: Final = re.compile(
    r"((?<![a-z])(?:authorization|cookie)(?:\\*[\"']|%22)?\s{0,8}(?:=|:|%3[dDaA])\s{0,8}\[?(?:\\*[\"']|%22)?)([^\"'\\\r\n\[\]]+)",
    re.IGNORECASE,
)
_HEADERS: Final = re.compile(r"((?<![a-z])(?:authorization|cookie)\\*[\"']\s{0,8}:\s{0,8}\[)([^\]\r\n]+)", re.IGNORECASE)
_SCHEME: Final = re.compile(r"((?<![a-z])(?:bearer|basic|negotiate|sharedkey(?:lite)?)(?:\s|%20|\+)+)([\w.~+/=:%-]{6,})", re.IGNORECASE)
_USER: Final = re.compile(r"(://[^\s/:@\"'?#]*:)([^\s/@\"'?#]+)(?=@)")
_ENCODED_USER: Final = re.compile(
    r"(%(?P<more>(?:25){0,4})3[aA](?:%(?P=more)2[fF]){2}(?:(?!%(?P=more)(?:3[aA]|2[fF]|40))[^\s&\"'])*%(?P=more)3[aA])"
    r"(?:(?!%(?P=more)(?:2[fF]|40))[^\s&\"'])+(?=%(?P=more)40)"
)
_KEY: Final = re.compile(r"(-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----)(.+?)(?=-----END|\Z)", re.DOTALL)
_LOOK: Final = re.compile(
    r"(?<![\w-])()("
    r"eyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*){0,3}"  # JSON Web Token
    r"|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}"
    r"|hf_[A-Za-z0-9]{20,}|dapi[0-9a-f]{32}(?:-\d)?|sk-[\w-]{20,}|xox[abprs]-[\w-]{10,}"
    r"|ya29\.[\w-]{20,}|AIza[\w-]{35}"
    r"|(?:IQoJb3JpZ2lu|FwoGZXIvYXdz|FQoGZXIvYXdz)[\w+/=%-]{20,})"  # sessions of AWS STS
)


def _without_named(text: str) -> str:
    """Values of parameters and members with the name of a secret; a value that is none is looked into in turn."""
    kept: list[str] = []
    done = 0
    for named in _NAMED.finditer(text):
        if named.start() < done or _SECRET_NAME.search(unquote(named[1])) is None:
            continue
        value = _VALUE.match(text, named.end())
        if value is not None:
            kept += (text[done : named.end()], REDACTED)
            done = value.end()
    return "".join((*kept, text[done:]))


# Without one of these, in small letters, a step has nothing to find. Most texts are without any, and are left alone at once.
_LOOKS: Final = ("eyj", "dapi", "xox", "ya29.", "aiza", "qojb3", "ogzx")
_LOOKS_WITH_UNDERSCORE: Final = ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "hf_")
_LOOKS_WITH_HYPHEN: Final = ("glpat-", "sk-")
_NAMES: Final = ("sig", "token", "secret", "pass", "assertion", "key", "sas", "pwd", "jwt", "%4", "%5", "%6", "%7")
_SCHEMES: Final = ("bearer", "basic", "negotiate", "sharedkey")


def redact(text: str) -> str:
    """`text` with every secret that can be told replaced by `REDACTED`; applied twice, the same as once."""
    small = text.lower()
    for sign, hints, step in _STEPS if _marked(text) else _LOOK_STEPS:
        if sign in small:
            for hint in hints:
                if hint in small:
                    text = step(text)
                    break
    return text


def _marked(text: str) -> bool:
    """Whether there is a sign, or a blank, of which what tells a secret by its name has at least one: names of objects have mostly none."""
    return (
        not (text.isascii() and text.isprintable())
        or "=" in text
        or ":" in text
        or "%" in text
        or " " in text
        or "+" in text
        or "\\" in text
    )


def _replacing(pattern: re.Pattern[str]) -> Callable[[str], str]:
    return partial(pattern.sub, _REPLACEMENT)


# A sign without which none of the hints is there, the hints, and what is to be done if one is.
_LOOK_STEPS: Final[tuple[tuple[str, tuple[str, ...], Callable[[str], str]], ...]] = (
    ("", _LOOKS, _replacing(_LOOK)),
    ("_", _LOOKS_WITH_UNDERSCORE, _replacing(_LOOK)),
    ("-", _LOOKS_WITH_HYPHEN, _replacing(_LOOK)),
)
_STEPS: Final = (
    (" ", ("private key",), _replacing(_KEY)),
    ("", ("authorization", "cookie"), _replacing(_HEADERS)),
    ("", ("authorization", "cookie"), _replacing(_HEADER)),
    ("", _SCHEMES, _replacing(_SCHEME)),
    ("", _NAMES, _without_named),
    (":", ("://",), _replacing(_USER)),
    ("%", ("2f%",), _replacing(_ENCODED_USER)),
    *_LOOK_STEPS,
)


@overload
def clean(text: str) -> str: ...
@overload
def clean(text: None) -> None: ...
def clean(text: str | None) -> str | None:
    """`redact` for a field that is seldom seen twice, such as an object's name; None stays None."""
    return None if text is None else redact(text)


@overload
def clean_again(text: str) -> str: ...
@overload
def clean_again(text: None) -> None: ...
def clean_again(text: str | None) -> str | None:
    """`clean` for a field with few values, such as a user agent or a principal: they are remembered."""
    return text if text is None else _short(text) if len(text) < _SHORT else redact(text)


@lru_cache(maxsize=8192)
def _short(text: str) -> str:
    return redact(text)
