"""Memory map, waits, clock and boot, and the data areas a guest finds."""

from __future__ import annotations

import struct

import pytest
from biosfake import Bench, MemoryDisk, numbered_sectors

from pyhv.boot import bios, bios_disk, bios_layout, e820
from pyhv.errors import HostError

SMAP = 0x534D4150


@pytest.fixture
def bench() -> Bench:
    """A machine of 32 MiB with a bootable disk."""
    return Bench(MemoryDisk(numbered_sectors(10)))


def test_e820_walk_gives_the_map_and_ends(bench: Bench) -> None:
    """EBX counts; the last entry comes with EBX = 0."""
    found, index = [], 0
    while True:
        cpu = bench.call(0x15, 0xE820, ebx=index, ecx=24, edx=SMAP, edi=0x600)
        assert (bench.carry, cpu.eax, cpu.ecx) == (False, SMAP, 20)
        found.append(e820.Entry(*struct.unpack("<QQI", bench.memory.read(0x600, 20))))
        index = cpu.ebx
        if not index:
            break
    assert found == bench.bios.e820


@pytest.mark.parametrize(
    "bad",
    [{"edx": 0}, {"ecx": 19}, {"ebx": 99}, {"ebx": 0xFFFFFFFF}, {"es_base": 0xFFFFF000}],
)
def test_e820_refuses(bench: Bench, bad: dict[str, int]) -> None:
    """Wrong signature, small buffer, no such entry, buffer outside RAM."""
    cpu = bench.call(0x15, 0xE820, **{"ebx": 0, "ecx": 20, "edx": SMAP, "edi": 0x600} | bad)
    assert (bench.carry, cpu.eax >> 8) == (True, 0x86)


@pytest.mark.parametrize(
    ("function", "carry"), [(0, True), (1, False), (2, False), (3, False), (9, True)]
)
def test_a20(bench: Bench, function: int, carry: bool) -> None:
    """On for ever."""
    bench.call(0x15, 0x2400 | function)
    assert bench.carry == carry


def test_block_move_beyond_1_mib(bench: Bench) -> None:
    """32-bit bases come from both halves of the descriptors."""
    bench.memory.write(0x600, b"moved 16 bytes..")
    source, target = 0x600, 0x1234560
    table = bytearray(0x30)
    for at, base in ((0x10, source), (0x18, target)):
        table[at : at + 8] = struct.pack("<HHBBBB", 0xFFFF, base & 0xFFFF, base >> 16 & 0xFF, 0x93,
                                         0, base >> 24)  # fmt: skip
    bench.memory.write(0x700, table)
    bench.call(0x15, 0x8700, ecx=8, esi=0x700)
    assert (bench.carry, bench.memory.read(target, 16)) == (False, b"moved 16 bytes..")
    bench.call(0x15, 0x8700, ecx=0x8001, esi=0x700)
    assert bench.carry
    table[0x1F] = 0xF0
    bench.memory.write(0x700, table)
    bench.call(0x15, 0x8700, ecx=8, esi=0x700)
    assert bench.carry


def test_wait_is_in_the_guest_and_ends_in_time(bench: Bench) -> None:
    """5 ms: the guest asks again and again, until the clock says so."""
    cpu = bench.call(0x15, 0x8600, ecx=0, edx=5000)
    assert cpu.eip == bios_layout.PAUSE
    cpu.eip = bios_layout.TRAP_TABLE + 4 * bios_layout.TRAP_PAUSE
    for now_ns in (1_000_000, 4_999_999):
        bench.now_ns = now_ns
        bench.bios.trap(cpu)
        assert cpu.eip == bios_layout.PAUSE
        cpu.eip = bios_layout.TRAP_TABLE + 4 * bios_layout.TRAP_PAUSE
    bench.now_ns = 5_000_000
    bench.bios.trap(cpu)
    assert cpu.eip != bios_layout.PAUSE
    assert not bench.carry


def test_ticks(bench: Bench) -> None:
    """INT 1Ah counts in the BIOS data area, which IRQ 0 changes too."""
    bench.call(0x1A, 0x0100, ecx=0x0012, edx=0x3456)
    assert bench.memory.read(bios_layout.BDA_TICKS, 4) == struct.pack("<I", 0x123456)
    bench.memory.write(bios_layout.BDA_MIDNIGHT, b"\1")
    cpu = bench.call(0x1A)
    assert (cpu.eax, cpu.ecx, cpu.edx) == (1, 0x12, 0x3456)
    assert bench.call(0x1A).eax == 0


def test_clock_without_cmos_is_host_time_in_bcd(bench: Bench) -> None:
    """Every digit is decimal, and the century is ours."""
    cpu = bench.call(0x1A, 0x0400)
    assert cpu.ecx >> 8 == 0x20
    for value in (cpu.ecx & 0xFF, cpu.edx >> 8, cpu.edx & 0xFF, bench.call(0x1A, 0x0200).ecx >> 8):
        assert all(int(digit, 16) < 10 for digit in f"{value:x}")


