"""A file for each format: bytes in, events out. No reader opens, lists or waits for anything.

Each of them has one function:

    read(data: bytes | Iterable[bytes], *, limits: Limits = DEFAULT_LIMITS) -> Iterator[AuditEvent | Quarantined]

`data` is a log object as delivered, whole or in pieces of any size, compressed with gzip or not. What comes out is in the
order of the log, one row for each record; memory is bounded by `limits`, not by the object. No record makes a reader raise:
what cannot be read comes out as `Quarantined`. Errors of the iterable itself (a connection that breaks) pass through.
"""
