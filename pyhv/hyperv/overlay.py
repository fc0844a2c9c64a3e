"""Overlay pages: SIM and SIEF pages lie over guest RAM, which comes back when they go.

TLFS, GPA overlay pages: an overlay covers the RAM under it, and keeps its content while it is not
mapped; it is zero when the VP is made. Here a page is exchanged by copying it: no memory slot
changes, and KVM and the host go on reaching the page by its GPA. So an overlay beyond RAM, which
the TLFS and QEMU allow, is nowhere.
"""

from __future__ import annotations

import threading

from ..errors import BadGpa
from .tlfs import HV_PAGE_ENABLE, HV_PAGE_MASK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable
    from typing import Any

    from ..memory import GuestMemory

PAGE_SIZE = 4096


class Overlays:
    """The overlay pages of one machine. At most two copies of each page are kept.

    Several may lie on one GPA: the last one put there is seen. Any thread may call; what writes
    to a page that is about to move must be held off by the caller.
    """

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self._lock = threading.Lock()
        self._where: dict[Hashable, int] = {}  # page -> GPA, of those that lie somewhere
        self._stacks: dict[int, list[Hashable]] = {}  # GPA -> pages there, the seen one last
        self._ram: dict[int, bytes] = {}  # GPA -> the RAM below a stack
        self._hidden: dict[Hashable, bytes] = {}  # content of pages that are not seen

    def place(self, page: Hashable, msr: int) -> None:
        """Put *page*, any name, where its MSR says (bit 0 on, [63:12] page number), or nowhere."""
        gpa: int | None = msr & HV_PAGE_MASK if msr & HV_PAGE_ENABLE else None
        with self._lock:
            if self._where.get(page) != gpa:
                self._take(page)
                if gpa is not None:
                    self._put(page, gpa)

    def reset(self, page: Hashable) -> None:
        """Take *page* away and forget its content."""
        with self._lock:
            self._take(page)
            self._hidden.pop(page, None)

    def clear(self) -> None:
        """Do :meth:`reset` for every page."""
        for page in list(self._where):
            self.reset(page)
        self._hidden.clear()

    def save(self) -> dict[str, Any]:
        """Return what lies where, and what is covered; names as JSON has them."""
        with self._lock:
            return {
                "stacks": [[gpa, stack] for gpa, stack in self._stacks.items()],
                "ram": [[gpa, data] for gpa, data in self._ram.items()],
                "hidden": [[page, data] for page, data in self._hidden.items()],
            }

    def load(self, state: dict[str, Any]) -> None:
        """Undo :meth:`save`; names are tuples, and guest RAM has the pages in their places."""
        self._stacks = {gpa: [tuple(page) for page in stack] for gpa, stack in state["stacks"]}
        self._where = {page: gpa for gpa, stack in self._stacks.items() for page in stack}
        self._ram = dict(state["ram"])
        self._hidden = {tuple(page): data for page, data in state["hidden"]}

    def _put(self, page: Hashable, gpa: int) -> None:
        try:
            seen = self._memory.read(gpa, PAGE_SIZE)
        except BadGpa:
            return
        stack = self._stacks.setdefault(gpa, [])
        if stack:
            self._hidden[stack[-1]] = seen
        else:
            self._ram[gpa] = seen
        self._memory.write(gpa, self._hidden.pop(page, bytes(PAGE_SIZE)))
        stack.append(page)
        self._where[page] = gpa

    def _take(self, page: Hashable) -> None:
        gpa = self._where.pop(page, None)
        if gpa is None:
            return
        stack = self._stacks[gpa]
        if stack[-1] != page:
            stack.remove(page)  # it was covered: its content is put away already
            return
        self._hidden[page] = self._memory.read(gpa, PAGE_SIZE)
        stack.pop()
        if stack:
            self._memory.write(gpa, self._hidden.pop(stack[-1]))
        else:
            self._memory.write(gpa, self._ram.pop(gpa))
            del self._stacks[gpa]
