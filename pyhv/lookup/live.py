"""``run --audit``: watches one machine from its start, reports when it has ended.

in_user every MSR access and hypercall is counted, by the tracer's wrappers; in_kernel KVM serves
them, so what the guest enabled is read from KVM when the vCPUs have stopped.
"""

from __future__ import annotations

import threading
import time

from .audit import STATE, show
from .dumps import REGISTERS, Dump
from .evidence import Evidence, take_event
from .rules import Case

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..board import Board
    from ..machine import Machine
    from ..trace.event import Event


class LiveAudit:
    """Audits *machine*, which has not been started; :meth:`close` says what came out."""

    def __init__(self, machine: Machine, say: Callable[[str], None]) -> None:
        self._say, self.evidence = say, Evidence()
        self.evidence.counted = not machine.in_kernel
        self._start = time.monotonic()
        self._lock = threading.Lock()  # vCPUs count at the same time
        table = machine.guest_cpuid.base.table
        self.dump: Dump = {
            key: dict(zip(REGISTERS, words, strict=True)) for key, words in table.items()
        }
        machine.trace("msr,hypercall", self._event)
        if machine.in_kernel:
            machine.add_instrument(self._watch)

    def _event(self, event: Event) -> None:
        with self._lock:
            take_event(self.evidence, event.name, event.category, event.fields, event.result)

    def _watch(self, board: Board) -> None:
        """Read KVM's MSRs when the board's vCPUs have stopped, before it is gone."""
        halt = board.halt

        def halted() -> None:
            halt()
            for vcpu in board.vcpus:
                for number in STATE:
                    value = vcpu.get_msr(number)
                    if value:
                        self.evidence.state(number, value)

        board.halt = halted  # type: ignore[method-assign]

    def close(self) -> None:
        """Print the report; the machine has ended."""
        self.evidence.seconds = time.monotonic() - self._start
        self._say("audit:\n" + show(Case(self.dump, self.evidence), as_json=False)[0])
