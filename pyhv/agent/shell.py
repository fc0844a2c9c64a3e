"""The host's end of a guest's shell: one question at a time, each with a deadline.

The line may be COM2 or any other stream of bytes. What comes from the guest arrives on a vCPU's
thread or the event loop, which only sort it (frame.py); who asked waits on its own thread. A guest
may be silent, print without end, or lie: the first ends at the deadline, the second is cut off at
a limit, and the third gets its lie reported, as it would be of any command.
"""

from __future__ import annotations

import secrets
import threading
import time

from ..errors import ConfigError, HostError
from ..record import Record
from . import script
from .frame import ERRORS, Frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Cancelled = Callable[[], bool] | None

POLL_S = 0.1  # how soon a stopped machine is noticed
SEND_RETRY_S = 0.005
PROBE_S = 1.0  # a shell that is not there yet is called again
ALIVE_S = 2.0  # one that was there may be gone (a reset of its own, another root)
STEP_S = 20.0  # an answer to what takes no time
COMMAND_BYTES = 64 << 10
NOTE_BYTES = 256
LINES_AT_ONCE = 8


class GuestTimeout(HostError, TimeoutError):
    """The guest has not answered in time. ``stdout``, ``stderr``: what came until then."""

    stdout = stderr = b""


class Result(Record):
    """What became of a command: *status* is the shell's, 128 + N for signal N.

    *stdout*, *stderr* are bytes; *duration* seconds from asking to its end, seen from the host;
    *truncated*: there was more output than the limit.
    """

    status: int
    stdout: bytes
    stderr: bytes
    duration: float
    truncated: bool = False

    @property
    def text(self) -> str:
        """``stdout`` as text; what is no UTF-8 becomes U+FFFD."""
        return self.stdout.decode(errors="replace")


class GuestShell:
    """A shell of the guest's at the other end of a line.

    :param offer: gives bytes to the guest and tells how many it took; never waits.
    :param gone: why there will be no answer any more; None while there may be one.
    :param tail: the last lines of the console, for errors.
    :param where: how to get a shell there, for the error when there is none.
    :param stream: the line is no terminal but a socket or a pipe.
    """

    def __init__(
        self, offer: Callable[[bytes], int], gone: Callable[[], str | None],
        tail: Callable[[], str], where: str, stream: bool = False,
    ) -> None:  # fmt: skip
        self._offer, self._gone, self._tail, self._where = offer, gone, tail, where
        self._turn = threading.Lock()
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._life = 0  # counts boards
        self._ready = self.base64 = False
        self._stream, self.line = stream, script.SHORT_LINE
        self._what = ""

    # the machine's side

    def feed(self, data: bytes) -> None:
        """Take what the guest sent; any thread, never waits."""
        frame = self._frame
        if frame is None:
            return
        with self._changed:
            frame.feed(data)
            if frame.done or b"\n" in data:
                self._changed.notify_all()

    def renew(self) -> None:
        """The guest begins anew: what was asked gets no answer."""
        with self._changed:
            self._life += 1
            self._ready = False
            self._changed.notify_all()

    # questions

    def run(
        self, command: str | bytes, timeout: float, limit: int, stdin: bytes,
        cancelled: Cancelled = None,
    ) -> Result:  # fmt: skip
        """See :meth:`pyhv.commands.Commands.run`."""
        data = command.encode(errors="surrogateescape") if isinstance(command, str) else command
        shown = script.shown(data)
        if b"\0" in data or len(data) > COMMAND_BYTES:
            raise ConfigError(
                f"run {shown}: a NUL, or over {COMMAND_BYTES >> 10} KiB; push a file and run that"
            )
        with Turn(self, f"run {shown}", timeout, cancelled) as turn:
            if stdin:
                self.write_file(turn, '"$E.in"', stdin)
            turn.type(script.assign("c", data, self.line))
            nonce = secrets.token_hex(8)
            frame = Frame(nonce, limit)
            line = f'r {nonce} "$E.in"' if stdin else f"r {nonce}"
            began = time.monotonic()
            turn.answer(frame, [line], turn.left())
            return Result(
                frame.status, bytes(frame.out.data), bytes(frame.err.data),
                frame.ended - began, frame.out.cut or frame.err.cut,
            )  # fmt: skip

    def turn(self, what: str, timeout: float, cancelled: Cancelled) -> Turn:
        """Return a context in which the shell is the caller's; see files.py."""
        return Turn(self, what, timeout, cancelled)

    def write_file(self, turn: Turn, path: str, data: bytes) -> None:
        """Make the file *path*, a word of the shell, of *data*."""
        from .files import write

        write(turn, path, data)


