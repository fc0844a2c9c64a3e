"""How much memory a guest has, and how much it needs: the host side of vmbus/balloon.py."""

from __future__ import annotations

import threading
import time

from .errors import ConfigError, HostError
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .board import Board
    from .memory import GuestMemory
    from .stop import Stop
    from .vmbus.balloon import Balloon

BALLOON_S = 60.0
BUSY_S, BEGIN_S = 0.02, 5.0
NO_DRIVER = "the guest has no driver for it now (Linux: hv_balloon)"
PAGE_SHIFT = 12


class MemoryReport(Record):
    """What a guest's driver said of its memory, all in bytes; *age* in seconds.

    *available* is what programs could still have; *committed* is what they were promised, with
    what the kernel keeps for itself: Hyper-V takes it for the memory that the guest needs.
    """

    available: int
    committed: int
    age: float


class Ballooning:
    """The part of Machine that moves memory; any thread but the event loop's may call."""

    board: Board | None
    call: Callable[[Callable[[], None]], None]
    ended: Stop | None
    memory: GuestMemory | None
    started: bool

    def _balloon(self, what: str) -> Balloon:
        from .offers import reach

        return reach(self, "balloon", what)  # type: ignore[return-value]

    @property
    def guest_memory(self) -> int:
        """How many bytes of RAM the guest has now; what it began with, until :meth:`balloon`."""
        return self._balloon("guest_memory").pages << PAGE_SHIFT

    @property
    def memory_report(self) -> MemoryReport | None:
        """What the guest last said; Linux does so every second, from 45 s after its driver came."""
        report = self._balloon("memory_report").report
        if report is None:
            return None
        return MemoryReport(report.available, report.committed, time.monotonic() - report.when)

    def balloon(self, target: str | int, timeout: float = BALLOON_S) -> int:
        """Have the guest have *target* of RAM: bytes, or text such as "512M".

        What it gives up this process gives back to the host at once. More than it began with, up to
        ``maxmem``, is added in blocks of 128 MiB, of which it gives up what is too much.

        :return: what the guest then has, in bytes. More than *target*: it gave what it could, Linux
            keeps what it uses and a reserve. Less: it had no memory for the tables of more.
        :raises ConfigError: more than maxmem, the machine does not run, no driver in the guest.
        :raises HostError: the guest has not answered in *timeout* seconds, or adds no memory.
        """
        from .config import parse_size

        what = f"balloon {target}"
        size = target if isinstance(target, int) else parse_size(target, option="balloon")
        pages = self._pages(what, size)
        balloon = self._balloon(what)
        deadline = time.monotonic() + timeout
        while True:
            has = self._resize(what, balloon, pages, deadline)
            if has is not None:
                return has << PAGE_SHIFT
            if time.monotonic() >= deadline:
                raise HostError(f"{what}: the guest still works at the request before")
            time.sleep(BUSY_S)

    def begin_balloon(self, size: int) -> None:
        """As :meth:`balloon` of so many bytes, but do not wait for the guest.

        :raises ConfigError: the same, and it still works at the request before.
        """
        what = f"balloon {size}"
        pages, balloon = self._pages(what, size), self._balloon(what)
        begun = threading.Event()
        taken: list[bool] = []

        def call() -> None:
            taken.append(balloon.resize(pages, lambda pages: None))
            begun.set()

        self.call(call)
        if not begun.wait(BEGIN_S):
            raise HostError(f"{what}: the machine's event loop has not answered")
        if not taken[0]:
            why = "it still works at the request before" if balloon.busy else NO_DRIVER
            raise ConfigError(f"{what}: {why}")

    def _pages(self, what: str, size: int) -> int:
        most = self.memory.capacity
        if not 0 <= size <= most:
            more = "" if most > self.memory.size else "; -m 512M,maxmem=2G lets more be added"
            raise ConfigError(f"{what}: this guest has {most >> 20} MiB of RAM at most{more}")
        return -(-size >> PAGE_SHIFT)

    def _resize(self, what: str, balloon: Balloon, pages: int, deadline: float) -> int | None:
        """Return how many pages the guest has at the end; None: it is busy."""
        done = threading.Event()
        results: list[int | str | None] = []

        def told(pages: int | None) -> None:
            results.append("gone" if pages is None else balloon.failed or pages)
            done.set()

        def call() -> None:
            if not balloon.resize(pages, told):
                results.append(None if balloon.busy else "gone")
                done.set()

        self.call(call)
        if not done.wait(max(0.0, deadline - time.monotonic())):
            raise HostError(f"{what}: the guest's driver has not answered in time")
        if results[0] == "gone":
            raise ConfigError(f"{what}: {NO_DRIVER}")
        if isinstance(results[0], str):
            raise HostError(f"{what}: {results[0]}")
        return results[0]
