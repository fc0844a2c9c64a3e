"""INT 10h: what the guest sees in its screen, and what the console gets of it."""

from __future__ import annotations

import pytest
from biosfake import Bench

from pyhv.boot import bios_layout


@pytest.fixture
def bench() -> Bench:
    """A machine without disks."""
    return Bench()


def show(bench: Bench, text: bytes) -> None:
    """Print by teletype."""
    for code in text:
        bench.call(0x10, 0x0E00 | code)


def at(bench: Bench, row: int, column: int) -> None:
    """Set the cursor."""
    bench.call(0x10, 0x0200, edx=row << 8 | column)


def cursor(bench: Bench) -> tuple[int, int]:
    """Ask for the cursor."""
    edx = bench.call(0x10, 0x0300).edx
    return edx >> 8, edx & 0xFF


def test_teletype_goes_to_screen_and_console(bench: Bench) -> None:
    """Plain text is passed on byte by byte."""
    show(bench, b"Hello\r\nworld\x08\x08\a!")
    assert bench.console.data == b"Hello\r\nworld\b\b\a!"
    assert bench.bios.screen.text() == "Hello\nwor!d"
    assert cursor(bench) == (1, 4)


def test_line_wraps_at_80_and_screen_scrolls_at_25(bench: Bench) -> None:
    """The console, which may be wider, gets its line end."""
    show(bench, b"x" * 80 + b"y")
    assert bench.console.data == b"x" * 80 + b"\r\ny"
    show(bench, b"\n" * 30)
    assert cursor(bench) == (24, 1)
    assert bench.bios.screen.text() == ""


def test_characters_with_a_glyph_become_utf8(bench: Bench) -> None:
    """Code page 437 frames, as boot menus draw them."""
    show(bench, b"\xda\xc4\xbf\x18\x7f")
    assert bench.console.data.decode() == "┌─┐↑⌂"


def test_write_character_does_not_move_the_cursor(bench: Bench) -> None:
    """GRUB's way: 09h at the cursor, then 02h; on the console it is one line of text."""
    for column, code in enumerate(b"menu"):
        at(bench, 0, column)
        bench.call(0x10, 0x0900 | code, ebx=0x1F, ecx=1)
    assert bench.console.data == b"menu"
    assert cursor(bench) == (0, 3)
    assert bench.bios.screen.cell(0, 3) == (ord("u"), 0x1F)
    assert bench.call(0x10, 0x0800).eax == 0x1F00 | ord("u")


def test_cursor_moves_are_relative_on_the_console(bench: Bench) -> None:
    """Down scrolls by line feeds, up and right are escape sequences."""
    at(bench, 2, 5)
    show(bench, b"a")
    at(bench, 1, 0)
    show(bench, b"b")
    assert bench.console.data == b"\r\n\n\x1b[5Ca\x1b[1A\rb"


def test_clear_starts_a_fresh_line_and_wipes_nothing(bench: Bench) -> None:
    """What was printed before stays in the terminal's history."""
    show(bench, b"before")
    bench.call(0x10, 0x0003)
    show(bench, b"after")
    assert bench.console.data == b"before\r\nafter"
    assert bench.bios.screen.text() == "after"
    bench.call(0x10, 0x0083)
    assert bench.bios.screen.text() == "after"


def test_blanks_over_blanks_are_not_printed(bench: Bench) -> None:
    """Loaders clear lines by writing 80 spaces."""
    at(bench, 1, 0)
    bench.call(0x10, 0x0920, ebx=7, ecx=80)
    at(bench, 0, 0)
    bench.call(0x10, 0x0920, ebx=7, ecx=2000)
    assert bench.console.data == b""


def test_a_screen_of_spaces_is_a_clear(bench: Bench) -> None:
    """GRUB clears that way."""
    show(bench, b"old")
    at(bench, 0, 0)
    bench.call(0x10, 0x0920, ebx=0x17, ecx=2000)
    assert bench.console.data == b"old\r\n"
    assert bench.bios.screen.text() == ""
    assert bench.bios.screen.cell(24, 79) == (0x20, 0x17)


