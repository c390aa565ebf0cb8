"""What HTTP says of an access, in every log alike."""

import ipaddress
from typing import Final

from mlsec_dagster.audit.events import Action, Outcome

_DENIED: Final = frozenset({401, 403, 407})
_ACTIONS: Final[dict[str, Action]] = {
    "GET": "read",
    "HEAD": "read",
    "OPTIONS": "read",
    "POST": "create",
    "PUT": "write",
    "PATCH": "update",
    "DELETE": "delete",
}


def outcome(status: int | None) -> Outcome:
    """The outcome that a status code stands for (RFC 9110, section 15); "unknown" for none."""
    if status is None:
        return "unknown"
    if status in _DENIED:
        return "denied"
    return "success" if status < 400 else "failure"


def action(method: str) -> Action:
    """The action that a method stands for (RFC 9110, section 9), where nothing better is known."""
    return _ACTIONS.get(method.upper(), "other")


def address_and_port(text: str | None) -> tuple[str | None, int | None]:
    """Takes "192.0.2.1:443", "[2001:db8::1]:443" and bare addresses apart; anything else stays whole, without a port."""
    if not text:
        return None, None
    host, separator, port = text.rpartition(":")
    if separator and port.isascii() and port.isdigit() and int(port) < 65536:
        bare = host.removeprefix("[").removesuffix("]")
        if is_address(bare) and (bare != host or ":" not in bare):
            return bare, int(port)
    bare = text.removeprefix("[").removesuffix("]")
    return (bare if is_address(bare) else text), None


def is_address(text: str) -> bool:
    """Whether this is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
