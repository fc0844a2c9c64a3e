"""Puts itself between a board's tables and what they call, before the vCPUs start.

Nothing else in pyhv knows of tracing: a machine that is not traced has the plain tables, and not
one instruction more on its exit path.
"""

from __future__ import annotations

import time

from ..bus import DATA, OUT, io_word
from ..errors import GuestFault
from ..kvm import uapi
from . import names
from .event import Event
from .host import HostTracer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..board import Board
    from ..runloop import VcpuThread

    Emit = Callable[[Event], None]

GP = "#GP"
HYPERCALL_PORT = 0xE8  # in_user: the OUT in the hypercall page
BIOS_PORT = 0xEC
#: 64-bit items of kvm_run's registers
RAX, RCX, RDX, R8 = (
    (uapi.RUN_SYNC_REGS + getattr(uapi.Regs, name).offset) >> 3
    for name in ("rax", "rcx", "rdx", "r8")
)
now = time.monotonic_ns


class Tracer:
    """Sends the events of *wanted* categories to *emit*, from whatever thread they happen on.

    :attr:`install` is for ``Machine.instruments``: called with every new board.
    """

    def __init__(self, wanted: frozenset[str], emit: Emit) -> None:
        self.wanted, self.emit = wanted, emit

    def install(self, board: Board) -> None:
        """Wrap the tables of *board*; before its vCPUs start."""
        wanted = self.wanted
        for thread in board.threads:
            if "msr" in wanted:
                self._msrs(thread)
            if wanted & {"pio", "hypercall"}:
                thread.pio_handlers = TracedPorts(self, board, thread)
            if "mmio" in wanted:
                self._mmio(thread)
            if wanted & {"exits", "hypercall"}:
                self._exits(thread)
        HostTracer(wanted, self.emit).install(board)

    # exits

    def _msrs(self, thread: VcpuThread) -> None:
        emit, vcpu = self.emit, thread.index

        def read(number: int, function: Callable[[], int]) -> Callable[[], int]:
            name = names.msr_name(number)

            def traced() -> int:
                begin = now()
                try:
                    value = function()
                except GuestFault:
                    emit(Event(begin, vcpu, "msr", "rdmsr", {"msr": name}, GP, now() - begin))
                    raise
                fields: dict[str, object] = {"msr": name}
                decoded = names.msr_fields(number, value)
                if decoded:
                    fields["decoded"] = decoded
                emit(Event(begin, vcpu, "msr", "rdmsr", fields, value, now() - begin))
                return value

            return traced

        def write(number: int, function: Callable[[int], None]) -> Callable[[int], None]:
            name = names.msr_name(number)

            def traced(value: int) -> None:
                begin, result = now(), None
                fields: dict[str, object] = {"msr": name, "value": value}
                decoded = names.msr_fields(number, value)
                if decoded:
                    fields["decoded"] = decoded
                try:
                    function(value)
                except GuestFault:
                    result = GP
                    raise
                finally:
                    emit(Event(begin, vcpu, "msr", "wrmsr", fields, result, now() - begin))

            return traced

        def refused(name: str) -> Callable[[int], None]:
            def tell(number: int) -> None:
                fields: dict[str, object] = {"msr": names.msr_name(number)}
                if name == "wrmsr":
                    fields["value"] = thread.vcpu.m64[6]
                emit(Event(now(), vcpu, "msr", name, fields, GP))

            return tell

        reads = {number: read(number, f) for number, f in thread.rdmsr.items()}
        writes = {number: write(number, f) for number, f in thread.wrmsr.items()}
        thread.rdmsr = TracedMsrs(reads, refused("rdmsr"))
        thread.wrmsr = TracedMsrs(writes, refused("wrmsr"))

    def _mmio(self, thread: VcpuThread) -> None:
        emit, vcpu, plain_load, plain_store = self.emit, thread.index, thread.load, thread.store
        m32, m64 = thread.vcpu.m32, thread.vcpu.m64

        def load() -> None:
            gpa, size, begin = m64[4], m32[12], now()
            fields: dict[str, object] = {"gpa": gpa, "size": size}
            plain_load()
            end = now()
            result = m64[5] & (1 << size * 8) - 1
            emit(Event(begin, vcpu, "mmio", "mmio_read", fields, result, end - begin))

        def store(gpa: int) -> None:
            size, begin = m32[12], now()
            fields: dict[str, object] = {"gpa": gpa, "size": size}
            fields["value"] = m64[5] & (1 << size * 8) - 1
            plain_store(gpa)
            emit(Event(begin, vcpu, "mmio", "mmio_write", fields, None, now() - begin))

        thread.load = load  # type: ignore[method-assign]
        thread.new_store = lambda gpa: store  # type: ignore[method-assign]

    def _exits(self, thread: VcpuThread) -> None:
        everything = "exits" in self.wanted
        for reason, function in list(thread.exits.items()):
            if reason == uapi.KVM_EXIT_HYPERV:
                thread.exits[reason] = self._hyperv(thread, function)
            elif everything:
                thread.exits[reason] = self._exit(thread, reason, function)

    def _exit(self, thread: VcpuThread, reason: int, function: Callable) -> Callable[[], None]:
        emit, vcpu = self.emit, thread.index
        name = f"KVM_EXIT_{uapi.EXIT_NAMES.get(reason, reason)}"

        def traced() -> None:
            begin = now()
            try:
                function()
            finally:
                emit(Event(begin, vcpu, "exits", name, {}, None, now() - begin))

        return traced

    def _hyperv(self, thread: VcpuThread, function: Callable) -> Callable[[], None]:
        emit, vcpu, wanted = self.emit, thread.index, self.wanted
        m32, m64 = thread.vcpu.m32, thread.vcpu.m64

        def traced() -> None:
            kind, begin = m32[8], now()
            if kind == uapi.KVM_EXIT_HYPERV_HCALL:
                name, fields = names.hypercall(m64[5])
                fields |= {"in1": m64[7], "in2": m64[8]}
                function()
                result = names.status(m64[6])
                emit(Event(begin, vcpu, "hypercall", name, fields, result, now() - begin))
                return
            pages = {"scontrol": m64[6], "siefp": m64[7], "simp": m64[8]}
            function()
            if "exits" in wanted:
                synic = kind == uapi.KVM_EXIT_HYPERV_SYNIC
                name = "KVM_EXIT_HYPERV_SYNIC" if synic else "KVM_EXIT_HYPERV_SYNDBG"
                fields = pages if synic else {}
                emit(Event(begin, vcpu, "exits", name, fields, None, now() - begin))

        return traced