def test_a_space_inside_a_text_is_printed(bench: Bench) -> None:
    """GRUB writes every character by itself; the text on the console stays a text."""
    for column, code in enumerate(b"to GRUB"):
        at(bench, 0, column)
        bench.call(0x10, 0x0900 | code, ebx=7, ecx=1)
    assert bench.console.data == b"to GRUB"


def test_text_is_wiped_by_spaces(bench: Bench) -> None:
    """Only the row that had something."""
    show(bench, b"\r\nwrong")
    at(bench, 1, 0)
    bench.call(0x10, 0x0920, ebx=7, ecx=160)
    assert bench.console.data == b"\r\nwrong\r" + b" " * 80


def test_fill_ends_with_the_screen(bench: Bench) -> None:
    """A count beyond the screen writes no memory behind it."""
    behind = bios_layout.TEXT_GPA + 4000
    bench.memory.write(behind, b"safe")
    at(bench, 24, 79)
    bench.call(0x10, 0x0A58, ecx=0xFFFF)
    assert bench.memory.read(behind, 4) == b"safe"
    assert bench.bios.screen.cell(24, 79)[0] == ord("X")


def test_scroll_of_a_window_redraws_it(bench: Bench) -> None:
    """Rows outside the window stay."""
    show(bench, b"one\r\ntwo\r\nthree\r\nfour")
    bench.call(0x10, 0x0601, ecx=0x0100, edx=0x024F, ebx=0x0700)
    assert bench.bios.screen.text() == "one\nthree\n\nfour"
    bench.call(0x10, 0x0701, ecx=0x0100, edx=0x024F, ebx=0x0700)
    assert bench.bios.screen.text() == "one\n\nthree\nfour"
    assert b"three\x1b[K" in bench.console.data


def test_scroll_of_the_whole_screen_is_a_line_feed(bench: Bench) -> None:
    """As on a terminal."""
    show(bench, b"one\r\ntwo")
    bench.console.data = b""
    bench.call(0x10, 0x0601, ecx=0, edx=0x184F, ebx=0x0700)
    assert bench.console.data == b"\r" + b"\n" * 23 + b"\n"
    assert bench.bios.screen.text() == "two"


@pytest.mark.parametrize(
    ("eax", "text", "expected_cursor"),
    [(0x1301, b"ab", (3, 6)), (0x1300, b"ab", (0, 0)), (0x1303, b"a\x01b\x02", (3, 6))],
)
def test_write_string(
    bench: Bench, eax: int, text: bytes, expected_cursor: tuple[int, int]
) -> None:
    """With and without attributes, moving the cursor or not."""
    bench.memory.write(0x600, text)
    bench.call(0x10, eax, ecx=2, edx=0x0304, ebp=0x600, ebx=7)
    assert bench.bios.screen.text() == "\n\n\n    ab"
    assert cursor(bench) == expected_cursor
    assert bench.bios.screen.cell(3, 5)[1] == (2 if eax & 2 else 7)


def test_hidden_screen_prints_nothing_but_keeps_its_cells(bench: Bench) -> None:
    """Once the guest has COM1, its text would come twice."""
    bench.hidden = True
    show(bench, b"twice")
    bench.call(0x10, 0x0003)
    show(bench, b"seen")
    bench.call(0x10, 0x0941, ebx=7, ecx=3)
    bench.call(0x10, 0x0601, edx=0x104F)
    assert bench.console.data == b""


@pytest.mark.parametrize("place", [b"\xff\xff", b"\x50\x19"])
def test_cursor_beyond_the_screen_is_clamped(bench: Bench, place: bytes) -> None:
    """The BIOS data area is the guest's to write."""
    bench.memory.write(bios_layout.BDA_CURSOR, place)
    show(bench, b"z")
    # the last cell: written, wrapped, scrolled up
    assert bench.bios.screen.text() == "\n" * 23 + " " * 79 + "z"
    bench.memory.write(bios_layout.BDA_CURSOR, place)
    bench.call(0x10, 0x0958, ecx=10)
    assert bench.bios.screen.cell(24, 79)[0] == ord("X")
