"""INT 11h, 12h, 14h, 15h, 17h-1Ah: memory map, A20, waits, clock and the boot itself.

Source for the calls: Ralf Brown's interrupt list; ACPI 6.4 chapter 15 for E820h.
"""

from __future__ import annotations

import struct
import time

from ..memory import HIGH
from . import bios_cdrom, bios_disk, e820
from . import bios_layout as at
from .bios_cpu import INTERRUPT, es_offset, set_ah, set_al, set_ax, set_bx, set_cx, set_dx, set_es

TYPE_CHECKING = False
if TYPE_CHECKING:

    from ..memory import GuestMemory
    from .bios import Bios
    from .bios_cpu import Cpu

SMAP = 0x534D4150
MIB_1, MIB_16 = 1 << 20, 16 << 20
MAX_MOVE_WORDS = 0x8000
SHORTEST_WAIT_NS, NAP_S = 100_000, 0.001
UNSUPPORTED = 0x86
SIGNATURE = b"\x55\xaa"

LINE_READY = 0x60  # INT 14h AH: transmitter empty
MODEM_READY, TIMED_OUT = 0xB0, 0x80


def write_bda(memory: GuestMemory, disks: int) -> None:
    """Write the BIOS data area and the EBDA as they are after POST."""
    memory.zero(0x400, 0x100)
    for gpa, form, values in (
        (at.BDA_COM1, "<4H", (at.COM1_PORT, 0, 0, 0)),
        (at.BDA_EBDA_SEGMENT, "<H", (e820.EBDA >> 4,)),
        (at.BDA_EQUIPMENT, "<H", (at.EQUIPMENT,)),
        (at.BDA_MEMORY_KIB, "<H", (e820.EBDA >> 10,)),
        (at.BDA_KEYBOARD_HEAD, "<HH", (at.KEYBOARD_BUFFER, at.KEYBOARD_BUFFER)),
        (at.BDA_VIDEO_MODE, "<BHH", (at.TEXT_MODE, at.COLUMNS, 0x1000)),
        (at.BDA_CURSOR_SHAPE, "<H", (0x0607,)),
        (at.BDA_CRTC_PORT, "<H", (0x3D4,)),
        (at.BDA_TICKS, "<I", (_ticks_today(time.time()),)),
        (at.BDA_DISK_COUNT, "<B", (min(disks, 0xFF),)),
        (at.BDA_KEYBOARD_START, "<HH", (at.KEYBOARD_BUFFER, at.KEYBOARD_BUFFER + 32)),
        (at.BDA_LAST_ROW, "<BH", (at.ROWS - 1, 16)),
    ):
        memory.write(gpa, struct.pack(form, *values))
    memory.write(e820.EBDA, b"\1".ljust(16, b"\0"))  # its size in KiB


def _ticks_today(now: float) -> int:
    return int(now % 86400 * at.PIT_HZ / at.TICK_DIVISOR) % at.TICKS_PER_DAY


# INT 11h, 12h


def _equipment(bios: Bios, cpu: Cpu) -> None:
    set_ax(cpu, int.from_bytes(bios.memory.read(at.BDA_EQUIPMENT, 2), "little"))


def _memory_size(bios: Bios, cpu: Cpu) -> None:
    set_ax(cpu, int.from_bytes(bios.memory.read(at.BDA_MEMORY_KIB, 2), "little"))


# INT 14h: COM1 is the console, so it goes where INT 10h and 16h go


def _serial(bios: Bios, cpu: Cpu) -> None:
    function, port = cpu.eax >> 8 & 0xFF, cpu.edx & 0xFFFF
    if port:
        set_ah(cpu, TIMED_OUT)
    elif function == 1:
        bios.screen.teletype(bytes((cpu.eax & 0xFF,)))
        set_ah(cpu, LINE_READY)
    elif function == 2:
        key = bios.keyboard.take()
        set_ax(cpu, TIMED_OUT << 8 if key is None else key & 0xFF)
    else:
        set_ax(cpu, LINE_READY << 8 | MODEM_READY)


# INT 15h


