"""What a terminal sends becomes what a keyboard had."""

from __future__ import annotations

import pytest
from biosfake import ZERO, Bench

from pyhv.boot import bios_keyboard, bios_layout

# scan codes of the IBM AT technical reference, set 1, with the character
ORACLE = {
    b"a": 0x1E61, b"A": 0x1E41, b"z": 0x2C7A, b"1": 0x0231, b"!": 0x0221, b"0": 0x0B30,
    b"-": 0x0C2D, b" ": 0x3920, b"\r": 0x1C0D, b"\n": 0x1C0D,
    b"\t": 0x0F09, b"\x7f": 0x0E08, b"\x1b": 0x011B,
    b"\x03": 0x2E03, b"\x18": 0x2D18, b"/": 0x352F, b"?": 0x353F, b"\\": 0x2B5C, b"~": 0x297E,
    b"\x1b[A": 0x4800, b"\x1bOB": 0x5000, b"\x1b[C": 0x4D00, b"\x1b[D": 0x4B00, b"\x1b[H": 0x4700,
    b"\x1b[4~": 0x4F00, b"\x1b[3~": 0x5300, b"\x1b[5~": 0x4900, b"\x1bOP": 0x3B00,
    b"\x1b[21~": 0x4400,
}  # fmt: skip


@pytest.fixture
def bench() -> Bench:
    """A machine without disks."""
    return Bench()


@pytest.mark.parametrize("typed", ORACLE)
def test_key(bench: Bench, typed: bytes) -> None:
    """One key, read by INT 16h."""
    bench.bios.key_input(typed)
    assert bench.call(0x16).eax == ORACLE[typed]
    assert bench.bios.keyboard.peek() is None


def test_every_printable_character_has_a_key() -> None:
    """A US keyboard types all of ASCII."""
    for code in range(32, 127):
        assert bios_keyboard.KEYS[bytes((code,))] & 0xFF == code


@pytest.mark.parametrize("typed", bios_keyboard.KEYS)
def test_each_key_alone_and_in_a_row(typed: bytes) -> None:
    """No sequence is taken for the beginning of another."""
    keyboard = bios_keyboard.Keyboard()
    keyboard.feed(b"x" + typed + b"y")
    keys = [keyboard.take() for _ in range(3)]
    if typed != b"\x1b":  # Esc and y in one piece are two keys all the same
        assert keys == [0x2D78, bios_keyboard.KEYS[typed], 0x1579]


def test_peek_leaves_the_key(bench: Bench) -> None:
    """AH=01h: ZF clear, the same key comes with AH=00h."""
    bench.call(0x16, 0x0100)
    assert bench.flags & ZERO
    bench.bios.key_input(b"a")
    assert bench.call(0x16, 0x0100, flags=0x202 | ZERO).eax == 0x1E61
    assert not bench.flags & ZERO
    assert bench.call(0x16, 0x1000).eax == 0x1E61


def test_read_without_a_key_waits_in_the_guest(bench: Bench) -> None:
    """The vCPU's thread is not held: the guest halts in the BIOS and comes again."""
    cpu = bench.call(0x16, 0xCAFE0000)
    assert (cpu.eip, cpu.eax) == (bios_layout.KEY_WAIT, 0xCAFE0000)


def test_pushed_key_comes_out(bench: Bench) -> None:
    """AH=05h, until there is no room."""
    assert bench.call(0x16, 0x0500, ecx=0x3920).eax & 0xFF == 0
    assert bench.call(0x16).eax == 0x3920
    for _ in range(bios_keyboard.QUEUE_KEYS):
        bench.call(0x16, 0x0500, ecx=0x3920)
    assert bench.call(0x16, 0x0500, ecx=0x3920).eax & 0xFF == 1


def test_typing_is_bounded() -> None:
    """A guest that never reads does not fill our memory; what is no key is dropped."""
    keyboard = bios_keyboard.Keyboard()
    assert keyboard.feed(b"\xff\x00\x80") == 3
    assert keyboard.peek() is None
    assert keyboard.feed(b"a" * 100_000) == bios_keyboard.QUEUE_KEYS


def test_no_keys_while_the_guest_has_com1(bench: Bench) -> None:
    """A loader that reads both would see each key twice."""
    bench.hidden = True
    bench.bios.key_input(b"a")
    assert bench.bios.keyboard.peek() is None
