"""The network card as a guest's driver meets it: negotiation, RNDIS, frames to it."""

from __future__ import annotations

import struct

import net_sim
import pytest
from net_sim import FRAME, MAC, Cable, NetGuest, ethernet, ipv4, ipv6, rules, tcp, udp

from pyhv.vmbus import netvsc_protocol as n
from pyhv.vmbus.netvsc import Netvsc

# NVSP


@pytest.mark.parametrize(
    ("least", "most", "version", "status"),
    [
        (2, 2, 2, 1),
        (0x60001, 0x60001, 0x60001, 1),
        (0x40000, 0x40000, 0x40000, 1),
        (2, 0x50000, 0x50000, 1),
        (0x60002, 0x60002, 0x60001, 3),
        (0x60002, 0xFFFFFFFF, 0x60001, 3),
        (0, 1, 0x60001, 4),
        (0x50000, 0x40000, 0x60001, 4),
    ],
)
def test_versions(make_guest, cable, least: int, most: int, version: int, status: int) -> None:
    driver = net_sim.make(make_guest(Netvsc(cable, MAC)))
    answer = struct.unpack_from("<IIII", driver.nvsp(1, least, most))
    assert answer == (2, version, 34, status)


def test_a_version_cap(make_guest, cable) -> None:
    driver = net_sim.make(make_guest(Netvsc(cable, MAC, max_version=0x40000)))
    assert struct.unpack_from("<IIII", driver.nvsp(1, 0x50000, 0x60001))[3] == 3
    assert struct.unpack_from("<IIII", driver.nvsp(1, 0x40000, 0x40000))[1:4:2] == (0x40000, 1)


@pytest.mark.parametrize("version", n.NVSP_VERSIONS)
def test_every_version_carries_frames(make_guest, cable, version: int) -> None:
    driver = net_sim.start(make_guest(Netvsc(cable, MAC)), version)
    driver.transmit(FRAME, section=0)
    assert cable.sent_frames() == [FRAME]


@pytest.mark.parametrize(
    ("kind", "version"), [(100, 0), (101, 0), (104, 0), (125, 2), (129, 0x30002), (133, 0x40000)]
)
def test_messages_of_later_versions(make_guest, cable, kind: int, version: int) -> None:
    driver = net_sim.make(make_guest(Netvsc(cable, MAC)))
    if version:
        driver.nvsp(1, version, version)
    driver.nvsp(kind, 1, 1, 0, 0)
    assert rules(driver) == ["device-state"]


@pytest.mark.parametrize(
    ("mtu", "section"), [(1500, 2048), (1898, 2048), (1899, 4096), (9000, 12288), (65521, 69632)]
)
def test_sections_fit_the_mtu(make_guest, cable, mtu: int, section: int) -> None:
    driver = net_sim.start(make_guest(Netvsc(cable, MAC)), mtu=mtu, receive_pages=64)
    assert driver.section == section
    frame = ethernet(ipv4(udp(bytes(mtu - 28)), 17))
    cable.sink.receive([frame])
    driver.poll()
    assert [one.frame for one in driver.frames] == [frame]
    assert driver.query(n.OID_GEN_MAXIMUM_FRAME_SIZE) == struct.pack("<I", mtu)


def test_a_buffer_needs_a_gpadl_of_its_own_channel(make_guest, cable) -> None:
    driver = net_sim.make(make_guest(Netvsc(cable, MAC)))
    driver.nvsp(1, 0x60001, 0x60001)
    for kind in (101, 104):
        for gpadl in (0, 0x999, driver.channel.gpadl):
            assert struct.unpack_from("<II", driver.nvsp(kind, gpadl, 7))[1] == 2
    small = driver.guest.lend(driver.channel.relid, driver.guest.pages(1))
    assert struct.unpack_from("<II", driver.nvsp(104, small, 7))[1] == 2
    driver.lend_buffers()
    assert struct.unpack_from("<II", driver.nvsp(101, driver.receive_gpadl, 7))[1] == 2
    assert struct.unpack_from("<II", driver.nvsp(104, driver.send_gpadl, 7))[1] == 2
    assert not rules(driver)


def test_revoked_and_lent_again(net: NetGuest, cable) -> None:
    for _ in range(3):
        assert net.nvsp(103, net_sim.RECEIVE_ID)
        assert net.nvsp(106, 0)
        cable.sink.receive([FRAME])
        net.poll()
        assert not net.frames
        net.lend_buffers()
        cable.sink.receive([FRAME])
        net.poll()
        assert [one.frame for one in net.frames] == [FRAME]
        net.frames.clear()


# RNDIS control


def test_initialize(net: NetGuest) -> None:
    reply = net.rndis(2, 1, 0, 0x4000)
    assert struct.unpack_from("<11I", reply) == (
        0x80000002, 52, net.request, 0, 1, 0, 1, 0, 8, 0x4000, 3,
    )  # fmt: skip


