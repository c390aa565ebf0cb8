"""What statements about the windows of a dataset are about. By itself, because who only asks whether there are any needs no numpy."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mlsec_dagster.integrity.ledger import Ledger

SUBJECT: Final = "mlsec:baseline:"
"""Before the asset's key. No asset can have such a name, for theirs hold no colon: what is said of a baseline is not said of the data."""


def subject_of(asset: str) -> str:
    """The subject of statements about the windows of an asset."""
    return f"{SUBJECT}{asset}"


def has_begun(ledger: "Ledger", asset: str) -> bool:
    """Whether there ever was a window of any partition of an asset."""
    return ledger.guarded_since(subject_of(asset)) is not None
