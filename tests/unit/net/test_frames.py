"""Frames in software: where headers are, sums against published ones, cutting, hostile shapes."""

from __future__ import annotations

import random
import struct

import pytest

from pyhv.net import frames
from pyhv.net.frames import CSUM_IP_HEADER, CSUM_TCP, CSUM_UDP
from pyhv.net.tap import Tap

MACS = bytes(range(12))
#: RFC 1071, section 3: the words' sum is ddf2
RFC_1071 = bytes.fromhex("0001 f203 f4f5 f6f7")
#: a header whose sum is in every textbook (b861)
IP_HEADER = bytes.fromhex("4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7")


def tcp_frame(payload: bytes, flags: int = 0x18, version: int = 4) -> bytes:
    segment = struct.pack(">HHIIBBHHH", 1, 2, 100, 0, 0x50, flags, 512, 0, 0) + payload
    if version == 4:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), 7, 0, 64, 6, 0) + bytes(8)
        return MACS + b"\x08\x00" + head + segment
    return MACS + b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, len(segment), 6, 64) + bytes(
        32
    ) + segment


def test_published_sums() -> None:
    assert frames.checksum(RFC_1071) == 0xFFFF - 0xDDF2
    assert frames.checksum(IP_HEADER) == 0
    assert frames.checksum(IP_HEADER[:10] + bytes(2) + IP_HEADER[12:]) == 0xB861
    assert frames.checksum(b"\xff") == 0x00FF
    assert frames.checksum(b"") == frames.checksum(bytes(10)) == 0xFFFF
    assert frames.checksum(b"\xff\xff") == 0


def test_the_sum_against_the_schoolbook() -> None:
    rng = random.Random(1)
    for size in [*range(40), 1460, 65000]:
        data = rng.randbytes(size)
        words = struct.unpack(f">{(size + 1) // 2}H", data + b"\0" * (size & 1))
        value = sum(words)
        while value >> 16:
            value = (value & 0xFFFF) + (value >> 16)
        assert frames.checksum(data) == 0xFFFF - value


def test_layouts() -> None:
    v4, v6 = tcp_frame(b"abc"), tcp_frame(b"abc", version=6)
    assert frames.layout(v4) == frames.Layout(4, 6, 14, 34, 57)
    assert frames.layout(v6) == frames.Layout(6, 6, 14, 54, 77)
    tagged = frames.tagged(v4, 5)
    assert frames.layout(tagged) == frames.Layout(4, 6, 18, 38, 61)
    assert frames.layout(frames.tagged(tagged, 6)) == frames.Layout(4, 6, 22, 42, 65)
    padded = frames.layout(v4 + bytes(9))
    assert padded is not None
    assert padded.end == 57
    extension = v6[:20] + b"\x00" + v6[21:54] + bytes((6, 0)) + bytes(6) + v6[54:]
    longer = extension[:18] + struct.pack(">H", 31) + extension[20:]
    assert frames.layout(longer) == frames.Layout(6, 6, 14, 62, 85)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f[:33],  # headers cut short
        lambda f: f[:50],  # shorter than the IP length says
        lambda f: f[:14] + b"\x44" + f[15:],  # IHL 4
        lambda f: f[:14] + b"\x55" + f[15:],  # version 5
        lambda f: f[:20] + b"\x20\x00" + f[22:],  # more fragments
        lambda f: f[:20] + b"\x00\x01" + f[22:],  # a later fragment
        lambda f: f[:16] + b"\x00\x20" + f[18:],  # an IP length without a TCP header
        lambda f: f[:12] + b"\x08\x06" + f[14:],  # ARP
        lambda f: f[:12] + b"\x81\x00" * 3 + f[14:],
        lambda f: b"",
    ],
)
def test_no_layout(change) -> None:
    frame = change(tcp_frame(b"payload"))
    assert frames.layout(frame) is None
    assert frames.finished(frame, CSUM_TCP | CSUM_IP_HEADER, 0) == [frame]
    assert frames.finished(frame, 0, 1000) == []
    assert frames.finished(frame, 0, 1000, whole=True) == []


