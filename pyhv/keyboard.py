"""``vm.keyboard``: text and keys as strokes of a US keyboard, sent to the guest's driver."""

from __future__ import annotations

from .errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .seat import Seat

IS_BREAK, IS_E0 = 2, 4  # as in vmbus/keyboard.py
SHIFT = (0x2A, 0)
#: name -> scan code of set 1 and IS_E0 where the key has that prefix; IBM PC/AT keyboard
KEYS = {
    "esc": (0x01, 0), "backspace": (0x0E, 0), "tab": (0x0F, 0), "enter": (0x1C, 0),
    "ctrl": (0x1D, 0), "shift": SHIFT, "alt": (0x38, 0), "space": (0x39, 0),
    "altgr": (0x38, IS_E0), "home": (0x47, IS_E0), "up": (0x48, IS_E0), "pageup": (0x49, IS_E0),
    "left": (0x4B, IS_E0), "right": (0x4D, IS_E0), "end": (0x4F, IS_E0), "down": (0x50, IS_E0),
    "pagedown": (0x51, IS_E0), "insert": (0x52, IS_E0), "delete": (0x53, IS_E0),
    **{f"f{1 + i}": (0x3B + i, 0) for i in range(10)}, "f11": (0x57, 0), "f12": (0x58, 0),
}  # fmt: skip
CONTROL = {"\n": "enter", "\t": "tab", "\x1b": "esc", "\b": "backspace"}


class Keyboard:
    """Types at the guest's console; made by ``Machine.keyboard``."""

    def __init__(self, machine: Seat) -> None:
        self._machine = machine

    def type(self, text: str, timeout: float = 10.0) -> None:
        """Type *text*, return when all of it is in the driver's ring; not on the loop's thread.

        :param timeout: seconds to wait for the guest's driver, and for it to take the keys.
        :raises ConfigError: a character that is on no US keyboard; more as of ``Seat.hand``.
        """
        events: list[tuple[int, int]] = []
        for char in text:
            events += _chord(*_strokes(char))
        self._strike(events, timeout)

    def press(self, *names: str, timeout: float = 10.0) -> None:
        """Press keys together and let them go: ``press("ctrl", "alt", "delete")``.

        :param names: of :data:`KEYS`, or a character. Errors as of :meth:`type`.
        """
        keys: list[tuple[int, int]] = []
        for name in names:
            if name not in KEYS and len(name) != 1:
                raise ConfigError(f"keyboard: no key {name!r}; there are {', '.join(KEYS)}")
            keys += [KEYS[name]] if name in KEYS else _strokes(name)
        self._strike(_chord(*keys), timeout)

    def _strike(self, events: list[tuple[int, int]], timeout: float) -> None:
        self._machine.hand("keyboard", lambda device, taken: device.strike(events, taken), timeout)


def _strokes(char: str) -> list[tuple[int, int]]:
    """Return the keys held together for *char*."""
    from .boot.bios_keyboard import ROWS

    if char in CONTROL:
        return [KEYS[CONTROL[char]]]
    for first, plain, shifted in ROWS:
        if char in plain:
            return [(first + plain.index(char), 0)]
        if char in shifted:
            return [SHIFT, (first + shifted.index(char), 0)]
    raise ConfigError(f"keyboard: {char!r} is on no US keyboard")


def _chord(*keys: tuple[int, int]) -> list[tuple[int, int]]:
    """Down in order, up in reverse."""
    return [*keys, *((code, info | IS_BREAK) for code, info in reversed(keys))]
