"""Every row of the BIOS's service table, with what it answers; and what no row serves."""

from __future__ import annotations

import pytest
from biosfake import CARRY, Bench, MemoryDisk, numbered_sectors

from pyhv.boot import bios, bios_layout

SAME = None  # carry is left as it was

# (vector, ah or None): registers in, registers out (those named), carry
EXAMPLES = {
    (0x10, 0x00): ({"eax": 0x0003}, {"eax": 0x0030}, SAME),
    (0x10, 0x01): ({"eax": 0x0100, "ecx": 0x2000}, {"ecx": 0x2000}, SAME),
    (0x10, 0x02): ({"eax": 0x0200, "edx": 0x0A0B}, {"edx": 0x0A0B}, SAME),
    (0x10, 0x03): ({"eax": 0x0300}, {"edx": 0, "ecx": 0x0607}, SAME),
    (0x10, 0x05): ({"eax": 0x0501}, {"eax": 0x0501}, SAME),
    (0x10, 0x06): ({"eax": 0x0601, "edx": 0x184F}, {"eax": 0x0601}, SAME),
    (0x10, 0x07): ({"eax": 0x0701, "edx": 0x184F}, {"eax": 0x0701}, SAME),
    (0x10, 0x08): ({"eax": 0x0800}, {"eax": 0x0720}, SAME),
    (0x10, 0x09): ({"eax": 0x0941, "ebx": 7, "ecx": 1}, {"eax": 0x0941}, SAME),
    (0x10, 0x0A): ({"eax": 0x0A41, "ecx": 1}, {"eax": 0x0A41}, SAME),
    (0x10, 0x0B): ({"eax": 0x0B00}, {"eax": 0x0B00}, SAME),
    (0x10, 0x0C): ({"eax": 0x0C00}, {"eax": 0x0C00}, SAME),
    (0x10, 0x0E): ({"eax": 0x0E41}, {"eax": 0x0E41}, SAME),
    (0x10, 0x0F): ({"eax": 0x0F00, "ebx": 0x1234}, {"eax": 0x5003, "ebx": 0x0034}, SAME),
    (0x10, 0x10): ({"eax": 0x1000}, {"eax": 0x1000}, SAME),
    (0x10, 0x11): ({"eax": 0x1130, "edx": 0x5500}, {"ecx": 16, "edx": 0x5518}, SAME),
    (0x10, 0x12): ({"eax": 0x1200, "ebx": 0x10}, {"ebx": 0x0003}, SAME),
    (0x10, 0x13): ({"eax": 0x1301, "ecx": 3, "ebp": 0x500}, {"eax": 0x1301}, SAME),
    (0x10, 0x1A): ({"eax": 0x1A00}, {"eax": 0x1A1A, "ebx": 8}, SAME),
    (0x10, 0x4F): ({"eax": 0x4F00}, {"eax": 0x0100}, SAME),
    (0x11, None): ({"eax": 0xABCD}, {"eax": bios_layout.EQUIPMENT}, SAME),
    (0x12, None): ({}, {"eax": 639}, SAME),
    (0x13, 0x00): ({"edx": 0x80}, {"eax": 0}, False),
    (0x13, 0x01): ({"eax": 0x0100, "edx": 0x80}, {"eax": 0}, False),
    (0x13, 0x02): ({"eax": 0x0201, "ecx": 1, "edx": 0x80, "ebx": 0x600}, {"eax": 1}, False),
    (0x13, 0x03): ({"eax": 0x0301, "ecx": 1, "edx": 0x80, "ebx": 0x600}, {"eax": 1}, False),
    (0x13, 0x04): ({"eax": 0x0401, "ecx": 1, "edx": 0x80}, {"eax": 1}, False),
    (0x13, 0x05): ({"eax": 0x0500, "edx": 0x80}, {"eax": 0x0100}, True),
    (0x13, 0x08): ({"eax": 0x0800, "edx": 0x80}, {"eax": 0, "ecx": 63, "edx": 0x0F01}, False),
    (0x13, 0x09): ({"eax": 0x0900, "edx": 0x80}, {"eax": 0}, False),
    (0x13, 0x0C): ({"eax": 0x0C00, "ecx": 1, "edx": 0x80}, {"eax": 0}, False),
    (0x13, 0x0D): ({"eax": 0x0D00, "edx": 0x80}, {"eax": 0}, False),
    (0x13, 0x10): ({"eax": 0x1000, "edx": 0x80}, {"eax": 0}, False),
    (0x13, 0x11): ({"eax": 0x1100, "edx": 0x80}, {"eax": 0}, False),
    (0x13, 0x14): ({"eax": 0x1400, "edx": 0x80}, {"eax": 0}, False),
    (0x13, 0x15): ({"eax": 0x1500, "edx": 0x80}, {"eax": 0x0300, "ecx": 0, "edx": 100}, False),
    (0x13, 0x16): ({"eax": 0x1600, "edx": 0}, {"eax": 0x0100}, True),
    (0x13, 0x17): ({"eax": 0x1700, "edx": 0}, {"eax": 0x0100}, True),
    (0x13, 0x18): ({"eax": 0x1800, "edx": 0}, {"eax": 0x0100}, True),
    (0x13, 0x41): (
        {"eax": 0x4100, "ebx": 0x55AA, "edx": 0x80},
        {"eax": 0x3000, "ebx": 0xAA55, "ecx": 5},
        False,
    ),
    (0x13, 0x42): ({"eax": 0x4200, "edx": 0x80, "esi": 0x700}, {"eax": 0}, False),
    (0x13, 0x43): ({"eax": 0x4300, "edx": 0x80, "esi": 0x700}, {"eax": 0}, False),
    (0x13, 0x44): ({"eax": 0x4400, "edx": 0x80, "esi": 0x700}, {"eax": 0}, False),
    (0x13, 0x45): ({"eax": 0x4500, "edx": 0x80}, {"eax": 0x0100}, True),
    (0x13, 0x46): ({"eax": 0x4600, "edx": 0x80}, {"eax": 0x0100}, True),
    (0x13, 0x47): ({"eax": 0x4700, "edx": 0x80, "esi": 0x700}, {"eax": 0}, False),
    (0x13, 0x48): ({"eax": 0x4800, "edx": 0x80, "esi": 0x720}, {"eax": 0}, False),
    (0x13, 0x49): ({"eax": 0x4900, "edx": 0x80}, {"eax": 0x0100}, True),
    (0x13, 0x4B): ({"eax": 0x4B01, "edx": 0x80}, {"eax": 0x0101}, True),
    (0x13, 0x4E): ({"eax": 0x4E00, "edx": 0x80}, {"eax": 0x0100}, True),
    (0x13, None): ({"eax": 0x9900, "edx": 0x80}, {"eax": 0x0100}, True),
    (0x14, None): ({"eax": 0x0300}, {"eax": 0x60B0}, SAME),
    (0x15, 0x24): ({"eax": 0x2402}, {"eax": 1}, False),
    (0x15, 0x41): ({"eax": 0x4100}, {"eax": 0x8600}, True),
    (0x15, 0x4F): ({"eax": 0x4F1E}, {"eax": 0x4F1E}, True),
    (0x15, 0x53): ({"eax": 0x5300}, {"eax": 0x8600}, True),
    (0x15, 0x83): ({"eax": 0x8300}, {"eax": 0x8600}, True),
    (0x15, 0x86): ({"eax": 0x8600, "edx": 10}, {"eax": 0x8600}, False),
    (0x15, 0x87): ({"eax": 0x8700, "esi": 0x700}, {"eax": 0}, False),
    (0x15, 0x88): ({"eax": 0x8800}, {"eax": 31 * 1024}, False),
    (0x15, 0x90): ({"eax": 0x9000}, {"eax": 0}, False),
    (0x15, 0x91): ({"eax": 0x9100}, {"eax": 0}, False),
    (0x15, 0xC0): ({"eax": 0xC000}, {"eax": 0, "ebx": 0xE6F5, "es_base": 0xF0000}, False),
    (0x15, 0xC1): ({"eax": 0xC100}, {"es_sel": 0x9FC0, "es_base": 0x9FC00}, False),
    (0x15, 0xC2): ({"eax": 0xC200}, {"eax": 0x8600}, True),
    (0x15, 0xD8): ({"eax": 0xD800}, {"eax": 0x8600}, True),
    (0x15, 0xE8): ({"eax": 0xE801}, {"ecx": 15 * 1024, "edx": 256}, False),
    (0x15, 0xE9): ({"eax": 0xE980}, {"eax": 0x8680}, True),
    (0x15, 0xEC): ({"eax": 0xEC00}, {"eax": 0x8600}, True),
    (0x16, 0x00): ({}, {"eip": bios_layout.KEY_WAIT, "eax": 0}, SAME),
    (0x16, 0x01): ({"eax": 0x0100}, {"eax": 0x0100}, SAME),
    (0x16, 0x02): ({"eax": 0x02FF}, {"eax": 0x0200}, SAME),
    (0x16, 0x03): ({"eax": 0x0305}, {"eax": 0x0305}, SAME),
    (0x16, 0x05): ({"eax": 0x0500, "ecx": 0x1E61}, {"eax": 0x0500}, SAME),
    (0x16, 0x09): ({"eax": 0x0900}, {"eax": 0x0920}, SAME),
    (0x16, 0x10): ({"eax": 0x1000}, {"eip": bios_layout.KEY_WAIT, "eax": 0x1000}, SAME),
    (0x16, 0x11): ({"eax": 0x1100}, {"eax": 0x1100}, SAME),
    (0x16, 0x12): ({"eax": 0x1200}, {"eax": 0}, SAME),
    (0x16, 0x20): ({"eax": 0x2000}, {"eip": bios_layout.KEY_WAIT}, SAME),
    (0x16, 0x21): ({"eax": 0x2100}, {"eax": 0x2100}, SAME),
    (0x16, 0x22): ({"eax": 0x2200}, {"eax": 0x2200}, SAME),
    (0x17, None): ({"eax": 0x0200}, {"eax": 0x0100}, SAME),
    (0x18, None): ({}, {"eip": bios_layout.HALT}, SAME),
    (0x19, None): ({}, {"edx": 0x80, "esp": 0x7BFA, "ss_base": 0}, SAME),
    (0x1A, 0x00): ({"eax": 0xFF}, {"eax": 0}, SAME),
    (0x1A, 0x01): ({"eax": 0x0100, "ecx": 1, "edx": 2}, {}, SAME),
    (0x1A, 0x02): ({"eax": 0x0200}, {}, False),
    (0x1A, 0x03): ({"eax": 0x0300}, {"eax": 0x8600}, True),
    (0x1A, 0x04): ({"eax": 0x0400}, {}, False),
    (0x1A, 0x05): ({"eax": 0x0500}, {"eax": 0x8600}, True),
    (0x1A, 0xB1): ({"eax": 0xB101}, {"eax": 0x8601}, True),
}


