"""``vm.mouse``: pixels of the guest's screen and names of buttons, as motions of a HID mouse."""

from __future__ import annotations

from .errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .seat import Seat
    from .vmbus.mouse import Motion, SynthMouse

BUTTONS = {"left": 1, "right": 2, "middle": 4, "side": 8, "extra": 16}
WHEEL_MAX = 127


class Mouse:
    """Points at the guest's screen; made by ``Machine.mouse``. Errors as of ``Seat.hand``."""

    def __init__(self, machine: Seat) -> None:
        self._machine = machine

    def move(self, x: int, y: int, timeout: float = 10.0) -> None:
        """Put the pointer on the pixel *x* from the left, *y* from the top, as in a screenshot.

        :raises ConfigError: a pixel outside the screen, or the guest shows none.
        """
        from .vmbus.mouse import RANGE, Motion

        width, height = self._machine.screen_size
        if not (0 <= x < width and 0 <= y < height):
            raise ConfigError(f"mouse: {x}, {y} is not on the screen of {width}x{height}")
        # the middle of the pixel, so that the guest's rounding does not matter
        there = Motion((2 * x + 1) * RANGE // (2 * width), (2 * y + 1) * RANGE // (2 * height))
        self._send([there], timeout)

    def click(self, button: str = "left", timeout: float = 10.0) -> None:
        """Press a button of :data:`BUTTONS` and let it go."""
        from .vmbus.mouse import Motion

        mask = _mask(button)
        self._send([Motion(press=mask), Motion(release=mask)], timeout)

    def press(self, button: str = "left", timeout: float = 10.0) -> None:
        """Press a button and hold it, for a :meth:`move` that drags."""
        from .vmbus.mouse import Motion

        self._send([Motion(press=_mask(button))], timeout)

    def release(self, button: str = "left", timeout: float = 10.0) -> None:
        """Let a button go."""
        from .vmbus.mouse import Motion

        self._send([Motion(release=_mask(button))], timeout)

    def wheel(self, steps: int, timeout: float = 10.0) -> None:
        """Turn the wheel, up if *steps* is positive; -127..127."""
        from .vmbus.mouse import Motion

        if not -WHEEL_MAX <= steps <= WHEEL_MAX:
            raise ConfigError(f"mouse: {steps} steps of the wheel; at most {WHEEL_MAX} at once")
        self._send([Motion(wheel=steps)], timeout)

    def _send(self, motions: list[Motion], timeout: float) -> None:
        def give(device: SynthMouse, taken) -> bool:  # type: ignore[no-untyped-def]
            return device.move(motions, taken)

        self._machine.hand("mouse", give, timeout)


def _mask(button: str) -> int:
    if button not in BUTTONS:
        raise ConfigError(f"mouse: no button {button!r}; there are {', '.join(BUTTONS)}")
    return BUTTONS[button]