def test_a_datagram_never_has_the_sum_zero() -> None:
    """RFC 768: a computed 0 is sent as 0xFFFF."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 30, 0, 0, 64, 17, 0) + bytes(8)
    for value in range(0x10000):
        data = struct.pack(">HHHHH", 0, 0, 10, 0, value)
        total = 17 + 10 + 10 + value
        if total % 0xFFFF == 0:
            frame = MACS + b"\x08\x00" + head + data
            (done,) = frames.finished(frame, CSUM_UDP, 0)
            assert done[40:42] == b"\xff\xff"
            return
    raise AssertionError("no such datagram")


def test_the_short_way_is_the_long_way() -> None:
    """IPv4 without options is done apart: the same result, whatever the sizes and old sums."""
    rng = random.Random(9)
    for _ in range(500):
        frame = bytearray(tcp_frame(rng.randbytes(rng.randrange(1, 200))))
        frame[23] = rng.choice((6, 17))
        frame[24:26] = rng.randbytes(2)
        frame[40:42], frame[50:52] = rng.randbytes(2), rng.randbytes(2)
        frame += bytes(rng.randrange(3))
        if rng.random() < 0.3:
            frame[16:18] = rng.randrange(300).to_bytes(2, "big")
        requested = rng.randrange(32)
        at, expected = frames.layout(bytes(frame)), bytearray(frame)
        if at is not None:
            if requested & CSUM_IP_HEADER:
                frames.put_ip_checksum(expected, at)
            if frames.wants_transport(requested, at.protocol):
                frames.put_transport_checksum(expected, at, at.end or len(frame))
        assert frames.with_checksums(bytes(frame), requested) == expected


def test_only_what_was_asked_is_changed() -> None:
    frame = tcp_frame(b"abc")
    (header_only,) = frames.finished(frame, CSUM_IP_HEADER, 0)
    assert header_only[34:] == frame[34:]
    assert frames.checksum(header_only[14:34]) == 0
    assert frames.finished(frame, CSUM_UDP, 0) == [frame]
    assert frames.finished(frame, 0, 0) == [frame]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("size", "mss"), [(1, 100), (100, 100), (101, 100), (65000, 1460), (0, 9)])
def test_segments(version: int, size: int, mss: int) -> None:
    payload = random.Random(size).randbytes(size)
    done = list(frames.segments(tcp_frame(payload, flags=0x99, version=version), max(mss, 48)))
    head = 54 if version == 4 else 74
    assert b"".join(one[head:] for one in done) == payload
    assert len(done) == max(1, -(-size // max(mss, 48)))
    assert [one[head - 7] & 0x80 for one in done] == [0x80] + [0] * (len(done) - 1)  # CWR first
    assert [one[head - 7] & 0x09 for one in done] == [0] * (len(done) - 1) + [0x09]  # FIN last
    if version == 4:
        identities = [struct.unpack_from(">H", one, 18)[0] for one in done]
        assert identities == [7 + i for i in range(len(done))]
        assert all(struct.unpack_from(">H", one, 16)[0] == len(one) - 14 for one in done)


@pytest.mark.parametrize("mss", [1, 47, -1])
def test_a_tiny_mss_gives_nothing(mss: int) -> None:
    assert frames.finished(tcp_frame(bytes(1000)), 0, mss) == []


def test_whole() -> None:
    """For passt: lengths and sums, one frame; too large for IP: cut after all."""
    frame = tcp_frame(bytes(60000))
    cleared = frame[:16] + bytes(2) + frame[18:]  # Linux leaves the length to the device
    (done,) = frames.finished(cleared, 0, 1460, whole=True)
    assert len(done) == len(frame)
    assert struct.unpack_from(">H", done, 16)[0] == len(frame) - 14
    assert frames.checksum(done[14:34]) == 0
    beyond = cleared + bytes(6000)
    assert len(frames.finished(beyond, 0, 1460, whole=True)) > 40


def test_random_bytes_never_raise() -> None:
    rng = random.Random(5)
    plain = tcp_frame(bytes(200))
    base = [plain, tcp_frame(bytes(200), version=6), frames.tagged(plain, 1)]
    for _ in range(4000):
        frame = bytearray(rng.choice(base))
        for _ in range(rng.randrange(6)):
            frame[rng.randrange(12, min(60, len(frame)))] = rng.randrange(256)
        frame = bytes(frame[: rng.randrange(14, len(frame) + 1)])
        for requested, mss in ((0x1F, 0), (0, 48), (0, rng.randrange(1 << 20))):
            for whole in (False, True):
                done = frames.finished(frame, requested, mss, whole)
                assert len(done) <= 8


def test_large_frames_of_plain_ipv4_have_a_short_way(monkeypatch) -> None:
    """The same bytes, or none, as by the way for all; with headers that lie, too."""
    rng, backend, heads = random.Random(7), Tap("x"), 0
    for _ in range(3000):
        size = rng.choice((54, 60, 90, 1000, 65549, 65550))
        frame = bytearray(rng.randbytes(12) + b"\x08\x00\x45" + rng.randbytes(min(size, 999) - 15))
        frame[16:18] = rng.choice((0, 0, 40, 39, size - 14, size, 20)).to_bytes(4, "big")[2:]
        frame[20:22] = rng.choice((b"\x40\0", b"\x40\0", b"\0\1", b"\x20\0"))
        frame[23] = rng.choice((6, 6, 6, 17))
        frame[46] = rng.choice((0x50, 0x80, 0xF0, 0x40))
        begin, mss = bytes(frame[: rng.choice((999, 60, 80))]), rng.choice((1448, 48, 47, 1 << 16))
        size = max(size, len(begin))
        short = backend.prepare_pieces(begin, [], size, 0, mss)
        with monkeypatch.context() as patch:
            patch.setattr(frames, "PLAIN_IPV4", b"")
            assert backend.prepare_pieces(begin, [], size, 0, mss) == short
        heads += bool(short)
    assert heads > 60
