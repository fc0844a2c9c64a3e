"""The 16550A behind COM1: the guest's console, and usually the busiest device of all.

The transmitter is infinitely fast: THRE and TEMT are always set. Interrupts
follow the chip all the same, because Linux' 8250 driver probes them at start
(linux: drivers/tty/serial/8250/8250_port.c, serial8250_THRE_test and the
UART_BUG_TXEN test of serial8250_do_startup). Source for the registers:
National Semiconductor PC16550D.
"""

from __future__ import annotations

import threading
from _collections import deque

from ..saving import fields, put

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PORTS = 8
DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(PORTS)  # IIR is FCR when written
FIFO_BYTES = 16
QUEUE_BYTES = 65536  # what receive() keeps for a guest that does not read

IER_RDI, IER_THRI, IER_RLSI, IER_MSI = 1, 2, 4, 8
IIR_RLS, IIR_RDI, IIR_THRI, IIR_MSI, IIR_NONE = 6, 4, 2, 0, 1
IIR_FIFO = 0xC0
FCR_ENABLE, FCR_CLEAR_RECEIVE = 1, 2
LCR_DLAB = 0x80
MCR_LOOP = 0x10
LSR_DR, LSR_OE = 1, 2
LSR_ERRORS = 0x1E
LSR_EMPTY = 0x60  # THRE and TEMT
MSR_READY = 0xB0  # DCD, DSR and CTS: somebody is there
MSR_RI = 0x40
MSR_DELTAS = 0x0F
BYTES = tuple(bytes((value,)) for value in range(256))
SAVED = ("_ier", "_fcr", "_lcr", "_mcr", "_scratch", "_divisor", "_errors", "_msr", "_thre",
         "_received", "_looped")  # fmt: skip


