"""The files of the log, and the one thread that writes them.

    log = AccessLog(Path("/var/log/mlflow-audit"))
    log.put(line)   # never waits for the disk
    log.close()

A name, `<host>-<pid>-<start>-<sequence>.jsonl`, is never used twice and never changes; a file belongs to one process, and only its
newest one grows. Lines wait in a bounded queue. Where it is full, they are counted, and a line that tells how many follows as soon
as there is room. While the disk is full (or gone) nothing is thrown away until the queue is full too.

What is written is synced to the disk once a second, when a file ends, and at the end. So kill -9 loses what the queue held
(milliseconds' worth), and a power cut up to a second.
"""

import atexit
import logging
import os
import re
import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Final

_logger = logging.getLogger(__name__)

LINE_BYTES: Final = 64 << 10
"""No line is longer, its end included."""
_BATCH: Final = 512  # Lines that are written at once.
_SYNC_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 0.5


class AccessLog:
    """Lines of one process, in files of its own. Made before a fork, it starts anew in the child.

    Attributes:
        directory: Where the files lie.
        server: Host and process id, as lines tell it.
    """

    def __init__(
        self,
        directory: Path,
        dropped: Callable[[int, str], bytes],
        *,
        rotate_bytes: int = 64 << 20,
        rotate_seconds: float = 3600,
        queue_lines: int = 10_000,
        queue_bytes: int = 32 << 20,
    ) -> None:
        """Opens nothing yet.

        Args:
            directory: Has to exist.
            dropped: Makes the line that tells how many were dropped, from their number and `server`.
            rotate_bytes: See `Settings`.
            rotate_seconds: Likewise.
            queue_lines: Lines that may wait.
            queue_bytes: Their bytes.
        """
        self.directory = directory
        self._dropped_line = dropped
        self._rotate_bytes = rotate_bytes
        self._rotate_seconds = rotate_seconds
        self._queue_lines = queue_lines
        self._queue_bytes = queue_bytes
        self._file: int | None = None
        self._begin()
        _logs.add(self)
        atexit.register(_close, weakref.ref(self))

    def _begin(self) -> None:
        """As nothing had been written yet: the parent of a fork has the file, the queue and the thread."""
        if self._file is not None:
            os.close(self._file)
        host = re.sub(r"[^A-Za-z0-9.]+", "_", socket.gethostname())[:64] or "host"
        self.server = f"{host}:{os.getpid()}"
        self._name = f"{host}-{os.getpid()}-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
        self._sequence = 0
        self._file = None
        self._size = 0
        self._opened = self._synced = monotonic()
        self._unsynced = False
        self._failing = False
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._thread: threading.Thread | None = None
        self._waiting = False
        self._stopping = False

    def put(self, line: bytes) -> None:
        """Takes a line, its end included, or counts it as dropped."""
        with self._changed:
            if len(self._lines) >= self._queue_lines or self._bytes + len(line) > self._queue_bytes or len(line) > LINE_BYTES:
                self._dropped += 1
            else:
                self._lines.append(line)
                self._bytes += len(line)
            self._wake()

    def drop(self) -> None:
        """Counts an access that no line could be made of."""
        with self._changed:
            self._dropped += 1
            self._wake()

    def close(self, timeout: float = 5.0) -> int:
        """Writes what waits, and syncs it; a line put later begins a new file.

        Args:
            timeout: Seconds to wait for the disk.

        Returns:
            How many accesses are not in the log.
        """
        with self._changed:
            thread = self._thread
            self._stopping = True
            self._changed.notify()
        if thread is not None:
            thread.join(timeout)
        lost = len(self._lines) + self._dropped
        if lost:
            _logger.error("The audit log in %s ends without %s accesses: the disk did not take them.", self.directory, f"{lost:,}")
        return lost

    def _wake(self) -> None:
        if self._thread is None:
            self._stopping = False
            self._thread = threading.Thread(target=self._run, name="mlsec-audit-log", daemon=True)
            self._thread.start()
        elif self._waiting:
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._lines or self._dropped or self._stopping or self._due()):
                    self._wait(self._patience())
                batch = [*islice(self._lines, _BATCH)]  # They leave the queue when they are written.
                dropped = self._dropped
                last = self._stopping and len(batch) < _BATCH
            told = [self._dropped_line(dropped, self.server)] if dropped else []
            written = self._write([*batch, *told])
            if last:
                self._end()
            elif self._due():
                self._sync()
            with self._changed:
                for _ in range(min(written, len(batch))):
                    self._bytes -= len(self._lines.popleft())
                if written > len(batch):
                    self._dropped -= dropped
                failed = written < len(batch) + len(told)
                if self._stopping and (failed or not (self._lines or self._dropped)):
                    self._thread = None
                    return
                if failed:
                    self._wait(_RETRY_SECONDS, until=lambda: self._stopping)

    def _wait(self, seconds: float | None, *, until: Callable[[], bool] | None = None) -> None:
        self._waiting = True
        try:
            if until is None:
                self._changed.wait(seconds)
            else:
                self._changed.wait_for(until, seconds)
        finally:
            self._waiting = False

    def _due(self) -> bool:
        """Whether something is to be done though no line waits."""
        now = monotonic()
        return (self._unsynced and now - self._synced >= _SYNC_SECONDS) or (
            self._file is not None and now - self._opened >= self._rotate_seconds
        )

    def _patience(self) -> float | None:
        if self._file is None:
            return None
        now = monotonic()
        rotation = self._rotate_seconds - (now - self._opened)
        return max(0.0, min(rotation, _SYNC_SECONDS - (now - self._synced)) if self._unsynced else rotation)

    def _write(self, lines: list[bytes]) -> int:
        """Writes lines, and returns how many are whole in a file. Only the thread calls it."""
        written = 0
        try:
            self._leave_if_removed()
            for line in _joined(lines, min(self._rotate_bytes, 1 << 20)):
                if self._file is not None and self._size and self._size + len(line) > self._rotate_bytes:
                    self._end()
                file = self._file if self._file is not None else self._open()
                written += self._append(file, line)
        except Exception as error:  # Of any kind: without this thread there is no log.
            written += getattr(error, "whole_lines", 0)
            if not self._failing:
                self._failing = True
                _logger.error(
                    "The audit log in %s cannot be written (%s). Serving goes on; up to %s accesses wait for the disk, those beyond are "
                    "counted as dropped.",
                    *(self.directory, getattr(error, "strerror", None) or repr(error), f"{self._queue_lines:,}"),
                )
        else:
            if self._failing:
                self._failing = False
                _logger.warning("The audit log in %s can be written again.", self.directory)
        return written

    def _append(self, file: int, data: bytes) -> int:
        done = 0
        try:
            while done < len(data):
                done += _write_some(file, data[done:] if done else data)
        except OSError as error:
            whole = data.rfind(b"\n", 0, done) + 1
            if whole < done:
                self._cut(file, self._size + whole)
            self._size += whole
            self._unsynced = self._unsynced or whole > 0
            error.whole_lines = data.count(b"\n", 0, whole)  # type: ignore[attr-defined]
            raise
        self._size += done
        self._unsynced = True
        return data.count(b"\n")

    def _cut(self, file: int, size: int) -> None:
        """Takes an unfinished line away again, or leaves the file behind."""
        try:
            os.ftruncate(file, size)
        except OSError:
            self._end()

    def _open(self) -> int:
        self._sequence += 1
        path = self.directory / f"{self._name}-{self._sequence:06}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._size = 0
        self._opened = monotonic()
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return self._file

    def _leave_if_removed(self) -> None:
        """What is written to a file without a name is written for nobody."""
        if self._file is not None and os.fstat(self._file).st_nlink == 0:
            _logger.error(
                "Somebody removed the newest file of the audit log in %s while it was written to; a new one begins.", self.directory
            )
            self._end()

    def _sync(self) -> None:
        if self._file is None:
            return
        if monotonic() - self._opened >= self._rotate_seconds:
            self._end()
            return
        try:
            os.fdatasync(self._file)
        except OSError as error:
            _logger.error("The audit log in %s cannot be synced to the disk (%s).", self.directory, error.strerror)
        self._synced = monotonic()
        self._unsynced = False

    def _end(self) -> None:
        """Ends the file; the next line begins another."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            os.fdatasync(file)
        except OSError as error:
            _logger.error("The audit log in %s cannot be synced to the disk (%s).", self.directory, error.strerror)
        finally:
            os.close(file)
        self._unsynced = False


def _write_some(file: int, data: bytes) -> int:
    return os.write(file, data)


def _joined(lines: list[bytes], most: int) -> list[bytes]:
    """Lines put together into pieces of at most that many bytes, so that few calls write many."""
    pieces: list[bytes] = []
    held: list[bytes] = []
    size = 0
    for line in lines:
        if held and size + len(line) > most:
            pieces.append(b"".join(held))
            held, size = [], 0
        held.append(line)
        size += len(line)
    return [*pieces, b"".join(held)] if held else pieces


_logs: "weakref.WeakSet[AccessLog]" = weakref.WeakSet()


def _after_fork() -> None:
    for log in _logs:
        log._begin()  # pyright: ignore[reportPrivateUsage]


def _close(reference: "weakref.ref[AccessLog]") -> None:
    log = reference()
    if log is not None:
        log.close()


os.register_at_fork(after_in_child=_after_fork)
