"""INT 10h: an 80 x 25 text screen in guest memory at 0xb8000, shown as a stream on the console.

A terminal that scrolls is not a screen: cursor moves become relative ones, so what was
printed before stays, and a cleared screen begins on a fresh line. Source for the
calls: Ralf Brown's interrupt list.
"""

from __future__ import annotations

import struct

from . import bios_layout as at
from .bios_cpu import ah, es_offset, set_ah, set_al, set_ax, set_bx, set_cx, set_dx

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..memory import GuestMemory
    from .bios import Bios, Output
    from .bios_cpu import Cpu

VECTOR = 0x10
COLUMNS, ROWS = at.COLUMNS, at.ROWS
CELLS = COLUMNS * ROWS
ROW_BYTES = COLUMNS * 2
GREY = 7  # attribute
SPACE = 0x20
CURSOR_SHAPE = 0x0607
_BLANK_ROW = bytes((0x20, GREY)) * COLUMNS
BELL, BACKSPACE, LINE_FEED, CARRIAGE_RETURN = 7, 8, 10, 13

#: Code page 437's glyphs for 0..31 and 127; Python's codec has the rest.
_LOW = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
_REST = bytes(range(32, 256)).decode("cp437").replace("\x7f", "⌂")
GLYPHS = [glyph.encode() for glyph in _LOW + _REST]


