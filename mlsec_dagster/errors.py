"""Every exception that this package raises on purpose.

A message names the thing, what was expected, what was found, and what to do next. Code that decides whether data
may be used catches by class: `VerificationError` means "it was looked at, and it differs"; `UnverifiableError` means
"it could not be looked at". Both fail closed; they are never confused with each other.
"""


class MlsecError(Exception):
    """Root of the hierarchy."""


class ConfigurationError(MlsecError):
    """A setting, an asset key or a URI that cannot be right. Raised as early as it can be known."""


class VerificationError(MlsecError):
    """Something was verified and is not what was sealed."""


class UnverifiableError(MlsecError):
    """Something could not be verified: missing, unreadable, of an unknown kind. Never treated as passed."""


class LimitExceededError(UnverifiableError):
    """Data asks for more memory, rows or bytes than the limits allow (a decompression bomb, for one)."""


class LossyContainerError(UnverifiableError):
    """A container cannot tell two different values apart (NaN and null in pandas), so its digest would be a guess."""


class StoreError(MlsecError):
    """The security store cannot be reached, would not outlive the run, or was written by a newer version."""


class LedgerError(VerificationError):
    """The ledger itself is not what was signed: altered, removed, inserted, reordered, truncated, rolled back, forked."""


class SigningKeyError(MlsecError):
    """A key is missing, readable by others, of the wrong role, unknown, or revoked."""


class MissingExtraError(ConfigurationError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""