@pytest.fixture
def bench() -> Bench:
    """A machine of 32 MiB and one disk of 100 sectors; a packet at 0x700, a buffer at 0x720."""
    bench = Bench(MemoryDisk(numbered_sectors(100)))
    bench.memory.write(0x700, bytes.fromhex("10000100 00060000 0200000000000000"))
    bench.memory.write(0x720, bytes.fromhex("1e00"))
    return bench


def test_every_row_has_an_example() -> None:
    """A new service comes with a line above."""
    assert set(EXAMPLES) == set(bios.SERVICES)


@pytest.mark.parametrize("carry_before", [0, CARRY])
@pytest.mark.parametrize("key", EXAMPLES, ids=lambda key: f"{key[0]:02x}.{key[1]}")
def test_row(bench: Bench, key: tuple[int, int | None], carry_before: int) -> None:
    """The row answers as its example says, and touches no other half of a register."""
    registers, expected, carry = EXAMPLES[key]
    high = dict.fromkeys(("ebx", "ecx", "edx", "esi", "edi", "ebp"), 0xBEEF0000)
    if key[0] == 0x19:  # the boot clears all
        high = {}
    given = high | {name: value | high.get(name, 0) for name, value in registers.items()}
    cpu = bench.call(key[0], flags=0x202 | carry_before, **given)
    for name, value in expected.items():
        assert getattr(cpu, name) == value | high.get(name, 0), name
    for name in high:
        assert getattr(cpu, name) >> 16 == high[name] >> 16, name
    if key[0] != 0x19:
        assert bench.flags & ~0x41 == 0x202
        assert bench.carry == (bool(carry_before) if carry is SAME else carry)
    assert bench.bios.counts == {key: 1}
    assert not bench.bios.unknown