class Uart:
    """A 16550A.

    :param out: takes what the guest sends; must not block.
    :param irq: the interrupt line (ISA IRQ 4 for COM1), called on changes only.

    vCPU threads call ``pio_in`` and ``pio_out``; any thread may call :meth:`receive`.
    """

    def __init__(
        self,
        out: Callable[[bytes], None],
        irq: Callable[[bool], None],
    ) -> None:
        self._out, self._irq = out, irq
        self._lock = threading.Lock()  # only where the interrupt line may change
        self._level = False
        self._received: deque[int] = deque()  # bytes from the host
        self.reset()

    def reset(self) -> None:
        """Go to the state after power-on; input that waits on the host side stays."""
        self._looped: deque[int] = deque()  # bytes from the guest itself, MCR bit 4
        self._ier = self._fcr = self._lcr = self._mcr = self._scratch = 0
        self._divisor = [12, 0]  # 9600 baud; kept, not used
        self._errors = 0  # LSR bits 1-4
        self._msr = MSR_READY
        self._thre = False  # the transmitter's interrupt is pending
        self._plain = True  # a write to DATA is nothing but output
        self._update()

    def save(self) -> dict[str, Any]:
        """Return its state; input that waits is part of it."""
        with self._lock:
            return fields(self, SAVED)

    def load(self, state: dict[str, Any]) -> None:
        """Undo :meth:`save`, and drive the line."""
        put(self, SAVED, state)
        self._refresh()

    def pio_in(self, offset: int, size: int) -> int:
        """Return *size* registers from *offset* on. LSR comes first: guests poll it per byte."""
        if size != 1:
            return sum(self.pio_in(offset + i, 1) << 8 * i for i in range(size))
        if offset == LSR:
            queue = self._looped if self._mcr & MCR_LOOP else self._received
            status = LSR_EMPTY | self._errors | (LSR_DR if queue else 0)
            if self._errors:
                self._errors = 0
                self._update()
            return status
        return _READ[offset](self)

    def pio_out(self, offset: int, size: int, value: int) -> None:
        """Take *size* registers from *offset* on."""
        if size != 1:
            for i in range(size):
                self.pio_out(offset + i, 1, value >> 8 * i & 0xFF)
        elif offset:
            _WRITE[offset](self, value & 0xFF)
        elif self._plain:
            self._out(BYTES[value & 0xFF])
        else:
            self.transmit(BYTES[value & 0xFF])

    def transmit(self, data: bytes) -> None:
        """Take writes to the first port in bulk, oldest first, as KVM's coalesced ring has them.

        They mean what the state of the chip says now, so the ring is drained before an exit is
        handled: while DLAB is set they are the divisor, in loopback they come back as input. A
        guest that sends by interrupt mostly drains the ring itself, by reading IIR in its handler;
        one that sleeps after its last byte waits for the host's timer, so keep that short.
        """
        if not data:
            return
        if self._lcr & LCR_DLAB:
            self._divisor[0] = data[-1]
            return
        if self._mcr & MCR_LOOP:
            room = max(FIFO_BYTES - len(self._looped), 0)
            self._looped.extend(data[:room])
            if len(data) > room:
                self._errors |= LSR_OE
        else:
            self._out(data)
        # Written, and empty again at once: a new transmit interrupt.
        self._thre = True
        if self._ier:
            self._update()

    @property
    def listening(self) -> bool:
        """Whether the guest's driver has the port open: it wants an interrupt for input."""
        return bool(self._ier & IER_RDI)

    def receive(self, data: bytes) -> int:
        """Queue input for the guest; any thread.

        :return: how many bytes of *data* were taken; fewer than given when the guest does not read
            (QUEUE_BYTES wait at most).
        """
        with self._lock:
            taken = data[: QUEUE_BYTES - len(self._received)]
            self._received.extend(taken)
        self._update()
        return len(taken)

    def _source(self) -> int:
        """Return the low bits of IIR: the pending interrupt of the highest priority."""
        ier = self._ier
        if ier & IER_RLSI and self._errors:
            return IIR_RLS
        if ier & IER_RDI and (self._looped if self._mcr & MCR_LOOP else self._received):
            return IIR_RDI
        if ier & IER_THRI and self._thre:
            return IIR_THRI
        if ier & IER_MSI and self._msr & MSR_DELTAS:
            return IIR_MSI
        return IIR_NONE

    def _update(self) -> None:
        # Looked at and told under one lock, so that the last caller tells the last state.
        with self._lock:
            level = self._source() != IIR_NONE
            if level != self._level:
                self._level = level
                self._irq(level)

    def _read_data(self) -> int:
        if self._lcr & LCR_DLAB:
            return self._divisor[0]
        queue = self._looped if self._mcr & MCR_LOOP else self._received
        value = self._pop(queue)
        if not queue:
            self._update()
        return value

    @staticmethod
    def _pop(queue: deque[int]) -> int:
        try:
            return queue.popleft()
        except IndexError:  # a guest may read without asking LSR: Linux does, at start
            return 0

    def _read_ier(self) -> int:
        return self._divisor[1] if self._lcr & LCR_DLAB else self._ier

    def _read_iir(self) -> int:
        source = self._source()
        if source == IIR_THRI:  # to have read it is to have acknowledged it
            self._thre = False
            self._update()
        return source | (IIR_FIFO if self._fcr & FCR_ENABLE else 0)

    def _read_msr(self) -> int:
        value = self._msr
        if value & MSR_DELTAS:
            self._msr &= ~MSR_DELTAS
            self._update()
        return value

    def _write_ier(self, value: int) -> None:
        if self._lcr & LCR_DLAB:
            self._divisor[1] = value
            return
        changed = self._ier ^ value
        self._ier = value & 0x0F
        if changed & IER_THRI:
            # Enabled with THR empty, it fires at once, each time (serial8250_THRE_test).
            self._thre = bool(value & IER_THRI)
        self._refresh()

    def _write_fcr(self, value: int) -> None:
        if value & FCR_CLEAR_RECEIVE or (value ^ self._fcr) & FCR_ENABLE:
            # What the host sent beyond a FIFO full is still on the wire.
            with self._lock:
                for _ in range(FIFO_BYTES):
                    self._pop(self._received)
                self._looped.clear()
        self._fcr = value
        self._update()

    def _write_lcr(self, value: int) -> None:
        self._lcr = value
        self._refresh()

    def _write_mcr(self, value: int) -> None:
        if (self._mcr ^ value) & MCR_LOOP:
            self._looped.clear()
        self._mcr = value & 0x1F
        lines = MSR_READY
        if value & MCR_LOOP:  # DTR, RTS, OUT1, OUT2 come back as DSR, CTS, RI, DCD
            lines = (value & 1) << 5 | (value & 2) << 3 | (value & 4) << 4 | (value & 8) << 4
        changed = (self._msr ^ lines) & 0xF0
        if lines & MSR_RI:
            changed &= ~MSR_RI  # only the end of a ring counts
        self._msr = lines | self._msr & MSR_DELTAS | changed >> 4
        self._refresh()

    def _write_scratch(self, value: int) -> None:
        self._scratch = value

    def _ignore(self, value: int) -> None:
        """LSR and MSR cannot be written (the chip's factory test aside)."""

    def _refresh(self) -> None:
        self._plain = not (self._lcr & LCR_DLAB or self._mcr & MCR_LOOP or self._ier & IER_THRI)
        self._update()


_READ: tuple[Callable[[Uart], int], ...] = (
    Uart._read_data,
    Uart._read_ier,
    Uart._read_iir,
    lambda uart: uart._lcr,
    lambda uart: uart._mcr,
    lambda uart: uart.pio_in(LSR, 1),
    Uart._read_msr,
    lambda uart: uart._scratch,
)
_WRITE: tuple[Callable[[Uart, int], None], ...] = (
    lambda uart, value: uart.transmit(BYTES[value]),
    Uart._write_ier,
    Uart._write_fcr,
    Uart._write_lcr,
    Uart._write_mcr,
    Uart._ignore,
    Uart._ignore,
    Uart._write_scratch,
)
