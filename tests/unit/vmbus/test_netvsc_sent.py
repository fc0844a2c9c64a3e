"""Frames that a guest sends: in sections and pages, several at once, what is left to the card."""

from __future__ import annotations

import struct

import net_sim
import pytest
from guest_sim import PAGE, packet
from net_sim import FRAME, NetGuest, ethernet, ipv4, ipv6, ppi, right_sums, rules, tcp, udp


@pytest.mark.parametrize("size", [14, 60, 1514, 6000])
@pytest.mark.parametrize("section", [None, 0, 2])
def test_transmit(net: NetGuest, cable, size: int, section: int | None) -> None:
    frame = (FRAME + bytes(range(256)) * 30)[:size]
    net.transmit(frame, section=section)
    assert cable.sent_frames() == [frame]
    (done,) = net.completions
    assert struct.unpack_from("<II", done.data) == (108, 1)
    assert done.transaction == net.transaction
    assert len(done.data) == 40


def test_headers_in_a_section_and_the_rest_in_pages(net: NetGuest, cable) -> None:
    """Linux's partial copy."""
    data = net_sim.rndis_packet(FRAME + bytes(3000))
    net.guest.memory.write(net.send_pages[0] * PAGE, data[:100])
    pages = net.guest.pages(2)
    net.guest.memory.write(pages[0] * PAGE + 1500, data[100:])
    message = struct.pack("<IIII", 107, 0, 0, 100).ljust(40, b"\0")
    extra = net_sim.gpa_ranges([(len(data) - 100, 1500, pages)])
    net.channel.send(packet(9, message, 9, extra=extra))
    assert cable.sent_frames() == [FRAME + bytes(3000)]


@pytest.mark.parametrize("behind", [0, 7, 43, 44, 5000])
@pytest.mark.parametrize("size", [1900, 2048, 4096, 65549])
def test_a_large_frame_is_not_copied(net: NetGuest, cable, size: int, behind: int) -> None:
    """But for its headers: pieces of guest RAM go to the backend, without what is behind."""
    pieces = []
    original = cable.prepare_pieces
    cable.prepare_pieces = lambda begin, views, *rest: (
        pieces.append((len(begin), sum(map(len, views)))), original(begin, views, *rest),
    )[1]  # fmt: skip
    frame = ethernet(bytes(i * 3 + (i >> 8) & 0xFF for i in range(size - 14)), 0x88B5)
    for information in ((), (ppi(6, 5 << 4),)):
        data = bytearray(net_sim.rndis_packet(frame, *information))
        struct.pack_into("<I", data, 4, len(data) + behind)
        net.send_messages(bytes(data) + bytes(behind), offset=1000)
        sent = cable.sent_frames()
        assert sent == [frame if not information else frame[:12] + b"\x81\0\0\5" + frame[12:]]
        assert len(net.completions) == 1
        net.completions.clear()
    expected = [size, size + 4] if len(data) + behind >= 2048 else []
    assert [sum(one) for one in pieces] == expected
    assert all(begin <= 512 for begin, _ in pieces)
    assert not rules(net)


def test_several_messages_in_one_packet(net: NetGuest, cable) -> None:
    several = [FRAME + bytes(i) for i in range(8)]
    messages = b"".join(net_sim.rndis_packet(frame) for frame in several)
    net.send_messages(messages + bytes(7), section=0)
    assert cable.sent_frames() == several
    assert not rules(net)
    net.send_messages(net_sim.rndis_packet(FRAME) * 9)
    assert rules(net) == ["packet-ranges"]


def test_a_batch_is_one_send(net: NetGuest, cable) -> None:
    calls = []
    cable.send = lambda some: calls.append(len(some)) or True
    for section in range(3):
        net.put(net_sim.rndis_packet(FRAME), section=section)
    net.channel.signal()
    net.poll()
    assert calls == [3]
    assert len(net.completions) == 3


def test_checksums_are_left_to_us(net: NetGuest, cable) -> None:
    for frame, bits in (
        (ethernet(ipv4(tcp(b"odd"), 6)), 1 | 4 | 16),
        (ethernet(ipv4(udp(b"even"), 17)), 1 | 8 | 16),
        (ethernet(ipv6(tcp(b"six"), 6), 0x86DD), 2 | 4),
        (ethernet(ipv6(udp(b"s"), 17), 0x86DD), 2 | 8),
    ):
        net.transmit(frame, ppi(0, bits | 34 << 16))
        (sent,) = cable.sent_frames()
        assert right_sums(sent)
        assert sent != frame
        assert len(sent) == len(frame)


@pytest.mark.parametrize("version", [4, 6])
def test_large_sends_are_cut(net: NetGuest, cable, version: int) -> None:
    data = bytes(i * 7 & 0xFF for i in range(20000))
    segment = tcp(data, sequence=0xFFFFF000, flags=0x19)
    frame = ethernet(ipv4(segment, 6)) if version == 4 else ethernet(ipv6(segment, 6), 0x86DD)
    net.transmit(frame, ppi(2, 1460 | 34 << 20 | 1 << 30))
    sent = cable.sent_frames()
    head = 54 if version == 4 else 74
    assert b"".join(one[head:] for one in sent) == data
    assert [len(one) - head for one in sent] == [1460] * 13 + [1020]
    assert all(right_sums(one) for one in sent)
    place = [struct.unpack_from(">I", one, head - 16)[0] for one in sent]
    assert place == [(0xFFFFF000 + 1460 * i) & 0xFFFFFFFF for i in range(14)]
    assert [one[head - 7] for one in sent] == [0x10] * 13 + [0x19]


def test_vlan_tags_go_into_the_frame(net: NetGuest, cable) -> None:
    net.transmit(FRAME, ppi(6, 5 | 1 << 3 | 0x123 << 4), ppi(0, 1 | 8 | 16))
    (sent,) = cable.sent_frames()
    assert sent[12:16] == bytes.fromhex("8100 b123")
    assert right_sums(sent)
