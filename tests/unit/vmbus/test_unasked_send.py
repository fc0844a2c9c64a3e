"""What a device sends by itself, outside any wake-up, into a ring whose index the guest moved."""

from __future__ import annotations

import pytest

from pyhv.vmbus.channel import BROKEN
from pyhv.vmbus.device import Device


class Sender(Device):
    """Never asked, it only sends."""

    class_guid = instance_guid = "11111111-2222-3333-4444-555555555555"

    def opened(self, channel) -> None:
        self.channel = channel


@pytest.mark.parametrize("index", [1, 4096, 1 << 31])
def test_a_moved_read_index_closes_the_channel_and_raises_nothing(make_guest, index: int) -> None:
    sender = Sender()
    guest = make_guest(sender)
    ring = guest.open(guest.connect()[0].relid, (2, 2))
    sent = 0
    ring.set_word(ring.in_pages, 4, index)
    while sender.channel.send_inband(bytes(48)):  # looks at the index when it runs out of room
        sent += 1
        assert sent < 200
    assert sender.channel.state == BROKEN
    assert guest.server.violations[-1].rule == "ring-index"
    assert not sender.channel.send_inband(b"more")
