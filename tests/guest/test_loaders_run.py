"""Each kernel loader against real KVM: the CPU takes the entry state, the guest finds its data."""

from __future__ import annotations

import struct
import threading
from pathlib import Path

import pytest

from pyhv.boot import acpi, detect, entry
from pyhv.bus import Bus
from pyhv.cpustate import enter
from pyhv.kvm.cpuid import Cpuid
from pyhv.kvm.system import Kvm
from pyhv.kvm.vcpu import Vcpu
from pyhv.kvm.vm import Vm
from pyhv.memory import GuestMemory
from pyhv.runloop import VcpuThread, install_kick_handler

pytestmark = pytest.mark.kvm
LOAD = 0x200000
EXIT = "b000 e6f4 f4"  # mov al, 0; out 0xf4, al; hlt
OUT = "e780 "  # out 0x80, eax
PROTECTED = bytes.fromhex("89d8" + OUT + "8b03" + OUT + EXIT)  # ebx, [ebx]
MULTIBOOT = bytes.fromhex(OUT + "8b4310" + OUT + EXIT)  # eax, [ebx + 16]
LONG = bytes.fromhex(
    "89f0" + OUT + "8b8602020000" + OUT + "48c7c0ffffffff 48c1e820" + OUT + EXIT
)  # esi, [rsi + 0x202], (uint64_t)-1 >> 32
REAL = bytes.fromhex("660fb6c2 66" + OUT + "66a1007e 66" + OUT + "50 58" + EXIT)  # dl, [0x7e00]


class Reports:
    """Port 0x80 collects the guest's words, 0xf4 ends it."""

    def __init__(self) -> None:
        self.words: list[int] = []
        self.done = threading.Event()
        self.thread: VcpuThread | None = None

    def pio_in(self, offset: int, size: int) -> int:
        return 0

    def pio_out(self, offset: int, size: int, value: int) -> None:
        if size == 1:
            self.done.set()
            self.thread.leave()
        else:
            self.words.append(value)


def run(path: Path) -> tuple[entry.EntryState, list[int]]:
    """Load and run the file; return its entry state and what it reported."""
    kvm, memory = Kvm(), GuestMemory(32 << 20)
    vm = Vm(kvm, memory)
    vcpu = Vcpu(vm, 0)
    reports, bus, errors = Reports(), Bus(), []
    bus.claim_pio(0x80, 4, reports)
    bus.claim_pio(0xF4, 1, reports)

    def failed(thread: VcpuThread, error: BaseException) -> None:
        errors.append(error)
        reports.done.set()

    thread = reports.thread = VcpuThread(vcpu, bus, failed)
    install_kick_handler()
    try:
        Cpuid(kvm.supported_cpuid()).install(vcpu.fd)
        arguments = () if path.name == "sector" else ("quiet", None, acpi.build(memory, 1))
        state = detect.load(memory, str(path), *arguments)
        enter(vcpu, state)
        thread.start()
        finished = reports.done.wait(10)
        thread.request(thread.leave)
        thread.thread.join(10)
        assert finished, thread.last_exits()
        assert not errors, errors
    finally:
        thread.pio_handlers.release()
        vcpu.close()
        vm.close()
        kvm.close()
        memory.close()
    return state, reports.words


def elf(code: bytes, bits: int, notes: bytes = b"", at: int = LOAD) -> bytes:
    """Return a kernel of one segment at *at*, entered at its start, and one with *notes*."""
    if bits == 64:
        machine, head, segment = 62, "<16sHHIQQQIHHHHHH", "<IIQQQQQQ"
    else:
        machine, head, segment = 3, "<16sHHIIIIIHHHHHH", "<8I"
    sizes = struct.calcsize(head), struct.calcsize(segment)
    body, table = sizes[0] + 2 * sizes[1], b""
    for kind, offset, gpa, size in ((1, body, at, len(code)), (4, body + len(code), 0, len(notes))):
        if bits == 64:
            table += struct.pack(segment, kind, 5, offset, gpa, gpa, size, size, 1)
        else:
            table += struct.pack(segment, kind, offset, gpa, gpa, size, size, 5, 1)
    ident = b"\x7fELF" + bytes((bits // 32, 1, 1)) + bytes(9)
    fields = (ident, 2, machine, 1, at, sizes[0], 0, 0, sizes[0], sizes[1], 2, 0, 0, 0)
    return struct.pack(head, *fields) + table + code + notes


def bzimage() -> bytes:
    """Return a bzImage whose 64-bit entry is LONG."""
    payload = (b"\xf4" * 0x200 + LONG).ljust(1024, b"\0")
    setup = bytearray(1024)
    for form, offset, value in (
        ("<B", 0x1F1, 1),
        ("<I", 0x1F4, len(payload) // 16),
        ("<H", 0x1FE, 0xAA55),
        ("<H", 0x200, 0x66EB),
        ("<4s", 0x202, b"HdrS"),
        ("<H", 0x206, 0x20F),
        ("<B", 0x211, 1),
        ("<H", 0x236, 1),
        ("<I", 0x238, 2047),
        ("<Q", 0x258, 0x1000000),
        ("<I", 0x260, 0x10000),
    ):
        struct.pack_into(form, setup, offset, value)
    return bytes(setup) + payload


def multiboot(flags: int, *fields: int) -> bytes:
    magic = 0x1BADB002
    words = (magic, flags, -(magic + flags) & 0xFFFFFFFF, *fields)
    return struct.pack(f"<{len(words)}I", *words)


HDRS = int.from_bytes(b"HdrS", "little")
PVH_NOTE = struct.pack("<III4sI", 4, 4, 18, b"Xen", LOAD)
FLAT = multiboot(1 << 16, LOAD, LOAD, 0, 0, LOAD + 32) + MULTIBOOT
FILES = {
    "bzImage": (bzimage(), "long", [entry.BOOT_PARAMS, HDRS, 0xFFFFFFFF]),
    "elf64": (elf(LONG, 64), "long", [entry.BOOT_PARAMS, HDRS, 0xFFFFFFFF]),
    "pvh": (elf(PROTECTED, 64, PVH_NOTE), "protected", [entry.PVH_INFO, 0x336EC578]),
    "flat": (FLAT, "protected", [0x2BADB002, None]),
    "sector": (
        REAL.ljust(510, b"\0") + b"\x55\xaa\x78\x56\x34\x12",
        "real",
        [0x80, 0x12345678],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_the_guest_runs_and_finds_what_it_was_given(tmp_path: Path, name: str) -> None:
    data, mode, expected = FILES[name]
    (tmp_path / name).write_bytes(data)
    state, words = run(tmp_path / name)
    assert state.mode == mode
    assert len(words) == len(expected)
    assert all(want in (None, got) for got, want in zip(words, expected, strict=True)), words