class Screen:
    """The screen's cells (in guest memory, so hostile) and where the terminal's cursor stands.

    :param hidden: True while nothing shall be printed; the cells are kept up to date.
    """

    def __init__(
        self, memory: GuestMemory, console: Output, hidden: Callable[[], bool]
    ) -> None:
        self._memory, self._write, self._hidden = memory, console.write, hidden
        self._row = self._column = 0  # the terminal's cursor, in the screen's terms

    def reset(self) -> None:
        """Blank the cells and put the cursor home; nothing is printed."""
        self._memory.write(at.TEXT_GPA, bytes((0x20, GREY)) * CELLS)
        self.cursor = (0, 0)
        self._row = self._column = 0

    @property
    def cursor(self) -> tuple[int, int]:
        """Row and column, from the BIOS data area, clamped to the screen."""
        column, row = self._memory.read(at.BDA_CURSOR, 2)
        return min(row, ROWS - 1), min(column, COLUMNS - 1)

    @cursor.setter
    def cursor(self, position: tuple[int, int]) -> None:
        row, column = position
        self._memory.write(at.BDA_CURSOR, bytes((column, row)))

    @property
    def terminal(self) -> list[int]:
        """Row and column of the terminal's cursor: what a snapshot needs beside guest memory."""
        return [self._row, self._column]

    @terminal.setter
    def terminal(self, position: list[int]) -> None:
        self._row, self._column = position

    def cell(self, row: int, column: int) -> tuple[int, int]:
        """Return character and attribute."""
        character, attribute = self._memory.read(at.TEXT_GPA + (row * COLUMNS + column) * 2, 2)
        return character, attribute

    def _move(self, row: int, column: int) -> bytes:
        """Return what brings the terminal's cursor there; down by line feeds, which scroll."""
        text = b""
        if row > self._row:
            text = b"\r" + b"\n" * (row - self._row)
            self._column = 0
        elif row < self._row:
            text = b"\x1b[%dA" % (self._row - row)
        if column < self._column:
            text += b"\r"
            self._column = 0
        if column > self._column:
            text += b"\x1b[%dC" % (column - self._column)
        self._row, self._column = row, column
        return text

    def fill(self, character: int, attribute: int | None, count: int) -> None:
        """Write *count* equal characters from the cursor on, which stays.

        Loaders clear with spaces: a whole screen of them is a clear, those that change nothing are
        not printed unless they continue a text.
        """
        row, column = self.cursor
        start = row * COLUMNS + column
        count = min(count, CELLS - start)
        if character == SPACE and count == CELLS:
            self.scroll(0, 0, ROWS - 1, COLUMNS - 1, 0, GREY if attribute is None else attribute)
            return
        gpa = at.TEXT_GPA + start * 2
        cells = bytearray(self._memory.read(gpa, count * 2))
        before = bytes(cells[::2])
        cells[::2] = bytes((character,)) * count
        if attribute is not None:
            cells[1::2] = bytes((attribute,)) * count
        self._memory.write(gpa, cells)
        done = 0
        while done < count and not self._hidden():
            run = min(count - done, COLUMNS - column)
            blank = character == SPACE and not before[done : done + run].strip(b" \0")
            if not blank or run == 1 and (row, column) == (self._row, self._column):
                self._write(self._move(row, column) + GLYPHS[character] * run)
                self._column = column + run
            done += run
            row, column = row + 1, 0

    def teletype(self, data: bytes, attribute: int | None = None) -> None:
        """Write characters at the cursor, which moves; BEL, BS, LF and CR are obeyed."""
        row, column = self.cursor
        out = bytearray(b"" if self._hidden() else self._move(row, column))
        for code in data:
            if code == BELL:
                out += b"\a"
            elif code == BACKSPACE:
                if column:
                    column -= 1
                    out += b"\b"
            elif code == CARRIAGE_RETURN:
                column = 0
                out += b"\r"
            elif code == LINE_FEED:
                row += 1
                out += b"\n"
            else:
                gpa = at.TEXT_GPA + (row * COLUMNS + column) * 2
                cell = (code,) if attribute is None else (code, attribute)
                self._memory.write(gpa, bytes(cell))
                out += GLYPHS[code]
                column += 1
                if column == COLUMNS:
                    row, column = row + 1, 0
                    out += b"\r\n"
            if row == ROWS:
                row = ROWS - 1
                self._line_up()
        self.cursor = (row, column)
        if not self._hidden():
            self._row, self._column = row, column
            if out:
                self._write(bytes(out))

    def _line_up(self) -> None:
        """Scroll the whole screen by a line: 65,535 line feeds in one call must not take long."""
        rest = self._memory.read(at.TEXT_GPA + ROW_BYTES, (ROWS - 1) * ROW_BYTES)
        self._memory.write(at.TEXT_GPA, rest + _BLANK_ROW)

    def _scroll_cells(
        self, top: int, left: int, bottom: int, right: int, lines: int, attribute: int
    ) -> None:
        """Move the window's cells up by *lines* (down if negative), blank what comes in."""
        width, height = (right - left + 1) * 2, bottom - top + 1
        start = at.TEXT_GPA + top * ROW_BYTES + left * 2
        rows = [self._memory.read(start + i * ROW_BYTES, width) for i in range(height)]
        blank = bytes((0x20, attribute)) * (width // 2)
        count = min(abs(lines), height)
        blanks = [blank] * count
        rows = rows[count:] + blanks if lines > 0 else blanks + rows[: height - count]
        for i, row in enumerate(rows):
            self._memory.write(start + i * ROW_BYTES, row)

    def scroll(
        self, top: int, left: int, bottom: int, right: int, lines: int, attribute: int
    ) -> None:
        """Scroll a window up (*lines* > 0) or down, or clear it (0)."""
        bottom, right = min(bottom, ROWS - 1), min(right, COLUMNS - 1)
        if top > bottom or left > right:
            return
        whole = (top, left, bottom, right) == (0, 0, ROWS - 1, COLUMNS - 1)
        height = bottom - top + 1
        if not lines or abs(lines) >= height:
            lines, clears = height, True
        else:
            clears = False
        before = self._memory.read(at.TEXT_GPA, CELLS * 2)
        self._scroll_cells(top, left, bottom, right, lines, attribute)
        if self._hidden():
            return
        if whole and clears:
            if any(code not in b" \0" for code in before[::2]) or self._column:
                self._write(b"\r\n" if self._column else b"\n")
            self._row = self._column = 0  # the screen begins here
        elif whole and lines > 0:
            self._write(self._move(ROWS - 1, 0) + b"\n" * lines)
        else:
            self._redraw(before)

    def _redraw(self, before: bytes) -> None:
        """Print the rows whose characters differ from *before*, without blanks at the end."""
        now = self._memory.read(at.TEXT_GPA, CELLS * 2)
        for row in range(ROWS):
            part = slice(row * ROW_BYTES, (row + 1) * ROW_BYTES, 2)
            text = now[part]
            if text != before[part]:
                text = text.rstrip(b" \0")
                line = b"".join(GLYPHS[code] for code in text)
                self._write(self._move(row, 0) + line + b"\x1b[K")
                self._column = len(text)

    def text(self) -> str:
        """Return the screen as lines, trailing blanks removed; for reports and tests."""
        cells = self._memory.read(at.TEXT_GPA, CELLS * 2)[::2]
        rows = (cells[i : i + COLUMNS].rstrip(b" \0") for i in range(0, CELLS, COLUMNS))
        lines = [b"".join(GLYPHS[code] for code in row).decode() for row in rows]
        return "\n".join(lines).rstrip("\n")


def _set_mode(bios: Bios, cpu: Cpu) -> None:
    """AH=00h: every mode is mode 3; AL bit 7 keeps the screen."""
    if not cpu.eax & 0x80:
        bios.screen.scroll(0, 0, ROWS - 1, COLUMNS - 1, 0, GREY)
        bios.screen.cursor = (0, 0)
    set_al(cpu, 0x30)


def _cursor_shape(bios: Bios, cpu: Cpu) -> None:
    """AH=01h: CX = the cursor's first and last line."""
    bios.memory.write(at.BDA_CURSOR_SHAPE, struct.pack("<H", cpu.ecx & 0xFFFF))


def _set_cursor(bios: Bios, cpu: Cpu) -> None:
    """AH=02h: DH row, DL column, of page BH; only page 0 is kept."""
    if not cpu.ebx >> 8 & 0xFF:
        row, column = cpu.edx >> 8 & 0xFF, cpu.edx & 0xFF
        bios.screen.cursor = (min(row, ROWS - 1), min(column, COLUMNS - 1))


def _get_cursor(bios: Bios, cpu: Cpu) -> None:
    """AH=03h: CX = shape, DX = row and column."""
    row, column = bios.screen.cursor
    set_ax(cpu, 0)
    set_cx(cpu, int.from_bytes(bios.memory.read(at.BDA_CURSOR_SHAPE, 2), "little"))
    set_dx(cpu, row << 8 | column)


def _scroll(bios: Bios, cpu: Cpu) -> None:
    """AH=06h up, 07h down: AL lines (0 clears), BH attribute, window CH,CL to DH,DL."""
    cx, dx, lines = cpu.ecx, cpu.edx, cpu.eax & 0xFF
    bios.screen.scroll(
        cx >> 8 & 0xFF, cx & 0xFF, dx >> 8 & 0xFF, dx & 0xFF,
        lines if ah(cpu) == 6 else -lines, cpu.ebx >> 8 & 0xFF,
    )  # fmt: skip


def _read_character(bios: Bios, cpu: Cpu) -> None:
    """AH=08h: AL = the character at the cursor, AH = its attribute."""
    character, attribute = bios.screen.cell(*bios.screen.cursor)
    set_ax(cpu, attribute << 8 | character)


def _write_character(bios: Bios, cpu: Cpu) -> None:
    """AH=09h (with attribute BL), 0Ah: AL, CX times; the cursor stays."""
    attribute = cpu.ebx & 0xFF if ah(cpu) == 9 else None
    bios.screen.fill(cpu.eax & 0xFF, attribute, cpu.ecx & 0xFFFF)


def _teletype(bios: Bios, cpu: Cpu) -> None:
    """AH=0Eh: AL."""
    bios.screen.teletype(bytes((cpu.eax & 0xFF,)))


def _get_mode(bios: Bios, cpu: Cpu) -> None:
    """AH=0Fh: AL = mode, AH = columns, BH = page."""
    set_ax(cpu, COLUMNS << 8 | at.TEXT_MODE)
    cpu.ebx &= ~0xFF00


def _font(bios: Bios, cpu: Cpu) -> None:
    """AH=11h AL=30h: CX = height, DL = last row; there is no font to point at."""
    if cpu.eax & 0xFF == 0x30:
        set_cx(cpu, 16)
        set_dx(cpu, cpu.edx & 0xFF00 | ROWS - 1)


def _ega_information(bios: Bios, cpu: Cpu) -> None:
    """AH=12h BL=10h: colour, 256 KiB. Others are left as they are, which says: not known."""
    if cpu.ebx & 0xFF == 0x10:
        set_bx(cpu, 3)
        set_cx(cpu, 9)


def _write_string(bios: Bios, cpu: Cpu) -> None:
    """AH=13h: CX characters at ES:BP, from DH,DL on; AL: 1 moves the cursor, 2 attributes."""
    mode, count = cpu.eax & 0xFF, cpu.ecx & 0xFFFF
    size = 2 if mode & 2 else 1
    text = bios.memory.read(es_offset(cpu, cpu.ebp), count * size)
    screen, before = bios.screen, bios.screen.cursor
    _set_cursor(bios, cpu)
    if mode & 2:
        for i in range(0, len(text), 2):
            screen.teletype(text[i : i + 1], text[i + 1])
    else:
        screen.teletype(text, cpu.ebx & 0xFF)
    if not mode & 1:
        screen.cursor = before


def _display_combination(bios: Bios, cpu: Cpu) -> None:
    """AH=1Ah AL=00h: a VGA with colour display; loaders ask to know that it is a VGA."""
    if not cpu.eax & 0xFF:
        set_bx(cpu, 8)
    set_al(cpu, 0x1A)


def _no_vbe(bios: Bios, cpu: Cpu) -> None:
    """AH=4Fh: AL other than 4Fh says that there is no VBE."""
    set_ah(cpu, 1)
    set_al(cpu, 0)


def _ignore(bios: Bios, cpu: Cpu) -> None:
    """Pages, palettes and pixels: nothing to see."""


Function = "Callable[[Bios, Cpu], bool | None]"
SERVICES: dict[tuple[int, int | None], tuple[str, Function]] = {  # type: ignore[valid-type]
    (VECTOR, 0x00): ("set video mode", _set_mode),
    (VECTOR, 0x01): ("cursor shape", _cursor_shape),
    (VECTOR, 0x02): ("set cursor", _set_cursor),
    (VECTOR, 0x03): ("get cursor", _get_cursor),
    (VECTOR, 0x05): ("display page, ignored", _ignore),
    (VECTOR, 0x06): ("scroll up", _scroll),
    (VECTOR, 0x07): ("scroll down", _scroll),
    (VECTOR, 0x08): ("read character", _read_character),
    (VECTOR, 0x09): ("write character and attribute", _write_character),
    (VECTOR, 0x0A): ("write character", _write_character),
    (VECTOR, 0x0B): ("palette, ignored", _ignore),
    (VECTOR, 0x0C): ("write pixel, ignored", _ignore),
    (VECTOR, 0x0E): ("teletype", _teletype),
    (VECTOR, 0x0F): ("get video mode", _get_mode),
    (VECTOR, 0x10): ("palette registers, ignored", _ignore),
    (VECTOR, 0x11): ("font", _font),
    (VECTOR, 0x12): ("alternate select", _ega_information),
    (VECTOR, 0x13): ("write string", _write_string),
    (VECTOR, 0x1A): ("display combination", _display_combination),
    (VECTOR, 0x4F): ("VBE, refused", _no_vbe),
}
