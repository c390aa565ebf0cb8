"""How much one log object may ask for before it is refused: a small file can decompress to terabytes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds for one log object. Genuine logs stay far below.

    Attributes:
        record_bytes: Bytes of one record, which has to be held in memory. A longer one is quarantined, and reading goes on behind it.
        kept_bytes: Bytes that are kept of what is quarantined.
        decoded_bytes: Bytes of the whole object, decompressed; they are streamed, so this bounds time, not memory.
        ratio: Decompressed bytes per byte; looked at beyond `ratio_from` decompressed bytes.
        ratio_from: See `ratio`; in bytes.
    """

    record_bytes: int = 16 << 20
    kept_bytes: int = 256 << 10
    decoded_bytes: int = 256 << 30
    ratio: int = 400
    ratio_from: int = 256 << 20


DEFAULT_LIMITS = Limits()