def _refuse(bios: Bios, cpu: Cpu) -> bool:
    set_ah(cpu, UNSUPPORTED)
    return True


def _a20(bios: Bios, cpu: Cpu) -> bool:
    """AX=2400h-2403h: A20 is always on; to switch it off is refused."""
    function = cpu.eax & 0xFF
    if function not in (1, 2, 3):
        return _refuse(bios, cpu)
    if function == 2:
        set_al(cpu, 1)
    elif function == 3:
        set_bx(cpu, 2)  # by port 0x92
    set_ah(cpu, 0)
    return False


def _memory_maps(bios: Bios, cpu: Cpu) -> bool:
    """AX=E820h, E801h; E881h's 32-bit form and others do not exist."""
    function = _E8.get(cpu.eax & 0xFF)
    return _refuse(bios, cpu) if function is None else function(bios, cpu)


def _e820(bios: Bios, cpu: Cpu) -> bool:
    """EDX 'SMAP', EBX which, ES:DI 20 bytes; EBX = 0 after the last."""
    index, room = cpu.ebx, cpu.ecx
    if cpu.edx != SMAP or room < 20 or index >= len(bios.e820):
        return _refuse(bios, cpu)
    bios.memory.write(es_offset(cpu, cpu.edi), bios.e820[index].pack())
    cpu.eax, cpu.ecx = SMAP, 20
    cpu.ebx = index + 1 if index + 1 < len(bios.e820) else 0
    return False


def _low_memory(bios: Bios) -> int:
    """Return the end of RAM below the hole."""
    return max(r.base + r.size for r in bios.e820 if r.kind == e820.RAM and r.base < HIGH)


def _e801(bios: Bios, cpu: Cpu) -> bool:
    """AX = CX = KiB from 1 to 16 MiB, BX = DX = 64 KiB blocks above."""
    top = max(_low_memory(bios), MIB_1)
    low, high = min(top, MIB_16) - MIB_1 >> 10, max(top - MIB_16, 0) >> 16
    for setter, value in ((set_ax, low), (set_cx, low), (set_bx, high), (set_dx, high)):
        setter(cpu, value)
    return False


def _extended_memory(bios: Bios, cpu: Cpu) -> bool:
    """AH=88h: AX = KiB above 1 MiB, at most 63 MiB as other BIOSes say."""
    set_ax(cpu, min(max(_low_memory(bios) - MIB_1, 0) >> 10, 0xFC00))
    return False


def _block_move(bios: Bios, cpu: Cpu) -> bool:
    """AH=87h: copy CX words between the segments at ES:SI+10h and +18h (descriptors)."""
    words = cpu.ecx & 0xFFFF
    if words > MAX_MOVE_WORDS:
        return _refuse(bios, cpu)
    table = bios.memory.read(es_offset(cpu, cpu.esi), 0x20)
    source, target = (
        int.from_bytes(table[i + 2 : i + 5] + table[i + 7 : i + 8], "little") for i in (0x10, 0x18)
    )
    bios.memory.write(target, bios.memory.read(source, words * 2))
    set_ah(cpu, 0)
    return False


def _wait(bios: Bios, cpu: Cpu) -> bool | None:
    """AH=86h: wait CX:DX microseconds; see TRAP_PAUSE."""
    wait_ns = ((cpu.ecx & 0xFFFF) << 16 | cpu.edx & 0xFFFF) * 1000
    if wait_ns < SHORTEST_WAIT_NS:
        return False
    bios.wait_until_ns = bios.clock_ns() + wait_ns
    cpu.eip = at.PAUSE
    return None


def _pause(bios: Bios, cpu: Cpu) -> bool | None:
    """TRAP_PAUSE: go on waiting. Each nap is short, so the vCPU still hears a kick."""
    left_ns = bios.wait_until_ns - bios.clock_ns()
    if left_ns <= 0:
        return False
    time.sleep(min(left_ns / 1e9, NAP_S))
    cpu.eip = at.PAUSE
    return None


def _configuration(bios: Bios, cpu: Cpu) -> bool:
    """AH=C0h: ES:BX = the table in the BIOS."""
    set_es(cpu, at.BIOS_SEGMENT)
    set_bx(cpu, at.SYMBOLS["config_table"])
    set_ah(cpu, 0)
    return False