def test_clock_with_cmos_reads_and_sets_it() -> None:
    """The CMOS device is the clock, so the guest sees one time everywhere."""

    class Cmos:
        registers, index = {}, 0

        def pio_out(self, offset: int, size: int, value: int) -> None:
            if offset:
                self.registers[self.index] = value
            else:
                self.index = value

        def pio_in(self, offset: int, size: int) -> int:
            return self.registers[self.index]

    bench = Bench(cmos=Cmos())
    bench.call(0x1A, 0x0300, ecx=0x2359, edx=0x5800)
    bench.call(0x1A, 0x0500, ecx=0x2026, edx=0x1126)
    assert not bench.carry
    cpu = bench.call(0x1A, 0x0200)
    assert (cpu.ecx, cpu.edx) == (0x2359, 0x5800)
    cpu = bench.call(0x1A, 0x0400)
    assert (cpu.ecx, cpu.edx) == (0x2026, 0x1126)


def test_boot_goes_to_7c00(bench: Bench) -> None:
    """IRET finds 0000:7C00 with interrupts on, and DL names the drive."""
    cpu = bench.call(0x19, es_base=0x1230, es_sel=0x123)
    assert bench.memory.read(0x7C00, 512) == numbered_sectors(1)
    frame = bench.memory.read(cpu.ss_base + cpu.esp, 6)
    assert struct.unpack("<3H", frame) == (0x7C00, 0, 0x202)
    assert (cpu.edx, cpu.es_base, cpu.es_sel, cpu.ss_sel) == (0x80, 0, 0, 0)
    assert not bench.stops


BROKEN = MemoryDisk(numbered_sectors(2))
BROKEN.broken = True


@pytest.mark.parametrize(
    ("disks", "why"),
    [
        ([], "no disk is there"),
        ([MemoryDisk(bytes(1024))], "sector 0 ends in 00 00, not 55 aa"),
        ([BROKEN], "sector 0 cannot be read (INT 13h status 0x20)"),
        ([MemoryDisk(b"")], "sector 0 cannot be read (INT 13h status 0x04)"),
    ],
)
def test_no_boot_says_why(disks: list, why: str) -> None:
    """One line, and the guest waits for its end."""
    bench = Bench(*disks)
    assert bench.call(0x19).eip == bios_layout.HALT
    assert bench.stops == [("no-boot", f"no bootable device: disk 0x80: {why}")]


def test_serial_calls_are_the_console(bench: Bench) -> None:
    """INT 14h writes and reads where INT 10h and 16h do; there is no second port."""
    bench.call(0x14, 0x0158)
    assert bench.console.data == b"X"
    assert bench.call(0x14, 0x0200).eax == 0x8000
    bench.bios.key_input(b"q")
    assert bench.call(0x14, 0x0200).eax == ord("q")
    assert bench.call(0x14, 0x0158, edx=1).eax == 0x8058


def test_vectors(bench: Bench) -> None:
    """Each leads into the BIOS: its own trap, or one of the few real handlers."""
    vectors = struct.iter_unpack("<HH", bench.memory.read(0, 1024))
    for vector, (offset, segment) in enumerate(vectors):
        expected = bios_layout.VECTORS.get(vector, bios_layout.TRAP_TABLE + 4 * vector)
        assert (segment, offset) == (0xF000, expected)


def test_data_areas_leave_room_for_the_map(bench: Bench) -> None:
    """INT 12h, the E820 map and the EBDA pointer tell one story."""
    ebda = struct.unpack("<H", bench.memory.read(bios_layout.BDA_EBDA_SEGMENT, 2))[0] << 4
    assert ebda == e820.EBDA == bench.call(0x12).eax << 10
    assert bench.memory.read(ebda, 1) == b"\1"
    assert bench.memory.read(bios_layout.BDA_COM1, 2) == b"\xf8\x03"


def test_jump_to_the_reset_vector_writes_the_vectors_anew(bench: Bench) -> None:
    """A warm boot works after a guest has spoilt them."""
    bench.memory.write(0, b"\xff" * 1024)
    cpu = bench.call(0x12)
    cpu.eip = bios_layout.TRAP_TABLE + 4 * bios_layout.TRAP_RESET + 2
    bench.bios.trap(cpu)
    test_vectors(bench)


def test_entry_state_is_behind_the_post(bench: Bench) -> None:
    """Real mode in the BIOS, SS 0."""
    state = bench.state
    assert (state.mode, state.rip) == ("real", bios_layout.SYMBOLS["post_done"])
    assert (state.segments["cs"].selector, state.segments["ss"].base) == (0xF000, 0)


def test_bios_image_of_wrong_size_is_refused(tmp_path) -> None:
    """One line that names the file."""
    path = tmp_path / "short.bin"
    path.write_bytes(b"\0" * 100)
    with pytest.raises(HostError, match=r"short\.bin: not 65536 bytes"):
        bios.bios_image(str(path))
    with pytest.raises(HostError, match="No such file"):
        bios.bios_image(str(tmp_path / "absent"))
    with pytest.raises(HostError, match=r"nothing\.bin"):
        bios.firmware_file("nothing.bin")


def test_installed_image_is_the_committed_one() -> None:
    """The trap entries of bios.bin are OUT to our port, then IRET."""
    image = bios.bios_image()
    for number in range(bios_layout.TRAPS):
        at = bios_layout.TRAP_TABLE + 4 * number
        assert image[at : at + 3] == bytes((0xE6, bios_layout.TRAP_PORT, 0xCF))


def test_disk_constants_agree() -> None:
    """DL at boot is INT 13h's first drive."""
    assert bios_disk.FIRST_DRIVE == 0x80
