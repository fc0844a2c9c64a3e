"""Bytes to a descriptor that may block or break, given by threads that must never wait for it.

A small thread of its own writes; what finds the buffer full is dropped and counted.
"""

from __future__ import annotations

import os
import select
import stat
import threading
import time

LIMIT_BYTES = 1 << 20
CHUNK_BYTES = 65536
#: poll() promises this much for a pipe (one page), a little for a terminal or a socket
SMALL_BYTES = 512
PAUSE_S = 0.002  # lets a guest that sends byte by byte gather some
POLL_MS = 100
PTMX = (5, 2)  # major, minor: opening a pty's master again makes another pty


def _own_description(fd: int) -> int | None:
    """Return a non-blocking descriptor of the pipe or terminal behind *fd*; None if there is none.

    O_NONBLOCK on *fd* itself would hit everybody who shares it: the shell, the other end of a
    pipeline. A file has an offset to share and never blocks for long, so it is not opened again.
    """
    status = os.fstat(fd)
    again = stat.S_ISFIFO(status.st_mode) or (
        os.isatty(fd) and (os.major(status.st_rdev), os.minor(status.st_rdev)) != PTMX
    )
    if not again:
        return None
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:  # another user's terminal, no /proc, no reader any more
        return None


class Outlet:
    """The way out to *fd*, which stays the caller's.

    ``dropped`` counts the bytes that did not get out: the buffer of *limit* bytes was full, the
    reader went away, or :meth:`close` lost patience. ``error`` is what the last write said.
    """

    def __init__(self, fd: int, limit: int = LIMIT_BYTES) -> None:
        self._given, self._limit = fd, limit
        own = _own_description(fd)
        self._own = own is not None
        self._fd = fd if own is None else own
        self._file = stat.S_ISREG(os.fstat(fd).st_mode)
        self._lock = threading.Lock()
        self._queue: list[bytes] = []
        self._queued = 0
        self._wake = threading.Event()
        self._idle = self._closing = self._abandoned = False
        self._thread: threading.Thread | None = None
        self.written = self.dropped = 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> None:
        """Queue *data*; any thread, never waits."""
        with self._lock:
            if self.error is not None or self._closing or self._queued + len(data) > self._limit:
                self.dropped += len(data)
                return
            self._queue.append(data)
            self._queued += len(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._main, name="console", daemon=True)
                self._thread.start()
        if self._idle:
            self._wake.set()

    def _main(self) -> None:
        while True:
            with self._lock:
                data, self._queue = b"".join(self._queue), []
            if data:
                self._push(memoryview(data))
                if not self._closing:
                    time.sleep(PAUSE_S)
            elif self._closing:
                return
            else:
                self._wake.clear()
                self._idle = True
                if not self._queue and not self._closing:  # else it came before _idle was seen
                    self._wake.wait()
                self._idle = False

    def _push(self, data: memoryview) -> None:
        """Write all of *data*, or count what could not be."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        size = CHUNK_BYTES if self._own or self._file else SMALL_BYTES
        while data and not self._abandoned:
            try:
                if not self._own and not self._file and not poll.poll(POLL_MS):
                    continue
                count = os.write(self._fd, data[:size])
            except BlockingIOError:
                poll.poll(POLL_MS)
                continue
            except OSError as error:
                with self._lock:
                    self.error = error
                break
            data = data[count:]
            with self._lock:
                self.written += count
                self._queued -= count
        with self._lock:
            self.dropped += len(data)
            self._queued -= len(data)
            if self.error is not None or self._abandoned:
                self.dropped += sum(map(len, self._queue))
                self._queue, self._queued = [], 0

    def close(self, patience: float = 1.0) -> None:
        """Write what waits; give up when for *patience* seconds nothing moved. Idempotent."""
        with self._lock:
            self._closing = True
            thread = self._thread
        self._wake.set()
        seen, since = self.written, time.monotonic()
        while thread is not None and thread.is_alive():
            thread.join(0.02)
            if self.written != seen:
                seen, since = self.written, time.monotonic()
            elif time.monotonic() - since > patience:
                self._abandoned = True
                thread.join(2 * POLL_MS / 1000)
                break
        if thread is not None and thread.is_alive():  # inside write(2) to who knows what; a daemon
            with self._lock:
                self.dropped, self._queue, self._queued = self.dropped + self._queued, [], 0
            return
        if self._own:
            self._own = False
            os.close(self._fd)
