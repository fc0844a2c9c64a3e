"""The MC146818 clock and its CMOS bytes: real UTC time, and the memory sizes a BIOS asks for.

The guest may set the clock; that moves its offset from the host's, the host is
never touched. Sources: Motorola MC146818A; the byte numbers above 0x0d are the
PC's, with 0x34, 0x5b and 0x5f as SeaBIOS reads them.
"""

from __future__ import annotations

import threading
import time

from ..memory import HIGH
from ..saving import fields, put
from .ports import BytePorts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..memory import GuestMemory

PORTS = 2
SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM = range(6)
WEEKDAY, DAY, MONTH, YEAR, REG_A, REG_B, REG_C, REG_D = range(6, 14)
CENTURY = 0x32
CLOCK_BYTES = (SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY)

A_UIP = 0x80
A_DEFAULT = 0x26  # 32.768 kHz, periodic rate 1024 Hz
B_24H, B_BINARY, B_SET = 0x02, 0x04, 0x80
C_IRQ, C_PERIODIC, C_ALARM, C_UPDATE = 0x80, 0x40, 0x20, 0x10  # B has the enables in the same bits
C_EVENTS = C_PERIODIC | C_ALARM | C_UPDATE
D_VALID = 0x80
UPDATE_WARNING = 244e-6  # UIP rises that long before the second ends
SAVED = ("_ram", "_offset", "_index", "nmi_masked")
PERIOD_FLOOR = 1 / 1024  # a guest gets no faster periodic interrupt


