"""An event loop for tests of backends, which a test turns as far as it wants."""

from __future__ import annotations

import time

from pyhv.events import EventLoop


class Loop:
    """An event loop that is turned by hand."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self.events = EventLoop(self.failures.append)

    def until(self, condition, seconds: float = 5.0) -> None:
        deadline = time.monotonic() + seconds

        def look() -> None:
            if condition() or time.monotonic() > deadline:
                self.events.end()
            else:
                self.events.after(0.002, look)

        self.events._ended = False
        self.events.call(look)
        self.events.run()
        assert condition(), "nothing came of it"
        assert not self.failures

    def turn(self) -> None:
        end = time.monotonic() + 0.03
        self.until(lambda: time.monotonic() > end)