ANSWERS = {
    n.OID_GEN_HARDWARE_STATUS: 0,
    n.OID_GEN_MEDIA_SUPPORTED: 0,
    n.OID_GEN_MEDIA_IN_USE: 0,
    n.OID_GEN_MAXIMUM_FRAME_SIZE: 1500,
    n.OID_GEN_LINK_SPEED: 100_000_000,
    n.OID_GEN_TRANSMIT_BLOCK_SIZE: 1,
    n.OID_GEN_RECEIVE_BLOCK_SIZE: 1,
    n.OID_GEN_VENDOR_ID: 0xFFFFFF,
    n.OID_GEN_CURRENT_PACKET_FILTER: 0x0D,
    n.OID_GEN_MAXIMUM_TOTAL_SIZE: 1514,
    n.OID_GEN_MEDIA_CONNECT_STATUS: 0,
    n.OID_GEN_XMIT_OK: 0,
    n.OID_GEN_RCV_OK: 0,
    n.OID_GEN_XMIT_ERROR: 0,
    n.OID_GEN_RCV_ERROR: 0,
    n.OID_GEN_RCV_NO_BUFFER: 0,
    n.OID_802_3_MAXIMUM_LIST_SIZE: 32,
}


@pytest.mark.parametrize("oid", sorted(ANSWERS), ids=hex)
def test_numbers(net: NetGuest, oid: int) -> None:
    assert net.query(oid) == struct.pack("<I", ANSWERS[oid])


def test_other_answers(net: NetGuest) -> None:
    assert net.query(n.OID_802_3_PERMANENT_ADDRESS) == MAC
    assert net.query(n.OID_802_3_CURRENT_ADDRESS) == MAC
    assert net.query(n.OID_GEN_FRIENDLY_NAME).decode("utf-16-le") == "pyhv network adapter\0"
    assert net.query(n.OID_GEN_VENDOR_DESCRIPTION) == b"pyhv\0"
    supported = struct.iter_unpack("<I", net.query(n.OID_GEN_SUPPORTED_LIST))
    listed = {oid for (oid,) in supported}
    assert {*ANSWERS, n.OID_TCP_OFFLOAD_PARAMETERS, n.OID_GEN_SUPPORTED_LIST} <= listed
    assert net.query(0x00010199) is None
    assert net.set(0x00010199, bytes(4)) == 0xC00000BB


@pytest.mark.parametrize(("size", "answer"), [(156, 156), (200, 156), (150, 144), (112, 112),
                                              (0, 112)])  # fmt: skip
def test_offload_capabilities(net: NetGuest, size: int, answer: int) -> None:
    """What Linux reads of them before it leaves sums and segmentation to us."""
    for oid in (n.OID_TCP_OFFLOAD_HARDWARE_CAPABILITIES, n.OID_TCP_OFFLOAD_CURRENT_CONFIG):
        data = net.query(oid, size)
        assert len(data) == answer
        kind, revision, stated = struct.unpack_from("<BBH", data)
        assert (kind, stated) == (0xA7, answer)
        assert revision == {156: 3, 144: 2, 112: 1}[answer]
        sums = struct.unpack_from("<8I", data, 4)
        assert sums[1] & 0x14 == 0x14  # TCP over IPv4, with options
        assert sums[1] & 0x40  # UDP
        assert sums[5] & 0x15 == 0x15
        encapsulation4, most4, least4, encapsulation6, most6, least6, options6 = struct.unpack_from(
            "<7I", data, 80
        )
        assert encapsulation4 & encapsulation6 & 2
        assert most4 == most6 == 62780
        assert least4 == least6 == 2
        assert options6 & 5 == 5


def test_sums_are_told_unless_switched_off(make_guest) -> None:
    cable = Cable(checked=True)
    driver = net_sim.start(make_guest(Netvsc(cable, MAC)))
    several = [ethernet(ipv4(tcp(b"x"), 6)), FRAME, ethernet(ipv6(tcp(b"y"), 6), 0x86DD),
               ethernet(bytes(46), 0x0806), ethernet(ipv4(bytes(20), 1))]  # fmt: skip
    cable.sink.receive(several)
    driver.poll()
    assert [one.sums for one in driver.frames] == [0x28, 0x30, 0x28, None, None]
    assert [one.frame for one in driver.frames] == several
    driver.frames.clear()
    off = struct.pack("<BBH", 0x80, 3, 32) + bytes((0, 2, 2, 2, 2)) + bytes(23)
    assert driver.set(n.OID_TCP_OFFLOAD_PARAMETERS, off) == 0
    cable.sink.receive(several[:1])
    driver.poll()
    assert driver.frames[0].sums is None
    on = struct.pack("<BBH", 0x80, 3, 32) + bytes((4, 4, 4, 4, 4)) + bytes(23)
    assert driver.set(n.OID_TCP_OFFLOAD_PARAMETERS, on) == 0
    assert driver.set(n.OID_TCP_OFFLOAD_PARAMETERS, on[:5]) == 0xC0010015
    assert driver.set(n.OID_TCP_OFFLOAD_PARAMETERS, b"\x81" + on[1:]) == 0xC0010015


