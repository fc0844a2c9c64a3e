"""A line on a terminal that says what takes long; nothing anywhere else.

It comes after a third of a second, so what is quick shows nothing, and goes when the work ends.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from threading import Thread

DELAY_S, STEP_S = 0.35, 0.2
ERASE = b"\r\x1b[K"


class Progress:
    """A context manager around one piece of long work.

    :param text: what is done, such as ``loading vmlinuz``.
    :param fd: stderr; watched only if it is a terminal and TERM is not ``dumb``.

    The work may call :meth:`advance`; if it does not, the seconds are shown.
    """

    def __init__(self, text: str, fd: int = 2) -> None:
        self._text, self._fd = text, fd
        self._done = self._total = 0
        self._thread: Thread | None = None
        self.active = os.isatty(fd) and os.environ.get("TERM") != "dumb"

    def advance(self, done: int, total: int) -> None:
        """Note that *done* of *total* units (bytes, sectors, ...) are done. Cheap, any thread."""
        self._done, self._total = done, total

    def line(self, seconds: float) -> str:
        """Return what the line says after *seconds*."""
        if self._total > 0:
            return f"{self._text} {min(100, 100 * self._done // self._total)} %"
        return f"{self._text} {seconds:.0f} s"

    def __enter__(self) -> Progress:
        if self.active:
            import threading

            self._end = threading.Event()
            self._thread = threading.Thread(target=self._show, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._thread is not None:
            self._end.set()
            self._thread.join(1.0)  # a stopped terminal must not stop us
            self._thread = None

    def _show(self) -> None:
        begin, wait, shown = time.monotonic(), DELAY_S, False
        try:
            while not self._end.wait(wait):
                text = self.line(time.monotonic() - begin)
                os.write(self._fd, ERASE + f"pyhv: {text}".encode(errors="backslashreplace"))
                wait, shown = STEP_S, True
            if shown:
                os.write(self._fd, ERASE)
        except OSError:
            pass  # the terminal went away; the work goes on
