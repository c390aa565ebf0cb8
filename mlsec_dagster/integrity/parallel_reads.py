"""Reading a file fast without mapping it into memory.

A memory map saves a copy, but ends the whole process (SIGBUS) when somebody cuts the file short, or the disk fails, while it is
hashed. Plain reads raise an error instead. To come close to a map, they are made by several threads at once, into a buffer that is used
over and over, so that its bytes are hashed while they are still in the cache.
"""

import contextlib
import mmap
import os
import threading

_PART_BYTES = 2 << 20


def buffer(size: int) -> memoryview:
    """Returns writable memory; if it is large, in huge pages where the system has them (a third fewer address translations)."""
    if size < _PART_BYTES:
        return memoryview(bytearray(size))
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages: slower, not wrong
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


class ParallelReader:
    """Reads a regular file from its beginning, each piece with several threads.

    Use as a context manager: the threads end with it.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._offset = 0
        count = min(os.cpu_count() or 1, 4, max(1, size // _PART_BYTES))
        # For a small file, one byte more than it should have.
        self._part = part = min(_PART_BYTES, size + 1)
        self._whole = buffer(count * part)
        self._parts = [self._whole[number * part : (number + 1) * part] for number in range(count)]
        self._helpers = [_Helper(descriptor, part) for part in self._parts[1:]]

    def __enter__(self) -> "ParallelReader":
        return self

    def __exit__(self, *_: object) -> None:
        for helper in self._helpers:
            helper.stop()

    def read(self) -> memoryview:
        """Returns the next piece, empty at the end; it is overwritten by the next call.

        Raises:
            OSError: Any part of it could not be read.
        """
        start = self._offset
        for number, helper in enumerate(self._helpers, 1):
            helper.begin(start + number * self._part)
        try:
            first = os.preadv(self._descriptor, [self._parts[0]], start)
        finally:
            # Also after an error: no helper may still write into the buffer.
            rest = [helper.end() for helper in self._helpers]
        counts = [first, *rest]
        total = 0
        for count in counts:
            if isinstance(count, OSError):
                raise count
            total += count
            if count < self._part:
                break  # what lies behind a gap is not the file's next byte
        self._offset += total
        return self._whole[:total]


class _Helper:
    """A thread that reads one part whenever it is told to; locks are the cheapest way to tell."""

    def __init__(self, descriptor: int, part: memoryview) -> None:
        self._descriptor = descriptor
        self._part = part
        self._offset: int | None = None
        self._result: int | OSError = 0
        self._go, self._done = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._done.acquire()
        self._thread = threading.Thread(target=self._work, name="mlsec-read", daemon=True)
        self._thread.start()

    def begin(self, offset: int) -> None:
        self._offset = offset
        self._go.release()

    def end(self) -> int | OSError:
        self._done.acquire()
        return self._result

    def stop(self) -> None:
        self._offset = None
        with contextlib.suppress(RuntimeError):  # told to begin and interrupted before it did: it will see that there is nothing to do
            self._go.release()
        self._thread.join()

    def _work(self) -> None:
        while True:
            self._go.acquire()
            if self._offset is None:
                return
            try:
                self._result = os.preadv(self._descriptor, [self._part], self._offset)
            except OSError as error:
                self._result = error
            self._done.release()