class Turn:
    """The shell for one caller, until *timeout* seconds from now."""

    def __init__(
        self, shell: GuestShell, what: str, timeout: float, cancelled: Cancelled
    ) -> None:
        self.shell, self.what, self._cancelled = shell, what, cancelled
        self._begin = time.monotonic()
        self._timeout, self._deadline = timeout, self._begin + timeout
        self._life = shell._life

    def left(self) -> float:
        """Return how many seconds are left; 0 at least."""
        return max(0.0, self._deadline - time.monotonic())

    def __enter__(self) -> Turn:
        shell = self.shell
        self._check()
        while not shell._turn.acquire(timeout=min(POLL_S, self.left())):
            self._check()
            if self.left():
                continue
            raise GuestTimeout(f"{self.what}: another one had the shell for {self._timeout:g} s")
        try:
            self._greet()
        except BaseException:
            self._leave(failed=True)
            raise
        return self

    def __exit__(self, kind: type | None, *others: object) -> None:
        self._leave(kind is not None and not issubclass(kind, (ConfigError, Refused)))

    def _leave(self, failed: bool) -> None:
        shell = self.shell
        shell._frame = None
        if failed:  # whatever runs there must not go on; the next one looks what is there
            if shell._ready:
                shell._offer(b"\nk\n")
            shell._ready = False
        shell._turn.release()

    def _check(self) -> None:
        reason = self.shell._gone()
        if reason is not None:
            raise ConfigError(f"{self.what}: {reason}")
        if self._cancelled is not None and self._cancelled():
            raise HostError(f"{self.what}: cancelled")

    # one step after the other

    def ask(self, command: str, limit: int = NOTE_BYTES) -> Frame:
        """Run *command*, a simple one, in the shell itself; return what came of it."""
        nonce = secrets.token_hex(8)
        return self.answer(Frame(nonce, limit), [f"f {nonce} {command}"], STEP_S)

    def check(self, lines: list[str], doing: str) -> None:
        """Type *lines*; raise Refused with what the shell printed when one fails."""
        nonce = secrets.token_hex(8)
        steps = [f"{{ {line}; }} 2>>$E||s=$?" for line in lines]
        end = f"f {nonce} eval 'cat $E;(exit $s)'"
        frame = self.answer(Frame(nonce, NOTE_BYTES), [": >$E;s=0", *steps, end], STEP_S)
        if frame.status:
            text = bytes(frame.out.data).decode(errors="replace").strip()
            raise Refused(f"{self.what}: {doing}: {text or f'status {frame.status}'}")

    def type(self, lines: list[str]) -> None:
        """Type *lines*, and wait now and then until the shell has read them."""
        count = LINES_AT_ONCE if self.shell.line == script.SHORT_LINE else 1
        for at in range(0, len(lines), count):
            nonce = secrets.token_hex(8)
            self.answer(Frame(nonce, 0), [*lines[at : at + count], f"f {nonce} :"], STEP_S)

    def answer(self, frame: Frame, lines: list[str], patience: float) -> Frame:
        """Type *lines* and return *frame* when it is complete."""
        deadline = min(self._deadline, time.monotonic() + patience)
        shell = self.shell
        with shell._changed:
            shell._frame = frame
        try:
            self._send("".join(line + "\n" for line in lines).encode("ascii"), deadline, frame)
            with shell._changed:
                while not frame.done:
                    self._check()
                    if shell._life != self._life:
                        raise WasReset(f"{self.what}: the guest was reset meanwhile")
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise self._late(frame)
                    shell._changed.wait(min(left, POLL_S))
        finally:
            shell._frame = None
        if frame.broken:
            raise HostError(f"{self.what}: the guest's shell answers nonsense: {frame.broken}")
        return frame

    def _send(self, data: bytes, deadline: float, frame: Frame) -> None:
        view = memoryview(data)
        while view:
            taken = self.shell._offer(bytes(view))
            view = view[taken:]
            if view:
                self._check()
                if time.monotonic() > deadline:
                    raise self._late(frame)
                time.sleep(SEND_RETRY_S)

    def _late(self, frame: Frame) -> GuestTimeout:
        frame.give_up()
        got = f"; {len(frame.out.data)} bytes of output came" if frame.out.data else ""
        error = GuestTimeout(
            f"{self.what}: not done after {time.monotonic() - self._begin:.1f} s{got}; "
            f"the console's last lines:{self.shell._tail()}"
        )
        error.stdout, error.stderr = bytes(frame.out.data), bytes(frame.err.data)
        return error

    # who is there?

    def _greet(self) -> None:
        """See that a shell with our functions is at the other end."""
        while True:
            self._life = self.shell._life
            try:
                self._meet()
                return
            except WasReset:  # nothing was asked of the guest yet
                if not self.left():
                    raise

    def _meet(self) -> None:
        shell = self.shell
        if shell._ready:
            nonce = secrets.token_hex(8)
            try:
                self.answer(Frame(nonce, 0), [f"f {nonce} :"], ALIVE_S)
                return
            except GuestTimeout:
                shell._ready = False
        while True:
            if self._says(script.PROBE, PROBE_S):
                break
            if not self.left():
                raise GuestTimeout(
                    f"{self.what}: no shell answered in {self._timeout:g} s; {shell._where}; the "
                    f"console's last lines:{shell._tail()}"
                )
        self._says(script.RAW, STEP_S)
        nonce = secrets.token_hex(8)
        frame = self.answer(
            Frame(nonce, NOTE_BYTES),
            [*script.FUNCTIONS.strip().splitlines(), f"f {nonce} echo .$t.$b."], STEP_S,
        )  # fmt: skip
        found = bytes(frame.out.data).strip().split(b".")
        shell.base64 = b"base64" in found
        shell.line = script.LONG_LINE if b"raw" in found else script.SHORT_LINE
        if shell._stream:
            shell.line = script.STREAM_LINE
        shell._ready = True

    def _says(self, text: str, patience: float) -> bool:
        nonce = secrets.token_hex(8)
        try:
            self.answer(Frame(nonce, NOTE_BYTES, ERRORS), [text % nonce], patience)
        except GuestTimeout:
            return False
        return True


class WasReset(HostError):
    """The guest began anew while it was asked."""


class Refused(HostError):
    """The guest's shell could not do a step, and said why."""
