"""Large frames to the guest: who may have them, how they are cut into sections, when they stop."""

from __future__ import annotations

import struct

import net_sim
import pytest
from net_sim import FRAME, MAC, Cable, NetGuest, ethernet, ipv4, ipv6, tcp

from pyhv.net.frames import ETH_MAX
from pyhv.vmbus import netvsc_landing
from pyhv.vmbus import netvsc_protocol as n
from pyhv.vmbus.netvsc import Netvsc

DATA = netvsc_landing.SECTION - netvsc_landing.ROOM
#: the five checksums and RSC's two, as Linux sends them while it probes and when it is told
PROBE, ALONE = (1, 4, 4, 4, 4), (0, 0, 0, 0, 0)


def parameters(sums: tuple[int, ...], *rsc: int) -> bytes:
    return struct.pack("<BBH5B13x2B4x", 0x80, 3, 28, *sums, *rsc)


def large(size: int, version: int = 4) -> bytes:
    """Return a TCP frame of *size* bytes."""
    data = bytes(i * 7 + (i >> 8) & 0xFF for i in range(size - (54 if version == 4 else 74)))
    if version == 4:
        return ethernet(ipv4(tcp(data), 6))
    return ethernet(ipv6(tcp(data), 6), 0x86DD)


@pytest.fixture
def cable() -> Cable:
    return Cable(coalesces=True)


@pytest.fixture
def net(make_guest, cable) -> NetGuest:
    driver = net_sim.start(make_guest(Netvsc(cable, MAC)))
    assert driver.set(n.OID_TCP_OFFLOAD_PARAMETERS, parameters(PROBE, 2, 2)) == 0
    assert cable.coalescing
    return driver


@pytest.mark.parametrize(
    ("version", "coalesces", "able"),
    [(0x60001, True, True), (0x60000, True, False), (0x50000, True, False),
     (0x60001, False, False)],
)  # fmt: skip
def test_offered(make_guest, version: int, coalesces: bool, able: bool) -> None:
    """To version 6.1 drivers that say they can, where large frames come from."""
    cable = Cable(coalesces=coalesces)
    driver = net_sim.start(make_guest(Netvsc(cable, MAC)), version)
    data = driver.query(n.OID_TCP_OFFLOAD_HARDWARE_CAPABILITIES, 156)
    assert data[144:146] == (b"\1\1" if able else b"\0\0")
    assert len(driver.query(n.OID_TCP_OFFLOAD_HARDWARE_CAPABILITIES, 144)) == 144
    assert driver.section == (4096 if able else 2048)
    driver.set(n.OID_TCP_OFFLOAD_PARAMETERS, parameters(PROBE, 2, 2))
    assert cable.coalescing == able
    assert bool(cable.sink.landing(True)) == able


def test_a_driver_that_does_not_know_it(make_guest, cable) -> None:
    driver = net_sim.make(make_guest(Netvsc(cable, MAC)))
    driver.nvsp(1, 0x60001, 0x60001)
    driver.nvsp(125, 1514, 0, 0x2C, 0, wanted=False)
    driver.lend_buffers()
    driver.start()
    driver.set(n.OID_TCP_OFFLOAD_PARAMETERS, parameters(PROBE, 2, 2))
    assert driver.query(n.OID_TCP_OFFLOAD_HARDWARE_CAPABILITIES, 156)[144:146] == b"\0\0"
    assert not cable.coalescing


def test_who_decides(net: NetGuest, cable) -> None:
    """The driver, for both IP versions at once; and sums that it checks itself must be there."""
    for sums, rsc, on in (
        (ALONE, (1, 1), False), (PROBE, (0, 0), False), (ALONE, (2, 2), True),
        (PROBE, (1, 1), False), (PROBE, (2, 2), True), (ALONE, (2, 1), False),
        (PROBE, (2, 2), True), ((0, 2, 0, 2, 0), (0, 0), False), (PROBE, (0, 0), True),
    ):  # fmt: skip
        assert net.set(n.OID_TCP_OFFLOAD_PARAMETERS, parameters(sums, *rsc)) == 0
        assert cable.coalescing == on, (sums, rsc)