def _ebda(bios: Bios, cpu: Cpu) -> bool:
    """AH=C1h: ES = the EBDA's segment."""
    set_es(cpu, e820.EBDA >> 4)
    return False


def _carry(bios: Bios, cpu: Cpu) -> bool:
    """AH=4Fh, keyboard intercept: carry says: use the key."""
    return True


def _succeed(bios: Bios, cpu: Cpu) -> bool:
    """AH=90h, 91h: hooks for a multitasking system."""
    set_ah(cpu, 0)
    return False


# INT 17h


def _no_printer(bios: Bios, cpu: Cpu) -> None:
    set_ah(cpu, 1)  # time-out


# INT 18h, 19h


def _no_boot(bios: Bios, cpu: Cpu) -> None:
    bios.give_up(cpu, "no-boot", "no bootable device: the guest gave up (INT 18h)")


def _boot(bios: Bios, cpu: Cpu) -> None:
    """INT 19h: LBA 0 of drive 0x80 to 0000:7C00, which runs with DL = 80h; else a CD."""
    gpa, number = at.BOOT_SECTOR, bios_disk.FIRST_DRIVE
    problem = "no disk is there"
    if bios.disks:
        disk = bios.disks[0]
        status = bios_disk.transfer(bios, disk, 0, 1, at.BOOT_SECTOR, write=False)
        mark = bios.memory.read(at.BOOT_SECTOR + 510, 2)
        problem = "" if mark == SIGNATURE else f"sector 0 ends in {mark.hex(' ')}, not 55 aa"
        if status != bios_disk.OK:
            problem = f"sector 0 cannot be read (INT 13h status {status:#04x})"
    if problem:
        problem = f"disk 0x80: {problem}"
        try:
            if bios.cdroms:
                gpa, number = bios_cdrom.load(bios)
                problem = ""
        except bios_cdrom.NotBootable as error:
            problem += f"; CD: {error}"
    if problem:
        bios.give_up(cpu, "no-boot", f"no bootable device: {problem}")
        return
    stack = at.STACK - 6
    # 0000:7C00 and never 07C0:0000: boot sectors were written for it
    place = struct.pack("<3H", gpa & 0xFFFF, gpa >> 4 & 0xF000, INTERRUPT | 2)
    bios.memory.write(stack, place)
    for segment in ("ss", "ds", "es"):
        if getattr(cpu, segment + "_base"):
            setattr(cpu, segment + "_sel", 0)
            setattr(cpu, segment + "_base", 0)
    cpu.eax = cpu.ebx = cpu.ecx = cpu.esi = cpu.edi = cpu.ebp = 0
    cpu.edx, cpu.esp = number, stack


def _reset(bios: Bios, cpu: Cpu) -> None:
    """TRAP_RESET: a jump to ffff:0000."""
    bios.screen.scroll(0, 0, at.ROWS - 1, at.COLUMNS - 1, 0, 7)
    bios.write_data_areas()


# INT 1Ah


def _get_ticks(bios: Bios, cpu: Cpu) -> None:
    """AH=00h: CX:DX = ticks since midnight, AL = midnight has passed since the last call."""
    ticks, midnight = struct.unpack("<IB", bios.memory.read(at.BDA_TICKS, 5))
    bios.memory.write(at.BDA_MIDNIGHT, b"\0")
    set_al(cpu, midnight)
    set_cx(cpu, ticks >> 16)
    set_dx(cpu, ticks & 0xFFFF)


def _set_ticks(bios: Bios, cpu: Cpu) -> None:
    """AH=01h: CX:DX."""
    ticks = (cpu.ecx & 0xFFFF) << 16 | cpu.edx & 0xFFFF
    bios.memory.write(at.BDA_TICKS, struct.pack("<IB", ticks, 0))


