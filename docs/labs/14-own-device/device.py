"""A VMBus device of one's own: it turns round what it is sent."""

from pyhv.vmbus import protocol
from pyhv.vmbus.device import Device
from pyhv.vmbus.rules import BrokenRule

MOST = 64


class Reverser(Device):
    """A packet is a byte n and n bytes, 1 to 64; the completion is the n bytes, last first.

    The length is in the data because a ring holds multiples of 8 bytes and tells no more.
    """

    class_guid = "c0ffee00-1ab5-4e11-9e57-000000000014"  # picks the guest's driver
    instance_guid = "c0ffee01-1ab5-4e11-9e57-000000000014"  # names this one
    served = 0

    def packet(self, channel, kind, flags, transaction, batch, start, body, end):
        """Serve one packet: batch[body:end], copied out of the ring, so it cannot change."""
        if kind != protocol.VM_PKT_DATA_INBAND:
            raise BrokenRule("packet-type", f"type {kind}")  # closes the channel, no more
        length = batch[body] if body < end else 0
        if not 0 < length <= min(MOST, end - body - 1):
            raise BrokenRule("packet-short", f"{length} bytes in {end - body}")
        self.served += 1
        channel.complete(transaction, batch[body + 1 : body + 1 + length][::-1])
