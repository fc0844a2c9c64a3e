"""INT 16h: what is typed on the console as scan code and character of a US keyboard.

A terminal sends characters and escape sequences; a keyboard had keys. The scan codes
are those of the IBM AT keyboard, set 1.
"""

from __future__ import annotations

from _collections import deque

from . import bios_layout as at
from .bios_cpu import ZERO, set_al, set_ax

TYPE_CHECKING = False
if TYPE_CHECKING:

    from .bios import Bios
    from .bios_cpu import Cpu

VECTOR = 0x16
QUEUE_KEYS = 128

# rows of keys: the first one's scan code, characters without and with shift
ROWS = (
    (0x02, "1234567890-=", "!@#$%^&*()_+"),
    (0x10, "qwertyuiop[]", "QWERTYUIOP{}"),
    (0x1E, "asdfghjkl;'`", 'ASDFGHJKL:"~'),
    (0x2B, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
    (0x39, " ", " "),
)
_SCAN = {
    ord(char): first + i
    for first, *halves in ROWS
    for half in halves
    for i, char in enumerate(half)
}
_SCAN |= {ord(char) & 0x1F: scan for char, scan in ((chr(c), _SCAN[c]) for c in range(97, 123))}

#: What a terminal sends -> scan code << 8 | character.
KEYS = {bytes((char,)): scan << 8 | char for char, scan in _SCAN.items()}
KEYS |= {
    b"\r": 0x1C0D,
    b"\n": 0x1C0D,
    b"\t": 0x0F09,
    b"\x08": 0x0E08,
    b"\x7f": 0x0E08,
    b"\x1b": 0x011B,
}
for _codes, _scan in (
    ((b"[A", b"OA"), 0x48),  # up
    ((b"[B", b"OB"), 0x50),  # down
    ((b"[C", b"OC"), 0x4D),  # right
    ((b"[D", b"OD"), 0x4B),  # left
    ((b"[H", b"OH", b"[1~"), 0x47),  # home
    ((b"[F", b"OF", b"[4~"), 0x4F),  # end
    ((b"[2~",), 0x52),  # insert
    ((b"[3~",), 0x53),  # delete
    ((b"[5~",), 0x49),  # page up
    ((b"[6~",), 0x51),  # page down
    ((b"OP", b"[11~"), 0x3B),  # F1 to F10
    ((b"OQ", b"[12~"), 0x3C),
    ((b"OR", b"[13~"), 0x3D),
    ((b"OS", b"[14~"), 0x3E),
    ((b"[15~",), 0x3F),
    ((b"[17~",), 0x40),
    ((b"[18~",), 0x41),
    ((b"[19~",), 0x42),
    ((b"[20~",), 0x43),
    ((b"[21~",), 0x44),
):
    KEYS |= dict.fromkeys((b"\x1b" + code for code in _codes), _scan << 8)
_LONGEST = max(map(len, KEYS))


class Keyboard:
    """The keys that wait; :meth:`feed` from any thread, the rest from the vCPU's."""

    def __init__(self) -> None:
        self._keys: deque[int] = deque()

    def clear(self) -> None:
        """Forget what was typed."""
        self._keys.clear()

    def waiting(self) -> list[int]:
        """Return the keys that wait, oldest first."""
        return list(self._keys)

    def feed(self, data: bytes) -> int:
        """Take bytes as a terminal sends them; return how many were used before QUEUE_KEYS waited.

        A sequence is known by coming in one piece; bytes that are no key are dropped.
        """
        position = 0
        while position < len(data) and len(self._keys) < QUEUE_KEYS:
            for length in range(min(_LONGEST, len(data) - position), 0, -1):
                key = KEYS.get(data[position : position + length])
                if key is not None:
                    self._keys.append(key)
                    break
            position += length  # 1 if nothing matched
        return position

    def push(self, key: int) -> bool:
        """Add a key; False when there is no room."""
        if len(self._keys) >= QUEUE_KEYS:
            return False
        self._keys.append(key)
        return True

    def peek(self) -> int | None:
        """Return the next key, scan code << 8 | character, and leave it there."""
        try:
            return self._keys[0]
        except IndexError:
            return None

    def take(self) -> int | None:
        """Return the next key and remove it."""
        try:
            return self._keys.popleft()
        except IndexError:
            return None


def _read(bios: Bios, cpu: Cpu) -> None:
    """AH=00h, 10h, 20h: AX = key. Without one the guest halts and asks again after an interrupt."""
    key = bios.keyboard.take()
    if key is None:
        cpu.eip = at.KEY_WAIT
    else:
        set_ax(cpu, key)


def _check(bios: Bios, cpu: Cpu) -> None:
    """AH=01h, 11h, 21h: ZF clear and AX = key, or ZF set."""
    key = bios.keyboard.peek()
    bios.set_flag(cpu, ZERO, key is None)
    if key is not None:
        set_ax(cpu, key)


def _shift_state(bios: Bios, cpu: Cpu) -> None:
    """AH=02h: AL = 0; AH=12h: AX = 0. A terminal does not tell which keys are held down."""
    if cpu.eax >> 8 & 0x10:
        set_ax(cpu, 0)
    else:
        set_al(cpu, 0)


def _rate(bios: Bios, cpu: Cpu) -> None:
    """AH=03h: the repeat rate is the user's."""


def _push(bios: Bios, cpu: Cpu) -> None:
    """AH=05h: put the key CX into the buffer; AL = 1 if it is full."""
    set_al(cpu, not bios.keyboard.push(cpu.ecx & 0xFFFF))


def _functions(bios: Bios, cpu: Cpu) -> None:
    """AH=09h: AL = what there is: bit 5 says AH=10h-12h."""
    set_al(cpu, 1 << 5)


Function = "Callable[[Bios, Cpu], bool | None]"
SERVICES: dict[tuple[int, int | None], tuple[str, Function]] = {  # type: ignore[valid-type]
    (VECTOR, 0x00): ("read key", _read),
    (VECTOR, 0x01): ("check key", _check),
    (VECTOR, 0x02): ("shift state", _shift_state),
    (VECTOR, 0x03): ("repeat rate, ignored", _rate),
    (VECTOR, 0x05): ("push key", _push),
    (VECTOR, 0x09): ("keyboard functions", _functions),
    (VECTOR, 0x10): ("read extended key", _read),
    (VECTOR, 0x11): ("check extended key", _check),
    (VECTOR, 0x12): ("extended shift state", _shift_state),
    (VECTOR, 0x20): ("read 122-key", _read),
    (VECTOR, 0x21): ("check 122-key", _check),
    (VECTOR, 0x22): ("122-key shift state", _shift_state),
}