def _rtc(bios: Bios, *registers: int) -> list[int]:
    """Return CMOS clock registers, BCD."""
    values = []
    for register in registers:
        if bios.cmos is not None:
            bios.cmos.pio_out(0, 1, register)
            values.append(bios.cmos.pio_in(1, 1) & 0xFF)
        else:
            now = time.gmtime()
            century, year = divmod(now.tm_year, 100)
            fields = {0: now.tm_sec, 2: now.tm_min, 4: now.tm_hour, 7: now.tm_mday, 8: now.tm_mon}
            value = (fields | {9: year, 0x32: century})[register]
            values.append(value // 10 << 4 | value % 10)
    return values


def _get_time(bios: Bios, cpu: Cpu) -> bool:
    """AH=02h: CH hours, CL minutes, DH seconds, DL = 0 no daylight saving; BCD."""
    hours, minutes, seconds = _rtc(bios, 4, 2, 0)
    set_cx(cpu, hours << 8 | minutes)
    set_dx(cpu, seconds << 8)
    return False


def _get_date(bios: Bios, cpu: Cpu) -> bool:
    """AH=04h: CH century, CL year, DH month, DL day; BCD."""
    century, year, month, day = _rtc(bios, 0x32, 9, 8, 7)
    set_cx(cpu, century << 8 | year)
    set_dx(cpu, month << 8 | day)
    return False


def _set_clock(bios: Bios, cpu: Cpu) -> bool:
    """AH=03h CH:CL:DH, 05h CHCL-DH-DL: set the CMOS clock; refused without one."""
    if bios.cmos is None:
        return _refuse(bios, cpu)
    cx, dx = cpu.ecx, cpu.edx
    high = (cx >> 8 & 0xFF, cx & 0xFF, dx >> 8 & 0xFF, dx & 0xFF)
    registers = (4, 2, 0) if cpu.eax >> 8 & 0xFF == 3 else (0x32, 9, 8, 7)
    for register, value in zip(registers, high, strict=False):
        bios.cmos.pio_out(0, 1, register)
        bios.cmos.pio_out(1, 1, value)
    return False


_E8 = {0x20: _e820, 0x01: _e801}
EXTRA = {at.TRAP_PAUSE: _pause, at.TRAP_RESET: _reset}
Function = "Callable[[Bios, Cpu], bool | None]"
SERVICES: dict[tuple[int, int | None], tuple[str, Function]] = {  # type: ignore[valid-type]
    (0x11, None): ("equipment", _equipment),
    (0x12, None): ("conventional memory", _memory_size),
    (0x14, None): ("serial port", _serial),
    (0x15, 0x24): ("A20", _a20),
    (0x15, 0x41): ("wait for event, refused", _refuse),
    (0x15, 0x4F): ("keyboard intercept", _carry),
    (0x15, 0x53): ("APM, refused", _refuse),
    (0x15, 0x83): ("event wait, refused", _refuse),
    (0x15, 0x86): ("wait", _wait),
    (0x15, 0x87): ("block move", _block_move),
    (0x15, 0x88): ("extended memory", _extended_memory),
    (0x15, 0x90): ("device busy", _succeed),
    (0x15, 0x91): ("device ready", _succeed),
    (0x15, 0xC0): ("configuration", _configuration),
    (0x15, 0xC1): ("EBDA segment", _ebda),
    (0x15, 0xC2): ("mouse, refused", _refuse),
    (0x15, 0xD8): ("EISA, refused", _refuse),
    (0x15, 0xE8): ("memory map", _memory_maps),
    (0x15, 0xE9): ("SpeedStep, refused", _refuse),
    (0x15, 0xEC): ("target mode, refused", _refuse),
    (0x17, None): ("printer, absent", _no_printer),
    (0x18, None): ("no bootable device", _no_boot),
    (0x19, None): ("boot", _boot),
    (0x1A, 0x00): ("get ticks", _get_ticks),
    (0x1A, 0x01): ("set ticks", _set_ticks),
    (0x1A, 0x02): ("get time", _get_time),
    (0x1A, 0x03): ("set time", _set_clock),
    (0x1A, 0x04): ("get date", _get_date),
    (0x1A, 0x05): ("set date", _set_clock),
    (0x1A, 0xB1): ("PCI BIOS, absent", _refuse),
}
