"""A disk's own thread for fdatasync(2), which may take seconds: nobody else waits for it.

A flush begun after a request answers that request, so all that wait when one begins share it.
"""

from __future__ import annotations

import errno
import os
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Told = Callable[[OSError | None], None]


class Syncer:
    """Calls *flush* for whoever asks; the thread lives from the first request to :meth:`close`."""

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush
        self._condition = threading.Condition()
        self._waiting: list[Told] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def request(self, told: Told) -> None:
        """Flush, then call *told* with the error or None; on this object's thread.

        Where the host has no thread left, or after :meth:`close`, on the caller's, at once.
        """
        with self._condition:
            if not self._closed and self._begin():
                self._waiting.append(told)
                self._condition.notify()
                return
        told(self._attempt())

    def _begin(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="disk flush", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        return True

    def _attempt(self) -> OSError | None:
        try:
            self._flush()
        except OSError as error:
            return error
        return None

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._waiting:
                    if self._closed:
                        return
                    self._condition.wait()
                batch, self._waiting = self._waiting, []
            error = self._attempt()
            for told in batch:
                told(error)

    def close(self) -> None:
        """Return when all that was asked for is done and the thread has ended. Idempotent."""
        with self._condition:
            self._closed = True
            self._condition.notify()
            thread = self._thread
        if thread is not None:
            thread.join()
        self._flush = _refuse  # no cycle with the disk


def _refuse() -> None:
    raise OSError(errno.EBADF, os.strerror(errno.EBADF))