class TracedMsrs(dict):
    """A vCPU's table of MSRs; *refused* hears of a number that is not in it."""

    def __init__(self, table: dict, refused: Callable[[int], None]) -> None:
        super().__init__(table)
        self._refused = refused

    def __missing__(self, number: int) -> Any:
        self._refused(number)
        raise KeyError(number)


class TracedPorts:
    """Makes a vCPU's functions for port accesses, around the plain ones (bus.PioHandlers)."""

    def __init__(self, tracer: Tracer, board: Board, thread: VcpuThread) -> None:
        self._plain, self._bus, self._vcpu = thread.pio_handlers, board.bus, thread.vcpu
        self._emit, self._wanted, self._index = tracer.emit, tracer.wanted, thread.index
        self._in_user = board.driver.name == "in_user"
        for word, plain in thread.pio.items():  # what is not the bus's: BIOS and hypercalls
            thread.pio[word] = self._around(word, plain)

    def make(self, word: int) -> Callable[[int], None]:
        """Return what serves *word*."""
        return self._around(word, self._plain.make(word))

    def _around(self, word: int, plain: Callable[[int], None]) -> Callable[[int], None]:
        if word == io_word(HYPERCALL_PORT, 4, out=True) and self._in_user:
            return self._hypercall(plain) if "hypercall" in self._wanted else plain
        if "pio" not in self._wanted:
            return plain
        return self._access(word, plain) if word >> 32 == 1 else self._string(word, plain)

    def _fields(self, word: int) -> dict[str, object]:
        port = word >> 16 & 0xFFFF
        owner = "BIOS" if port == BIOS_PORT else names.device(self._bus.owner(port))
        return {"port": port, "device": owner, "size": word >> 8 & 0xFF}

    def _access(self, word: int, plain: Callable[[int], None]) -> Callable[[int], None]:
        emit, vcpu, m8 = self._emit, self._index, self._vcpu.m8
        fields, out, end = self._fields(word), word & OUT, DATA + (word >> 8 & 0xFF)

        def traced(word: int) -> None:
            begin = now()
            if out:
                value = int.from_bytes(m8[DATA:end], "little")
                try:
                    plain(word)
                finally:
                    given = fields | {"value": value}
                    emit(Event(begin, vcpu, "pio", "out", given, None, now() - begin))
                return
            plain(word)
            value = int.from_bytes(m8[DATA:end], "little")
            emit(Event(begin, vcpu, "pio", "in", fields, value, now() - begin))

        return traced

    def _hypercall(self, plain: Callable[[int], None]) -> Callable[[int], None]:
        emit, vcpu, m64 = self._emit, self._index, self._vcpu.m64

        def traced(word: int) -> None:
            begin = now()
            name, fields = names.hypercall(m64[RCX])
            fields |= {"in1": m64[RDX], "in2": m64[R8]}
            plain(word)
            result = names.status(m64[RAX])
            emit(Event(begin, vcpu, "hypercall", name, fields, result, now() - begin))

        return traced

    def _string(self, word: int, plain: Callable[[int], None]) -> Callable[[int], None]:
        """A string access is one event."""
        emit, vcpu = self._emit, self._index
        name = "outs" if word & OUT else "ins"
        fields = self._fields(word) | {"count": word >> 32}

        def traced(word: int) -> None:
            begin = now()
            plain(word)
            emit(Event(begin, vcpu, "pio", name, fields, None, now() - begin))

        return traced

    def release(self) -> None:
        """Let go of kvm_run."""
        self._plain.release()
