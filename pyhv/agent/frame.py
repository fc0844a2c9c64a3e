"""One answer of the guest's shell, found in a stream that the guest may fill with anything.

``pyhvNONCE<``, what the command printed, ``pyhvNONCE> STATUS``, its stderr, ``pyhvNONCE.``; each
mark ends a line. What is before and after is dropped. The nonce is a new one for each answer.
"""

from __future__ import annotations

import time

from .script import MARK

BEFORE, OUTPUT, STATUS, ERRORS, DONE = range(5)
LOOK_BYTES = 1024  # without an end of a line it is looked at in such pieces: memory stays small
STATUS_BYTES = 8


class Part:
    """One stream of an answer: at most *limit* bytes in ``data``; ``cut``: there were more."""

    __slots__ = ("data", "limit", "cut")

    def __init__(self, limit: int) -> None:
        self.data, self.limit, self.cut = bytearray(), limit, False

    def add(self, data: bytes | bytearray) -> None:
        """Take more of it."""
        room = self.limit - len(self.data)
        if len(data) > room:
            self.cut = True
            data = data[:room]
        self.data += data


class Frame:
    """An answer on its way.

    :param nonce: hexadecimal digits that nothing else in the stream has.
    :param limit: most bytes of each stream that are kept.
    :param state: ERRORS for an answer that is its last mark and nothing else.

    ``status`` is 0..255, ``ended`` time.monotonic() when it came; ``broken`` says what
    was wrong with an answer that is none.
    """

    def __init__(self, nonce: str, limit: int, state: int = BEFORE) -> None:
        mark = MARK + nonce.encode()
        self._begin, self._middle, self._end = mark + b"<", mark + b"> ", mark + b"."
        self.state, self.status, self.broken = state, 0, ""
        self.ended = 0.0
        self.out, self.err = Part(limit), Part(limit)
        self._buffer = bytearray()
        self._crlf = False  # the terminal made CR LF of every LF

    @property
    def done(self) -> bool:
        """Whether there is nothing more to come."""
        return self.state == DONE

    def feed(self, data: bytes) -> None:
        """Take more of the stream."""
        buffer = self._buffer
        buffer += data
        # a mark comes with the end of its line, so bytes that come one by one cost little
        if b"\n" in data or len(buffer) >= LOOK_BYTES:
            while self.state != DONE and _STEPS[self.state](self):
                pass

    def give_up(self) -> None:
        """Nothing will come any more: what might have become a mark is output."""
        part = {OUTPUT: self.out, ERRORS: self.err}.get(self.state)
        if part is not None:
            part.add(self._buffer.replace(b"\r\n", b"\n") if self._crlf else self._buffer)
        self.state = DONE

    def _before(self) -> bool:
        buffer = self._buffer
        at = buffer.find(self._begin)
        if at < 0:
            del buffer[: max(0, len(buffer) - len(self._begin) + 1)]
            return False
        rest = buffer[at + len(self._begin) :]
        if len(rest) < 2 and not rest.startswith(b"\n"):
            return False
        end = 1 if rest.startswith(b"\n") else 2 if rest.startswith(b"\r\n") else 0
        del buffer[: at + len(self._begin) + end]
        if end:
            self._crlf, self.state = end == 2, OUTPUT
        return True

    def _stream(self, part: Part, mark: bytes, then: int) -> bool:
        buffer = self._buffer
        at = buffer.find(mark)
        cut = at if at >= 0 else max(0, len(buffer) - len(mark) + 1)
        if at < 0 and cut and buffer[cut - 1] == 13:
            cut -= 1  # its LF may be what comes next
        data = buffer[:cut]
        part.add(data.replace(b"\r\n", b"\n") if self._crlf else data)
        del buffer[: cut + (len(mark) if at >= 0 else 0)]
        if at < 0:
            return False
        self.state = then
        return True

    def _output(self) -> bool:
        return self._stream(self.out, self._middle, STATUS)

    def _status(self) -> bool:
        buffer = self._buffer
        at = buffer.find(b"\n")
        if at < 0 and len(buffer) <= STATUS_BYTES:
            return False
        text = bytes(buffer[:at] if at >= 0 else buffer).strip()
        del buffer[: at + 1]
        if at < 0 or not text.isdigit() or len(text) > 3 or int(text) > 255:
            self.broken = f"a status of {text[:20]!r}"
            self.state = DONE
            return False
        self.status, self.state, self.ended = int(text), ERRORS, time.monotonic()
        return True

    def _errors(self) -> bool:
        return self._stream(self.err, self._end, DONE)


_STEPS = {
    BEFORE: Frame._before, OUTPUT: Frame._output, STATUS: Frame._status, ERRORS: Frame._errors,
}  # fmt: skip