@pytest.mark.parametrize("ip_offset", [0, 2], ids=["at the OUT", "behind it"])
def test_vector_from_either_ip(bench: Bench, ip_offset: int) -> None:
    """Some KVMs have advanced RIP when the exit comes, others not yet."""
    from biosfake import FakeCpu

    cpu = FakeCpu(eip=bios_layout.TRAP_TABLE + 4 * 0x12 + ip_offset)
    bench.bios.trap(cpu)
    assert cpu.eax == 639


@pytest.mark.parametrize(
    "where",
    [
        {"eip": bios_layout.TRAP_TABLE - 2},
        {"eip": bios_layout.TRAP_TABLE + 4 * bios_layout.TRAPS},
        {"eip": 0x1E048},
        {"eip": 0xE048, "cs_sel": 8, "cs_base": 0},
    ],
)
def test_out_from_elsewhere_changes_nothing(bench: Bench, where: dict[str, int]) -> None:
    """A guest that writes our port by itself gets no service."""
    from biosfake import FakeCpu

    cpu = FakeCpu(eax=0x12345678, **where)
    bench.bios.trap(cpu)
    assert (cpu.eax, bench.bios.stray) == (0x12345678, 1)


def test_unknown_service_is_refused_and_remembered(bench: Bench) -> None:
    """CF and AH=86h, and the log knows it by number."""
    cpu = bench.call(0x15, 0x7742)
    assert (cpu.eax, bench.carry) == (0x8642, True)
    bench.call(0x15, 0x7742)
    assert bench.bios.unknown_calls() == ["INT 15h AH=77h, not served: 2 times"]
    assert bench.bios.last_calls()[-1] == "INT 15h AH=77h, not served"