def test_short_parameters_change_nothing(net: NetGuest, cable) -> None:
    """Drivers of before NDIS 6.30 end before the field."""
    assert net.set(n.OID_TCP_OFFLOAD_PARAMETERS, parameters(PROBE, 2, 2)[:22]) == 0
    assert cable.coalescing


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [100, DATA, DATA + 1, 2 * DATA, 30000, 65549])
def test_large_frames(net: NetGuest, cable, size: int, version: int) -> None:
    frame = large(size, version)
    assert cable.land(frame) == 1
    net.poll()
    (got,) = net.frames
    assert got.frame == frame
    assert got.sums == 0x28
    assert got.parts == -(-size // DATA)
    assert len(cable.sink._receive.free) == net.sections
    assert not net.guest.server.violations


def test_small_frames_between_large_ones(net: NetGuest, cable) -> None:
    """Their order stays, one interrupt is enough, and only a checked sum is vouched for."""
    several = [FRAME, large(30000), FRAME[:50], large(9000), large(66)]
    before = len(net.guest.synic.signals)
    assert cable.land(*several) == 5
    assert len(net.guest.synic.signals) == before + 1
    net.poll()
    assert [one.frame for one in net.frames] == several
    assert [one.sums for one in net.frames] == [0x30, 0x28, 0x30, 0x28, 0x28]
    net.frames.clear()
    assert cable.land(FRAME, ethernet(bytes(46), 0x0806), large(66), checked=False) == 3
    net.poll()
    assert [one.sums for one in net.frames] == [None] * 3
    cable.sink.receive([FRAME])
    net.poll()
    assert net.frames[-1].frame == FRAME


def test_more_than_a_packet_may_have(make_guest, cable) -> None:
    driver = net_sim.start(make_guest(Netvsc(cable, MAC), memory=32 << 20), receive_pages=1024)
    driver.set(n.OID_TCP_OFFLOAD_PARAMETERS, parameters(PROBE, 2, 2))
    several = [large(60000 + i) for i in range(40)]
    assert cable.land(*several) == 40
    counts = []
    original = driver._transfer
    driver._transfer = lambda channel, one: (
        counts.append(len(driver.ranges_of[one.transaction])), original(channel, one),
    )  # fmt: skip
    driver.poll()
    assert counts == [510, 90]
    assert [one.frame for one in driver.frames] == several


def test_no_sections_no_frame(net: NetGuest, cable) -> None:
    """As many large frames as there is room for; the rest waits in the backend."""
    net.hold = True
    need = -(-ETH_MAX // DATA)
    assert cable.sink.room() == net.sections // need
    assert cable.land(*[large(65549)] * 9) == net.sections // need
    assert cable.sink.room() == 0
    assert cable.sink.landing(True) == []
    net.poll()
    resumed = cable.resumed
    for one in net.held:
        net.give_back(*one)
    assert cable.resumed > resumed
    assert cable.sink.room() == net.sections // need


def test_a_buffer_too_small_for_two(make_guest, cable) -> None:
    driver = net_sim.start(make_guest(Netvsc(cable, MAC)), receive_pages=33)
    driver.set(n.OID_TCP_OFFLOAD_PARAMETERS, parameters(PROBE, 2, 2))
    assert not cable.coalescing
    assert cable.sink.room() == 33


def test_large_sections(make_guest, cable) -> None:
    """With a large MTU a section is several pages, which need not be neighbours."""
    driver = net_sim.start(make_guest(Netvsc(cable, MAC)), mtu=9000, receive_pages=96)
    driver.set(n.OID_TCP_OFFLOAD_PARAMETERS, parameters(PROBE, 2, 2))
    assert driver.section == 12288
    several = [large(60000), large(9014), FRAME]
    assert cable.land(*several) == 3
    driver.poll()
    assert [(one.frame, one.parts) for one in driver.frames] == [
        (several[0], 5), (several[1], 1), (FRAME, 1),
    ]  # fmt: skip


def test_queues(make_guest, cable) -> None:
    """Each flow on its queue, by the hash of its first bytes."""
    driver = net_sim.start(make_guest(Netvsc(cable, MAC), vp_count=4, memory=32 << 20),
                           receive_pages=512)  # fmt: skip
    driver.set(n.OID_TCP_OFFLOAD_PARAMETERS, parameters(PROBE, 2, 2))
    net_sim.add_queues(driver, 3)
    driver.poll()
    driver.replies.clear()  # the send table
    table = struct.pack("<128I", *[i % 4 for i in range(128)])
    head = struct.pack(
        "<BBHHHIHHIHHIIII", 0x89, 2, 40, 0, 0, 0x1701, 512, 0, 40, 40, 0, 552, 0, 0, 0
    )
    key = bytes(range(40))
    assert driver.set(n.OID_GEN_RECEIVE_SCALE_PARAMETERS, head + table + key) == 0
    flows = [ethernet(ipv4(tcp(bytes(9000), sport=i), 6)) for i in range(20)]
    assert cable.land(*flows) == 20
    driver.poll()
    assert sorted(one.frame for one in driver.frames) == sorted(flows)
    assert len({one.channel for one in driver.frames}) == 4
    where = {one.frame: one.channel for one in driver.frames}
    driver.frames.clear()
    cable.sink.receive([flow[:1000] for flow in flows])
    driver.poll()
    assert {one.frame: one.channel for one in driver.frames} == {
        flow[:1000]: channel for flow, channel in where.items()
    }


def test_a_buffer_torn_down_is_not_touched(net: NetGuest, cable) -> None:
    net.guest.ask(struct.pack("<IIII", 11, 0, net.channel.relid, net.receive_gpadl))
    assert cable.sink.landing(True) == []
    assert [one.rule for one in net.guest.server.violations] == ["gpadl-unknown"]
    assert cable.sink is None
    assert not cable.coalescing


def test_an_interface_that_is_down_takes_nothing(net: NetGuest, cable) -> None:
    net.set(n.OID_GEN_CURRENT_PACKET_FILTER, bytes(4))
    assert cable.sink.landing(True) == []
    net.nvsp(103, net_sim.RECEIVE_ID)
    assert not cable.coalescing
    cable.sink.landed(FRAME, len(FRAME), False)
    cable.sink.landed_all()
    net.poll()
    assert not net.frames
