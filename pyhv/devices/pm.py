"""ACPI fixed hardware: the way a guest powers off, the power button, and the PM timer.

One block of 14 ports: PM1a_EVT_BLK (status, enable), PM1a_CNT_BLK, two unused
ports, PM_TMR_BLK, GPE0_BLK (status, enable). pyhv/boot/acpi.py tells the guest where
it lies. There is no SMI: SCI_EN is always set. Source: ACPI specification, chapter 4.8.
"""

from __future__ import annotations

import threading
import time

from ..saving import fields, put

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PORTS = 14
# offsets; 16, 16, 16, 32, 8 and 8 bits
STATUS, ENABLE, CONTROL, TIMER, GPE_STATUS, GPE_ENABLE = 0, 2, 4, 8, 12, 13
GPE_GENERATION = 1 << 0  # the only general-purpose event: another VM generation id

TMR_STS, GBL_STS, PWRBTN_STS, RTC_STS = 1 << 0, 1 << 5, 1 << 8, 1 << 10
# The enable register has the same bits. RTC_STS never comes, yet Linux' rtc-cmos enables it and
# complains if that does not read back, whatever FADT says about the RTC.
ENABLES = TMR_STS | GBL_STS | PWRBTN_STS | RTC_STS
SCI_EN = 1 << 0
SLP_TYP_SHIFT, SLP_TYP_MASK = 10, 7
SLP_EN = 1 << 13
S5_TYPE = 0  # also QEMU's: hobby kernels power off with outw(0x2000, 0x604)
TIMER_HZ = 3579545
SAVED = ("_status", "_enable", "_control", "_carries", "_gpe_status", "_gpe_enable")


class Pm:
    """The block.

    :param power_off: the guest entered S5.
    :param irq: the SCI, a level-triggered line.
    :param clock_ns: the time base of the PM timer.

    The timer's carry bit TMR_STS shows in the status register, but raises no SCI by itself: nobody
    asks for that (Linux and Windows poll the timer), and it would need a host timer.
    """

    def __init__(
        self,
        power_off: Callable[[], None],
        irq: Callable[[bool], None],
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._power_off, self._irq, self._clock_ns = power_off, irq, clock_ns
        self._start_ns = clock_ns()
        self._lock = threading.Lock()
        self._level = False
        self.reset()

    def reset(self) -> None:
        """Go to the state after power-on; the timer runs on."""
        self._status = self._enable = self._gpe_status = self._gpe_enable = 0
        self._control = SCI_EN
        self._carries = self._ticks() >> 31
        self._update()

    def save(self) -> dict[str, Any]:
        """Return its state; ``ns``: how long the timer runs."""
        with self._lock:
            ns = self._clock_ns() - self._start_ns
            return {**fields(self, SAVED), "ns": ns}

    def load(self, state: dict[str, Any]) -> None:
        """Undo :meth:`save`; the timer goes on from where it was."""
        put(self, SAVED, state)
        self._start_ns = self._clock_ns() - state["ns"]
        self._update()

    def press_power_button(self) -> None:
        """Ask the guest to shut down; any thread. A guest without a driver for it does nothing."""
        with self._lock:
            self._status |= PWRBTN_STS
        self._update()

    def raise_event(self, gpe: int) -> None:
        """Raise general-purpose events (GPE_*); any thread."""
        with self._lock:
            self._gpe_status |= gpe
        self._update()

    def pio_in(self, offset: int, size: int) -> int:
        """Return *size* bytes of the block, little-endian."""
        ticks = self._ticks()
        if offset == TIMER:
            return ticks & (1 << 8 * size) - 1
        if ticks >> 31 != self._carries:  # bit 31 changed since status was last cleared
            with self._lock:
                self._status |= TMR_STS
        block = self._status | self._enable << 16 | self._control << 32
        block |= (ticks & 0xFFFFFFFF) << 64
        block |= self._gpe_status << 96 | self._gpe_enable << 104
        return block >> 8 * offset & (1 << 8 * size) - 1

    def pio_out(self, offset: int, size: int, value: int) -> None:
        """Take *size* bytes of the block: status is write-1-to-clear, the timer read-only."""
        mask = (1 << 8 * size) - 1 << 8 * offset
        bits = value << 8 * offset & mask
        with self._lock:
            if bits & TMR_STS:
                self._carries = self._ticks() >> 31
            self._status &= ~bits
            self._gpe_status &= ~(bits >> 96)
            self._gpe_enable = self._gpe_enable & ~(mask >> 104) | bits >> 104 & GPE_GENERATION
            self._enable = self._enable & ~(mask >> 16) | bits >> 16 & ENABLES
        self._update()
        if mask >> 32 & 0xFFFF:
            control = self._control & ~(mask >> 32) | bits >> 32 & 0xFFFF
            # SLP_EN and GBL_RLS are write-only; SCI_EN cannot be left, there is no SMI to leave to
            self._control = control & SLP_TYP_MASK << SLP_TYP_SHIFT | control & 2 | SCI_EN
            if control & SLP_EN and control >> SLP_TYP_SHIFT & SLP_TYP_MASK == S5_TYPE:
                self._power_off()

    def _ticks(self) -> int:
        return (self._clock_ns() - self._start_ns) * TIMER_HZ // 1_000_000_000

    def _update(self) -> None:
        with self._lock:
            level = bool(self._status & self._enable & (PWRBTN_STS | GBL_STS)
                         or self._gpe_status & self._gpe_enable)  # fmt: skip
            if level != self._level:
                self._level = level
                self._irq(level)
