"""A network card's queues, sub-channels and RSS; and a driver that comes after another."""

from __future__ import annotations

import struct

import net_sim
import pytest
from net_sim import FRAME, MAC, NetGuest, ethernet, ipv4, rules, tcp

from pyhv.vmbus import netvsc_protocol as n
from pyhv.vmbus.netvsc import Netvsc


def test_queues(make_guest, cable) -> None:
    guest = make_guest(Netvsc(cable, MAC), vp_count=4)
    driver = net_sim.start(guest)
    capabilities = driver.query(n.OID_GEN_RECEIVE_SCALE_CAPABILITIES, 18)
    assert struct.unpack("<BBHIIIH", capabilities)[0::5] == (0x88, 4)
    net_sim.add_queues(driver, 3)
    driver.poll()
    table = driver.replies.pop()
    assert struct.unpack_from("<19I", table) == (134, 16, 12, *[0, 1, 2, 3] * 4)
    for queue in range(4):
        driver.transmit(FRAME, section=0, channel=queue)
        assert cable.sent_frames() == [FRAME]
    flows = [ethernet(ipv4(tcp(b"x", sport=1000 + i), 6)) for i in range(64)]
    cable.sink.receive(flows)
    driver.poll()
    assert {one.channel for one in driver.frames} == {driver.channel.relid}  # no RSS yet
    driver.frames.clear()
    itab = struct.pack("<128I", *[i % 4 for i in range(128)])
    key = bytes(range(40))
    head = struct.pack(
        "<BBHHHIHHIHHIIII", 0x89, 2, 40, 0, 0, 0x1701, 512, 0, 40, 40, 0, 552, 0, 0, 0
    )
    assert driver.set(n.OID_GEN_RECEIVE_SCALE_PARAMETERS, head + itab + key) == 0
    cable.sink.receive(flows)
    cable.sink.receive(flows)
    driver.poll()
    used: dict[bytes, set[int]] = {}
    for one in driver.frames:
        used.setdefault(one.frame, set()).add(one.channel)
    assert all(len(channels) == 1 for channels in used.values()), "a flow stays on its queue"
    assert len(set.union(*used.values())) == 4
    assert not rules(driver)


@pytest.mark.parametrize(("vp_count", "asked", "given"), [(4, 9, 3), (1, 1, 0), (2, 0, 0)])
def test_how_many_queues(make_guest, cable, vp_count: int, asked: int, given: int) -> None:
    driver = net_sim.start(make_guest(Netvsc(cable, MAC), vp_count=vp_count))
    _, status, count = struct.unpack_from("<III", driver.nvsp(133, 1, asked))
    assert (status, count) == (1 if given else 2, given)
    assert struct.unpack_from("<III", driver.nvsp(133, 2, 1))[1] == 2


def test_a_new_driver_begins_anew(make_guest, cable) -> None:
    net = net_sim.start(make_guest(Netvsc(cable, MAC)))
    guest = net.guest
    guest.post(net.channel.close_message())
    assert cable.sink is None
    again = NetGuest(guest, guest.open(net.channel.relid))
    net_sim.watch_ranges(again)
    again.initialize(2)
    again.transmit(FRAME, section=0)
    assert cable.sent_frames() == [FRAME]