def test_an_unchecked_backend_claims_nothing(net: NetGuest, cable) -> None:
    cable.sink.receive([FRAME])
    net.poll()
    assert net.frames[0].sums is None


def parameter(name: str, value: str) -> bytes:
    one, two = name.encode("utf-16-le"), value.encode("utf-16-le")
    return struct.pack("<5I", 20, len(one), 2, 20 + len(one), len(two)) + one + two


def test_the_guest_changes_its_address(net: NetGuest) -> None:
    oid = n.OID_GEN_RNDIS_CONFIG_PARAMETER
    assert net.set(oid, parameter("NetworkAddress", "525400aabbcc")) == 0
    assert net.query(n.OID_802_3_CURRENT_ADDRESS) == bytes.fromhex("525400aabbcc")
    assert net.query(n.OID_802_3_PERMANENT_ADDRESS) == MAC
    for bad in (parameter("Speed", "525400aabbcc"), parameter("NetworkAddress", "5254"),
                parameter("NetworkAddress", "535400aabbcc"), parameter("NetworkAddress", "xx" * 6),
                bytes(20), bytes(3), struct.pack("<5I", *[0xFFFFFFFF] * 5)):  # fmt: skip
        assert net.set(oid, bad) == 0xC0010015


def test_multicast_and_filter(net: NetGuest, cable) -> None:
    assert net.set(n.OID_802_3_MULTICAST_LIST, bytes(12)) == 0
    assert net.set(n.OID_802_3_MULTICAST_LIST, bytes(13)) == 0xC0010015
    assert net.set(n.OID_GEN_CURRENT_PACKET_FILTER, b"") == 0xC0010015
    assert net.set(n.OID_GEN_CURRENT_PACKET_FILTER, bytes(4)) == 0
    assert cable.sink.room() > 1000
    cable.sink.receive([FRAME])
    net.poll()
    assert not net.frames
    assert net.query(n.OID_GEN_RCV_NO_BUFFER) == struct.pack("<I", 1)


def test_keep_alive_reset_and_halt(net: NetGuest) -> None:
    assert struct.unpack_from("<IIII", net.rndis(8))[3] == 0
    assert struct.unpack_from("<IIII", net.rndis(6)) == (0x80000006, 16, 0, 0)
    assert net.rndis(3) == b""
    assert net.query(n.OID_GEN_LINK_SPEED) is None  # not initialized any more
    net.transmit(FRAME)
    assert rules(net) == ["device-state"]


def test_the_link(net: NetGuest, cable) -> None:
    cable.set_link(False)
    net.poll()
    cable.set_link(True)
    net.poll()
    assert net.indications == [0x4001000C, 0x4001000B]
    cable.link = False
    assert net.query(n.OID_GEN_MEDIA_CONNECT_STATUS) == struct.pack("<I", 1)


# frames


def test_receive_many(net: NetGuest, cable) -> None:
    several = [FRAME + i.to_bytes(2, "big") for i in range(100)]
    before = len(net.guest.synic.signals)
    cable.sink.receive(several)
    assert len(net.guest.synic.signals) == before + 1
    net.poll()
    assert [one.frame for one in net.frames] == several
    assert cable.sink.room() == net.sections


def test_no_section_no_frame(net: NetGuest, cable) -> None:
    net.hold = True
    cable.sink.receive([FRAME] * net.sections)
    assert cable.sink.room() == 0
    cable.sink.receive([FRAME])
    net.poll()
    assert len(net.frames) == net.sections
    resumed = cable.resumed
    for one in net.held:
        net.give_back(*one)
    assert cable.resumed > resumed
    assert cable.sink.room() == net.sections
    assert not rules(net)


def test_replies_wait_for_a_section(net: NetGuest, cable) -> None:
    net.hold = True
    cable.sink.receive([FRAME] * net.sections)
    net.poll()
    net.send_messages(struct.pack("<7I", 4, 28, 77, 0x00010107, 0, 20, 0), channel_type=1)
    assert not net.replies
    net.hold = False
    net.give_back(*net.held.pop())
    net.poll()
    assert struct.unpack_from("<III", net.replies[0])[2] == 77


def test_a_busy_backend_holds_completions(net: NetGuest, cable) -> None:
    cable.busy = True
    net.transmit(FRAME, section=0)
    net.transmit(FRAME, section=1)
    assert not net.completions
    cable.busy = False
    cable.sink.writable()
    net.poll()
    assert [one.transaction for one in net.completions] == [net.transaction - 1, net.transaction]
