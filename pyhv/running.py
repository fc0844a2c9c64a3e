"""The main thread while the guest runs: what is typed, signals, the time limit, the end.

Imported when the guest runs already, so it costs no time before its first instruction.
"""

from __future__ import annotations

import atexit
import os
import select
import time

from .errors import Exit
from .stop import Stop
from .terminal import Escape, RawMode, keys_help

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from .console import Console
    from .machine import Machine
else:
    import _signal as signal  # signal itself imports enum, which costs 3 ms

QUIT_SIGNALS: dict[int, str] = {
    signal.SIGINT: "SIGINT",
    signal.SIGTERM: "SIGTERM",
    signal.SIGHUP: "SIGHUP",
    signal.SIGQUIT: "SIGQUIT",
}
READ_BYTES = 4096
KEPT_BYTES = 65536  # typed ahead for a guest that does not read; more is dropped
RETRY_S = 0.03
LOOK_S = 1.0  # how long a lost wake-up could go unseen
KILL_PATIENCE_S = 5.0


class Session:
    """One machine on the user's terminal; :meth:`run` in the main thread, after ``start``.

    :param stdin: descriptor of the input, None for no input. On a terminal Ctrl-A is the escape;
        from a pipe every byte goes to the guest, and its end ends nothing.
    :param say: prints a message for the user.
    :param time_limit: seconds from now.
    """

    def __init__(
        self,
        machine: Machine,
        console: Console,
        stdin: int | None,
        say: Callable[[str], None],
        time_limit: float | None = None,
    ) -> None:
        self._machine, self._console, self._say = machine, console, say
        self._stdin, self._input_ended = -1 if stdin is None else stdin, stdin is None
        self._raw = RawMode(self._stdin)
        self._escape = Escape()
        self._pending = bytearray()
        self._limit = time_limit
        self._deadline = None if time_limit is None else time.monotonic() + time_limit
        self._killed_at: float | None = None
        self._handlers: dict[int, Any] = {}
        self._quit_by = 0  # the signal that asked
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> Stop:
        """Serve until the machine stops; the terminal is as before when this returns or raises.

        ``details["abandoned"]`` is set when it did not stop in 5 s after a quit: its threads
        may hang, so leave the process by ``os._exit``.
        """
        atexit.register(self._raw.leave)
        try:
            self._catch_signals()
            self._console.when_finished = self._wake
            self._raw.enter()
            return self._loop()
        finally:
            self._raw.leave()
            self._console.when_finished = None
            self._release_signals()
            atexit.unregister(self._raw.leave)
            os.close(self._wake_r)
            os.close(self._wake_w)

    def _wake(self) -> None:
        try:
            os.write(self._wake_w, b"!")
        except OSError:
            pass  # full: it will wake up anyway

    def _loop(self) -> Stop:
        poll = select.poll()
        poll.register(self._wake_r, select.POLLIN)
        listening = False
        while True:
            try:
                return self._machine.wait(0)
            except TimeoutError:
                pass
            now = time.monotonic()
            if self._killed_at is not None and now - self._killed_at > KILL_PATIENCE_S:
                text = f"the machine did not stop within {KILL_PATIENCE_S:g} s"
                return Stop("quit", Exit.QUIT, text, {"abandoned": True})
            if self._deadline is not None and now >= self._deadline:
                self._deadline = None
                self._kill("time-limit", f"the time limit of {self._limit:g} s ran out")
            if self._quit_by:
                self._kill("quit", f"quit by {QUIT_SIGNALS[self._quit_by]}")
            self._give()
            if self._wants_input() != listening:
                listening = not listening
                if listening:
                    poll.register(self._stdin, select.POLLIN)
                else:
                    poll.unregister(self._stdin)
            for fd, _ in poll.poll(self._patience(now) * 1000):
                if fd == self._wake_r:
                    os.read(self._wake_r, READ_BYTES)
                else:
                    self._read()

    def _patience(self, now: float) -> float:
        """Return how many seconds to sleep at most."""
        wait = LOOK_S if not self._pending else RETRY_S
        return wait if self._deadline is None else max(0.0, min(wait, self._deadline - now + 0.001))

    def _wants_input(self) -> bool:
        if self._input_ended:
            return False
        if self._raw.is_terminal:  # read although the guest does not: Ctrl-A x must work
            if not self._raw.foreground():
                return False
            self._raw.enter()  # fg of a job that runs in the background sends no SIGCONT
            return True
        return not self._pending

    def _read(self) -> None:
        if not self._wants_input():  # moved to the background a moment ago: SIGTTIN would stop us
            return
        try:
            data = os.read(self._stdin, READ_BYTES)
        except OSError:  # EIO: the terminal hung up
            data = b""
        if not data:
            self._input_ended = True
            return
        commands: list[str] = []
        if self._raw.is_terminal:
            data, commands = self._escape.feed(data)
        self._pending += data[: KEPT_BYTES - len(self._pending)]
        self._give()
        for command in commands:
            if command == "quit":
                self._kill("quit", "quit by Ctrl-A x")
            elif command in ("save", "save and quit"):
                from .savedrun import by_key

                by_key(self._machine, command != "save", self._say)
            else:
                self._say(
                    keys_help() if command == "help" else f"Ctrl-A: {command}; Ctrl-A h helps"
                )

    def _give(self) -> None:
        """Hand typed bytes to the guest, as many as it takes."""
        while self._pending:
            taken = self._console.offer(bytes(self._pending[:READ_BYTES]))
            if not taken:
                return
            del self._pending[:taken]

    def _kill(self, kind: str, text: str) -> None:
        if self._killed_at is None:
            self._killed_at = time.monotonic()
        self._machine.kill(kind, text)

    # signals: handlers run in the main thread between any two of its lines, so they take no lock

    def _catch_signals(self) -> None:
        self._old_wakeup = signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        for number in QUIT_SIGNALS:
            # nohup and a script's background jobs start us with signals ignored: keep that
            if signal.getsignal(number) != signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._quit_signal)
        if self._raw.is_terminal:
            self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._suspend)
            self._handlers[signal.SIGCONT] = signal.signal(signal.SIGCONT, self._continue)

    def _release_signals(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
        signal.set_wakeup_fd(self._old_wakeup)

    def _quit_signal(self, number: int, frame: FrameType | None) -> None:
        self._quit_by = number

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        self._raw.leave()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)  # stops the whole process here; goes on after SIGCONT
        signal.signal(signal.SIGTSTP, self._suspend)
        self._raw.enter()

    def _continue(self, number: int, frame: FrameType | None) -> None:
        # After a SIGSTOP that could not be caught, or moved to the foreground by the shell: what
        # was saved is still right, the mode may not be.
        if self._raw.foreground():
            self._raw.leave()
            self._raw.enter()