def test_known_service_is_named_in_the_log(bench: Bench) -> None:
    """A report shows what the guest asked for, by name."""
    bench.call(0x15, 0x5300)
    bench.call(0x12)
    assert bench.bios.last_calls() == [
        "INT 15h AX=5300h APM, refused", "INT 12h conventional memory",
    ]  # fmt: skip


def test_logs_are_bounded(bench: Bench) -> None:
    """A guest that calls everything does not fill our memory."""
    for vector in range(0x20, 0x60):
        for function in range(16):
            bench.call(vector, function << 8)
    assert len(bench.bios.unknown) == bios.UNKNOWN_KEPT
    assert len(bench.bios.last_calls()) == bios.RECENT


@pytest.mark.parametrize("vector", [0x01, 0x02, 0x03, 0x04, 0x05, 0x09, 0x0F])
def test_interrupt_at_any_time_changes_no_register(bench: Bench, vector: int) -> None:
    """An IRQ or trap without a handler must not disturb the code it interrupts."""
    cpu = bench.call(vector, 0x1234, flags=0x202 | CARRY)
    assert (cpu.eax, bench.flags) == (0x1234, 0x203)
    assert not bench.stops


@pytest.mark.parametrize("vector", bios.EXCEPTIONS)
def test_unhandled_exception_stops_with_its_name_and_place(bench: Bench, vector: int) -> None:
    """The instruction would fault for ever."""
    cpu = bench.call(vector)
    assert cpu.eip == bios_layout.HALT
    ((kind, text),) = bench.stops
    assert kind == "stuck"
    assert bios.EXCEPTIONS[vector] in text
    assert "1234:5678" in text


def test_int18_says_why(bench: Bench) -> None:
    """A boot sector that gives up ends the machine."""
    bench.call(0x18)
    assert bench.stops == [("no-boot", "no bootable device: the guest gave up (INT 18h)")]
