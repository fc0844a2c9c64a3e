"""Who saves what: a row for each part of a board, in the order in which a snapshot is put back.

Called while the vCPUs and the partition's time stand; ``load`` on a new board that never ran.
"""

from __future__ import annotations

import threading
import time

from .errors import ConfigError, HostError
from .kvm import state as kvmstate
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .board import Board

RENEW_S, RENEWS, PAUSED_S = 0.01, 500, 0.1
SETTLE_S = 10.0


class Part(Record):
    """A row: ``save(board)`` returns what ``load(board, state)`` takes; ``what`` is for people."""

    name: str
    what: str
    save: Callable[[Board], Any]
    load: Callable[[Board, Any], None]


def _synthetic(board: Board) -> tuple[int, ...] | None:
    if not (board.machine.in_kernel and board.machine.features.enabled):
        return None
    from .hyperv.in_kernel import SYNIC_MSRS

    return SYNIC_MSRS


def _save_vcpus(board: Board) -> list[dict[str, Any]]:
    synthetic = _synthetic(board)
    return [kvmstate.save_vcpu(vcpu, synthetic) for vcpu in board.vcpus]


def _load_vcpus(board: Board, states: list[dict[str, Any]]) -> None:
    for vcpu, state in zip(board.vcpus, states, strict=True):
        kvmstate.load_vcpu(vcpu, state)


def _save_serial(board: Board) -> dict[str, Any]:
    board.serial.drain()
    second = board.agent_uart
    return {
        "programmed": board.serial.programmed, "uart": board.uart.save(),
        "second": second.save() if second is not None else None,
    }  # fmt: skip


def _load_serial(board: Board, state: dict[str, Any]) -> None:
    board.serial.programmed = state["programmed"]
    board.uart.load(state["uart"])
    if board.agent_uart is not None:
        board.agent_uart.load(state["second"])


def _save_bios(board: Board) -> dict[str, Any] | None:
    bios = board.machine.bios
    return bios.save() if bios is not None else None


def _load_bios(board: Board, state: dict[str, Any] | None) -> None:
    if state is not None:
        board.machine.bios.load(state)


def _save_vmbus(board: Board) -> dict[str, Any] | None:
    return board.vmbus.save() if board.vmbus is not None else None


def _load_vmbus(board: Board, state: dict[str, Any] | None) -> None:
    if state is not None:
        board.vmbus.load(state)


def _save_testdev(board: Board) -> None:
    if board.testdev is not None:
        raise ConfigError("snapshot: the hyperv-testdev cannot be saved; leave -device out")


def _nothing(board: Board, state: None) -> None:
    pass


PARTS = (
    Part("vcpus", "registers, FPU, MSRs, LAPIC, what waits to be injected, of each vCPU",
         _save_vcpus, _load_vcpus),
    Part("chips", "PICs, I/O APIC, PIT",
         lambda board: kvmstate.save_vm(board.vm), lambda board, s: kvmstate.load_vm(board.vm, s)),
    Part("driver", "Hyper-V: synthetic MSRs, SynIC, timers, overlay pages, waiting messages",
         lambda board: board.driver.save(), lambda board, s: board.driver.load(s)),
    Part("serial", "COM1, and COM2 if there: registers, input that waits",
         _save_serial, _load_serial),
    Part("pm", "ACPI PM: status, enable, the timer",
         lambda board: board.pm.save(), lambda board, s: board.pm.load(s)),
    Part("cmos", "the RTC: bytes, and how far its time is from the host's",
         lambda board: board.cmos.save(), lambda board, s: board.cmos.load(s)),
    Part("reset_control", "port 0xcf9",
         lambda board: board.cf9.save(), lambda board, s: board.cf9.load(s)),
    Part("fw_cfg", "which item is read",
         lambda board: board.fwcfg.save(), lambda board, s: board.fwcfg.load(s)),
    Part("bios", "keys that wait, the terminal's cursor", _save_bios, _load_bios),
    Part("vmbus", "contact, offers, GPADLs, channels, devices", _save_vmbus, _load_vmbus),
    Part("testdev", "refused", _save_testdev, _nothing),
)  # fmt: skip


def save(board: Board) -> dict[str, Any]:
    """Return the state of *board*; on the event loop (or before start), while it stands.

    :raises ConfigError: a part cannot be saved, or this life of the machine is about to end.
    """
    _settle(board)
    state = {part.name: part.save(board) for part in PARTS}
    state["clock_ns"] = board.vm.clock()[0]
    state["tsc"] = kvmstate.save_tsc(board.vcpus)  # last: nothing saved has seen a later one
    return state


def _settle(board: Board) -> None:
    """Return when the vCPUs' threads have done what was asked of them until now."""
    deadline = time.monotonic() + SETTLE_S
    for thread in board.threads:
        if thread.thread.ident is None:
            continue
        done = threading.Event()
        thread.request(done.set)
        while not done.wait(0.05):
            if not thread.thread.is_alive():
                raise ConfigError("snapshot: the guest resets or stops just now; ask again")
            if time.monotonic() > deadline:
                raise HostError(f"snapshot: vcpu {thread.index} does not answer")


def prepare(board: Board, state: dict[str, Any]) -> None:
    """Set what must be right before anything else is made: the TSCs; vCPUs are there."""
    kvmstate.load_tsc(board.vcpus, state["tsc"])


def load(board: Board, state: dict[str, Any]) -> None:
    """Put *state* into a new board, whose time then stands until ``control.thaw``.

    :raises ConfigError, HostError: it does not fit, or this KVM refuses a part.
    """
    board.vm.freeze_clock_at(state["clock_ns"])
    for part in PARTS:
        part.load(board, state[part.name])


def renew(board: Board, tries: int = RENEWS) -> None:
    """Have the driver make its TSC page valid, again and again until KVM can tell of its clock."""
    seconds = RENEW_S
    if board.machine.control.paused:
        tries, seconds = tries + 1, PAUSED_S
    elif board.driver.renew():
        return
    if tries:
        board.machine.events.after(seconds, lambda: board.ended or renew(board, tries - 1))