class Cmos(BytePorts):
    """Ports 0x70 (index and NMI mask) and 0x71 (data).

    :param memory: the RAM to report.
    :param vp_count: number of vCPUs, for firmware (byte 0x5f).
    :param irq: ISA IRQ 8.
    :param after: ``after(seconds, function)``, as the event loop has it; without it the clock
        never interrupts.
    :param clock: host time, seconds since 1970.
    """

    def __init__(
        self,
        memory: GuestMemory,
        vp_count: int,
        irq: Callable[[bool], None],
        after: Callable[[float, Callable[[], None]], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._irq, self._after, self._clock = irq, after, clock
        self._lock = threading.Lock()
        self._ram = bytearray(128)
        self._offset = 0.0  # the guest's time less the host's, seconds
        self._held: dict[int, int] | None = None  # the clock while the guest sets it
        self._armed = False
        self._index = 0
        self.nmi_masked = False
        low, high = memory.regions[0].size, sum(r.size for r in memory.regions if r.gpa >= HIGH)
        for first, count, value in (
            (REG_A, 1, A_DEFAULT),
            (REG_B, 1, B_24H),
            (0x14, 1, 0x02),  # equipment: FPU, no floppy, display by BIOS
            (0x15, 2, 640),  # base memory, KiB
            (0x17, 2, min((low >> 10) - 1024, 0xFFFF)),  # above 1 MiB, KiB
            (0x30, 2, min((low >> 10) - 1024, 0xFFFF)),
            (0x34, 2, max(low - (16 << 20), 0) >> 16),  # above 16 MiB, 64 KiB
            (0x5B, 3, min(high >> 16, 0xFFFFFF)),  # above 4 GiB, 64 KiB
            (0x5F, 1, min(vp_count - 1, 0xFF)),
        ):
            self._ram[first : first + count] = value.to_bytes(count, "little")

    def reset(self) -> None:
        """System reset: interrupts off, bytes and time kept; the battery is still there."""
        self._ram[REG_B] &= ~C_EVENTS & 0xFF
        self._ram[REG_C] = 0
        self._irq(False)

    def save(self) -> dict[str, Any]:
        """Return its state: bytes, and how far its time is from the host's."""
        held = None if self._held is None else [list(pair) for pair in self._held.items()]
        return {**fields(self, SAVED), "held": held}

    def load(self, state: dict[str, Any]) -> None:
        """Undo :meth:`save`; the time is the host's now, and what the guest made of it."""
        put(self, SAVED, state)
        held = state["held"]
        self._held = None if held is None else dict(held)
        self._irq(bool(self._ram[REG_C] & C_IRQ))
        if self._ram[REG_B] & C_EVENTS:
            self._arm()

    def read(self, offset: int) -> int:
        """Return the chosen byte; the index itself cannot be read back."""
        index = self._index
        if not offset:
            return 0xFF
        if index in CLOCK_BYTES:
            return (self._held or self._fields())[index]
        if index == REG_A:
            left = 1 - (self._clock() + self._offset) % 1
            return self._ram[REG_A] | (0 if self._held or left > UPDATE_WARNING else A_UIP)
        if index == REG_C:
            with self._lock:
                value, self._ram[REG_C] = self._ram[REG_C], 0
                if value & C_IRQ:
                    self._irq(False)
            return value
        return D_VALID if index == REG_D else self._ram[index]

    def write(self, offset: int, value: int) -> None:
        """Choose a byte (bit 7 masks NMI), or write it."""
        index = self._index
        if not offset:
            self._index, self.nmi_masked = value & 0x7F, value >= 0x80
        elif index in CLOCK_BYTES:
            held = self._held  # read once: another vCPU may end the setting meanwhile
            fields = self._fields() if held is None else held
            fields[index] = value
            if held is None:
                self._set(fields)
        elif index == REG_A:
            self._ram[REG_A] = value & ~A_UIP
        elif index == REG_B:
            self._write_b(value)
        elif index not in (REG_C, REG_D):
            self._ram[index] = value

    def _write_b(self, value: int) -> None:
        if value & B_SET and self._held is None:
            self._held = self._fields()
        self._ram[REG_B] = value
        held = self._held
        if not value & B_SET and held is not None:
            self._held = None
            self._set(held)  # read in the mode B has now; guests set mode and time together
        if value & C_EVENTS:
            self._arm()

    def _fields(self) -> dict[int, int]:
        """Return the clock's bytes as register B wants them: BCD or binary, 12 or 24 hours."""
        now = time.gmtime(int(self._clock() + self._offset))
        mode = self._ram[REG_B]
        century, year = divmod(now.tm_year, 100)
        weekday = (now.tm_wday + 1) % 7 + 1  # Sunday is 1
        hour = now.tm_hour if mode & B_24H else (now.tm_hour + 11) % 12 + 1
        values = [now.tm_sec, now.tm_min, hour, weekday, now.tm_mday, now.tm_mon, year, century]
        if not mode & B_BINARY:
            values = [value // 10 << 4 | value % 10 for value in values]
        fields = dict(zip(CLOCK_BYTES, values, strict=True))
        if not mode & B_24H and now.tm_hour >= 12:
            fields[HOURS] |= 0x80
        return fields

    def _set(self, fields: dict[int, int]) -> None:
        """Move the offset so that the clock shows *fields* now; nonsense is dropped."""
        mode = self._ram[REG_B]
        afternoon = not mode & B_24H and fields[HOURS] & 0x80
        fields[HOURS] &= 0xFF if mode & B_24H else 0x7F
        if not mode & B_BINARY:
            fields = {at: (value >> 4) * 10 + (value & 15) for at, value in fields.items()}
        hour = fields[HOURS]
        if not mode & B_24H:
            hour = hour % 12 + (12 if afternoon else 0)
        year = fields[CENTURY] * 100 + fields[YEAR]
        month, day = fields[MONTH], fields[DAY]
        if not (1970 <= year <= 9999 and 1 <= month <= 12 and 1 <= day <= 31):
            return
        if hour > 23 or fields[MINUTES] > 59 or fields[SECONDS] > 59:
            return
        import calendar  # brings datetime along; guests that set the clock are few

        wanted = calendar.timegm((year, month, day, hour, fields[MINUTES], fields[SECONDS]))
        self._offset = wanted - int(self._clock())

    def _arm(self) -> None:
        """Ask for the next event, unless one is on its way."""
        enabled = self._ram[REG_B] & C_EVENTS
        with self._lock:
            if self._armed or not self._after or not enabled:
                return
            self._armed = True
        now = self._clock() + self._offset
        delay = 1 - now % 1
        rate = self._ram[REG_A] & 15
        if enabled & C_PERIODIC and rate:
            period = (1 << rate - 1 if rate > 2 else 1 << rate + 6) / 32768
            delay = min(delay, max(period, PERIOD_FLOOR))
        self._after(delay, lambda: self._tick(int(now)))

    def _tick(self, before: int) -> None:
        """Collect what happened since the second *before*, on the event loop."""
        self._armed = False
        events = C_PERIODIC if self._ram[REG_A] & 15 else 0
        if int(self._clock() + self._offset) != before and self._held is None:
            events |= C_UPDATE
            now = self._fields()
            alarm = ((at, self._ram[at + 1]) for at in (SECONDS, MINUTES, HOURS))
            if all(wanted >= 0xC0 or wanted == now[at] for at, wanted in alarm):  # C0..FF: any
                events |= C_ALARM
        with self._lock:
            value = self._ram[REG_C] | events
            raised = bool(value & self._ram[REG_B] & C_EVENTS)
            self._ram[REG_C] = value | (C_IRQ if raised else 0)
            if raised:
                self._irq(True)
        self._arm()
