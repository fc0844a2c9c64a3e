"""What is seen of a machine from outside: vCPUs, Hyper-V state, traces of what the guest does."""

from __future__ import annotations

from .errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .board import Board
    from .config import MachineConfig
    from .hypervstate import HypervState
    from .trace.event import Event
    from .vcpuview import VcpuView


class Inspection:
    """The part of Machine that shows it; any thread may call."""

    board: Board | None
    config: MachineConfig
    instruments: list[Callable[[Board], None]]
    started: bool

    @property
    def vcpus(self) -> tuple[VcpuView, ...]:
        """Its vCPUs: registers, MSRs, page tables; see vcpuview.py."""
        from .vcpuview import VcpuView

        return tuple(VcpuView(self, index) for index in range(self.config.smp.cpus))

    @property
    def hyperv(self) -> HypervState:
        """Its Hyper-V state: synthetic MSRs, SINTs, timers, pages; see hypervstate.py."""
        from .hypervstate import HypervState

        return HypervState(self)

    def add_instrument(self, install: Callable[[Board], None]) -> None:
        """Have ``install(board)`` called with every board, this one too, before its vCPUs run.

        It may wrap what is in the vCPUs' tables; see trace/tracer.py.

        :raises ConfigError: the machine was started.
        """
        if self.started or self.board is None:
            raise ConfigError("a machine can be traced only from its start on: do it before")
        self.instruments.append(install)
        install(self.board)

    def trace(self, wanted: str, function: Callable[[Event], None]) -> None:
        """Call ``function(event)`` for what the guest does; before :meth:`start`.

        :param wanted: categories such as "exits" or "msr,hypercall"; see trace/event.py.
        :param function: called after each was served, on the thread it happened on: a vCPU's for
            exits. What it raises ends the machine. It may call :meth:`pause`.
        """
        from .trace.event import categories
        from .trace.tracer import Tracer

        self.add_instrument(Tracer(categories(wanted), function).install)
