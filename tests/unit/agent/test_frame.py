"""An answer is found in any stream, however it is cut, and a stream without end costs no memory."""

from __future__ import annotations

import random

import pytest

from pyhv.agent.frame import ERRORS, LOOK_BYTES, Frame

NONCE = "0123456789abcdef"
OUT, ERR = b"\x00out\r\n\r\r\nno newline", b"err\n"


def answer(out: bytes = OUT, err: bytes = ERR, status: object = 7, crlf: bool = False) -> bytes:
    mark = b"pyhv" + NONCE.encode()
    text = mark + b"<\n" + out + mark + f"> {status}\n".encode() + err + mark + b".\n"
    return text.replace(b"\n", b"\r\n") if crlf else text


def fed(pieces: list[bytes], limit: int = 1 << 20, **options: object) -> Frame:
    frame = Frame(NONCE, limit, **options)
    for piece in pieces:
        frame.feed(piece)
    return frame


@pytest.mark.parametrize("crlf", [False, True])
def test_whole_and_byte_by_byte(crlf: bool) -> None:
    stream = b"login: \r\necho pyhv$9" + NONCE.encode() + b"<\r\n" + answer(crlf=crlf) + b"more\n"
    for pieces in ([stream], [bytes((byte,)) for byte in stream]):
        frame = fed(pieces)
        assert frame.done
        assert (frame.status, bytes(frame.out.data), bytes(frame.err.data)) == (7, OUT, ERR)
        assert not frame.broken
        assert not frame.out.cut


@pytest.mark.parametrize("crlf", [False, True])
def test_cut_anywhere(crlf: bool) -> None:
    rng = random.Random(1)
    for _ in range(300):
        out = bytes(rng.choices(b"\r\n\x00apyhv<>.", k=rng.randrange(3000)))
        stream = bytes(rng.choices(b"\r\npyhv0<", k=rng.randrange(100))) + answer(out, crlf=crlf)
        cuts = sorted(rng.choices(range(len(stream)), k=5))
        pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        frame = fed(pieces)
        assert frame.done
        assert bytes(frame.out.data) == out


def test_no_end_keeps_little() -> None:
    frame = Frame(NONCE, 1000)
    for state in range(2):
        for _ in range(100):
            frame.feed(bytes(10_000))
            assert len(frame._buffer) <= LOOK_BYTES
        if not state:
            frame.feed(answer(b"")[:22])
    assert frame.out.cut
    assert frame.out.data == bytes(1000)
    frame.give_up()
    assert frame.done


def test_output_that_might_have_become_a_mark_is_kept_at_the_end() -> None:
    frame = fed([answer(b"half pyhv01")[:32]])
    assert not frame.out.data
    frame.give_up()
    assert frame.out.data == b"half pyhv0"


@pytest.mark.parametrize("status", ["", "-1", "256", "1 2", "9" * 100, "٣"])
def test_a_status_that_is_none(status: str) -> None:
    frame = fed([answer(status=status)])
    assert frame.done
    assert "status" in frame.broken


def test_a_last_mark_alone() -> None:
    assert fed([b"noise\npyhv" + NONCE.encode() + b".\n"], state=ERRORS).done
    assert not fed([b"echo pyhv$9" + NONCE.encode() + b".\n"], state=ERRORS).done
