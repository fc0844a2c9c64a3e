"""The bus: contact, offers, GPADLs, opening and closing, and which message the guest gets for what.

A guest's message comes in on a VP's thread, where it is only checked for size and queued; all else
happens on the event-loop thread. Whatever the guest sends, it is answered, refused by status, or
ignored with an entry in ``violations``; nothing is raised.
"""

from __future__ import annotations

from _collections import deque

from ..errors import HostError
from ..hyperv.tlfs import (
    HV_STATUS_INSUFFICIENT_BUFFERS,
    HV_STATUS_INVALID_CONNECTION_ID,
    HV_STATUS_INVALID_HYPERCALL_INPUT,
    HV_STATUS_SUCCESS,
)
from . import protocol as p
from .channel import BROKEN, OFFERED, OPEN, RESCINDED, Channel
from .gpadl import GpadlTable
from .messages import GUEST_MESSAGES
from .rules import BrokenRule, Violation
from .server_saved import SavedServer
from .shareddoorbell import SharedDoorbell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..hyperv.driver import Events, SynicPort
    from ..memory import GuestMemory
    from .device import Device
    from .gpadl import Gpadl
    from .hvsock import HvSockets

INBOX_LIMIT = 256  # messages of the guest not yet looked at
OUTBOX_LIMIT = 4096  # messages to the guest not yet in its slot; all offers and replies fit
VIOLATIONS_KEPT = 64


class VmbusServer(SavedServer):
    """The host side of one guest's VMBus. Made before the vCPUs run; :meth:`close` ends it.

    :param vp_count: target VPs are below it.
    :param max_version: the highest version accepted, one of ``protocol.VERSIONS`` (key or value).
    :param trace: called with ("in" or "out", the message) for every message.

    ``violations`` keeps the last broken rules, ``violation_count`` counts all; ``version`` is
    what was agreed, None without contact; ``channels`` is relid -> Channel.
    """

    def __init__(
        self,
        memory: GuestMemory,
        synic: SynicPort,
        events: Events,
        vp_count: int,
        max_version: int | str = p.VERSION_WIN10_V5_3,
        trace: Callable[[str, bytes], None] | None = None,
    ) -> None:
        self.memory, self.synic, self.events, self.vp_count = memory, synic, events, vp_count
        self.max_version = (
            p.VERSIONS[max_version] if isinstance(max_version, str) else max_version
        )
        self.violations: deque[Violation] = deque(maxlen=VIOLATIONS_KEPT)
        self.violation_count = 0
        self.version: int | None = None
        self.vp, self.sint = 0, p.VMBUS_MESSAGE_SINT
        self.channels: dict[int, Channel] = {}
        self.gpadls = GpadlTable(memory)
        self._devices: list[Device] = []
        self.sockets: HvSockets | None = None  # None: whoever calls is refused
        self._offers_wanted = False
        self._next_relid = 1
        self._inbox: deque[bytes] = deque()
        self._inbox_called = self._closed = False
        self._doorbell = SharedDoorbell(self)
        self._trace = trace
        self.new_channel: list[Callable[[Channel], None]] = []  # instruments wrap what it calls
        self._waiting = synic.messages_waiting
        synic.connect_messages(p.VMBUS_MESSAGE_CONNECTION_ID, self._posted)
        if self.max_version >= p.VERSION_WIN10_V5:
            synic.connect_messages(p.VMBUS_MESSAGE_CONNECTION_ID_4, self._posted)

    # devices

    def offer(self, device: Device) -> Channel:
        """Offer *device*; at once if the guest has asked for offers. Return its primary channel."""
        if device.server is not None or len(self.channels) >= p.MAX_RELID:
            raise ValueError("a device is offered once at a time; a bus has 2047 relids")
        device.server = self
        device.offered(self)
        self._devices.append(device)
        return self._add(device)

    def offer_subchannels(self, primary: Channel, count: int) -> bool:
        """Offer *count* sub-channels, numbered from 1, of an open primary.

        :return: False: it has some, or the guest keeps too many rescinded relids.
        """
        others = [one for one in self.channels.values() if one.primary is primary]
        if any(one.state != RESCINDED for one in others):
            return False
        if len(self.channels) + count > p.MAX_RELID // 2:
            return False
        for number in range(1, count + 1):
            self._add(primary.device, primary, number)
        return True

    def rescind(self, device: Device) -> None:
        """Take *device* away; it may be offered again at once, under another relid."""
        self._devices.remove(device)
        device.server = None
        for channel in self._channels_of(device):
            self._rescind(channel)

    def _channels_of(self, device: Device) -> list[Channel]:
        found = [one for one in self.channels.values() if one.device is device]
        return sorted(found, key=lambda one: -one.sub_index)  # sub-channels first

    def _add(self, device: Device, primary: Channel | None = None, number: int = 0) -> Channel:
        relid = self._next_relid
        while relid in self.channels:
            relid = relid % p.MAX_RELID + 1
        self._next_relid = relid % p.MAX_RELID + 1
        channel = self.channels[relid] = Channel(self, device, relid, primary, number)
        for function in self.new_channel:
            function(channel)
        if self._offers_wanted:
            self._send_offer(channel)
        return channel

    def _send_offer(self, channel: Channel) -> None:
        device = channel.device
        self.send(
            p.OFFER_CHANNEL.pack(
                p.CHANNELMSG_OFFERCHANNEL, 0, guid_bytes(device.class_guid),
                guid_bytes(device.instance_guid), device.offer_flags, device.mmio_megabytes,
                device.user_data, channel.sub_index, channel.relid,
                0, 0,  # never a monitor page: the guest would set a bit and expect us to poll
                1,  # dedicated: the guest signals by hypercall and by nothing else
                channel.connection_id,
            )
        )  # fmt: skip

    def _rescind(self, channel: Channel) -> None:
        channel.close()
        if self._offers_wanted and channel.state != RESCINDED:
            channel.state = RESCINDED
            self.send(p.RELID_MESSAGE.pack(p.CHANNELMSG_RESCIND_CHANNELOFFER, 0, channel.relid))
        elif not self._offers_wanted:
            self._forget(channel)

    def _forget(self, channel: Channel) -> None:
        self.gpadls.remove_all_of(channel.relid)
        self.channels.pop(channel.relid, None)

    # life

    def reset(self) -> None:
        """Forget all that the guest did: as it is before INITIATE_CONTACT."""
        self.version = None
        self._offers_wanted = False
        self._doorbell.close()
        if self.sockets is not None:
            self.sockets.reset()
        # Old offers behind the answer to UNLOAD would be read by the next kernel as its own.
        self.synic.drop_messages(self.vp, self.sint, p.HVMSG_VMBUS)
        for channel in sorted(self.channels.values(), key=lambda one: -one.sub_index):
            channel.close()
            if channel.primary is not None or channel.state == RESCINDED:
                del self.channels[channel.relid]
            channel.state = OFFERED
        self.gpadls.clear()

    def close(self) -> None:
        """End the bus, give back all descriptors, let the devices be offered elsewhere."""
        self._closed = True
        self._inbox.clear()
        self.reset()
        for device in self._devices:
            device.server = None
        self._devices.clear()
        self.channels.clear()

    def broken(self, error: BrokenRule, channel: Channel | None = None, relid: int = 0) -> None:
        """Keep what the guest did wrong; with *channel*, close that."""
        self.violation_count += 1
        relid = channel.relid if channel is not None else relid
        self.violations.append(Violation(error.rule, relid, error.text))
        if channel is not None and channel.state == OPEN:
            channel.close()
            channel.state = BROKEN

    # messages

    def send(self, message: bytes) -> None:
        """Send a message to the VP that the guest named."""
        if self._trace is not None:
            self._trace("out", message)
        self.synic.post_message(self.vp, self.sint, p.HVMSG_VMBUS, message)

    def _posted(self, message_type: int, payload: bytes) -> int:
        """Take HvCallPostMessage; on the VP's thread. Statuses: QEMU hw/hyperv/vmbus.c."""
        if self._closed:
            return HV_STATUS_INVALID_CONNECTION_ID
        if message_type != p.HVMSG_VMBUS or len(payload) < p.MESSAGE_HEADER.size:
            return HV_STATUS_INVALID_HYPERCALL_INPUT
        # Linux waits and tries again. A guest that does not read answers gets no more of them.
        if len(self._inbox) >= INBOX_LIMIT or self._waiting(self.vp, self.sint) >= OUTBOX_LIMIT:
            return HV_STATUS_INSUFFICIENT_BUFFERS
        self._inbox.append(payload)
        if not self._inbox_called:
            self._inbox_called = True
            self.events.call(self._serve_inbox)
        return HV_STATUS_SUCCESS

    def _serve_inbox(self) -> None:
        self._inbox_called = False  # before the first look: what comes now calls again
        inbox = self._inbox
        for _ in range(INBOX_LIMIT):
            if not inbox:
                return
            self._message(inbox.popleft())
        self._inbox_called = True
        self.events.call(self._serve_inbox)

    def _message(self, message: bytes) -> None:
        if self._trace is not None:
            self._trace("in", message)
        number = int.from_bytes(message[:4], "little")
        row = GUEST_MESSAGES.get(number)
        try:
            if row is None:
                raise BrokenRule("message-unknown", f"type {number}")
            name, length, always, handler = row
            if len(message) < length:
                raise BrokenRule("message-short", f"{name}: {len(message)} bytes of {length}")
            if self.version is None and not always:
                raise BrokenRule("message-unexpected", f"{name} without contact")
            handler(self, message)
        except BrokenRule as error:
            self.broken(error)

    # what the handlers in messages.py use

    @property
    def offering(self) -> bool:
        """Whether the guest has asked for offers."""
        return self._offers_wanted

    def contact(self, version: int, vp: int, sint: int) -> None:
        """Begin anew with *version* if it is one of ours, and answer."""
        self.reset()
        self.vp, self.sint = vp, sint
        supported = version in p.VERSIONS.values() and version <= self.max_version
        if supported and version < p.VERSION_WIN8:
            supported = self._doorbell.open()
        if supported:
            self.version = version
        # iPXE compares it with what it asked for; to Linux it means something from 5.0 on
        last = p.VMBUS_MESSAGE_CONNECTION_ID if version >= p.VERSION_WIN10_V5 else version
        self.send(
            p.VERSION_RESPONSE.pack(p.CHANNELMSG_VERSION_RESPONSE, 0, supported, 0, 0, last)
        )

    def deliver_offers(self) -> None:
        """Send all offers and their end."""
        self._offers_wanted = True
        for channel in list(self.channels.values()):
            if channel.state == OFFERED and channel.primary is None:
                self._send_offer(channel)
        self.send(p.MESSAGE_HEADER.pack(p.CHANNELMSG_ALLOFFERS_DELIVERED, 0))

    def channel(self, relid: int) -> Channel:
        """Return the channel *relid*, offered or rescinded; BrokenRule if there is none."""
        found = self.channels.get(relid)
        if found is None or not self._offers_wanted:
            raise BrokenRule("relid-unknown", f"relid {relid}")
        return found

    def open(self, relid: int, gpadl: int, vp: int, out_page: int) -> int:
        """Open a channel; return the status of OPENCHANNEL_RESULT."""
        try:
            channel = self.channel(relid)
            if channel.state != OFFERED:
                raise BrokenRule("relid-state", f"OPENCHANNEL of relid {relid}, {channel.state}")
            pages = self.gpadls.get(relid, gpadl)
            if pages is None or not pages.whole_pages():
                raise BrokenRule("open-gpadl", f"GPADL {gpadl:#x} for relid {relid}")
            if vp >= self.vp_count:
                raise BrokenRule("open-vp", f"VP {vp} of {self.vp_count}")
            channel.open(pages.pages.tolist(), out_page, gpadl, vp)
        except BrokenRule as error:
            self.broken(error, relid=relid)
            return p.STATUS_INVALID_PARAMETER
        except (OSError, HostError):
            return p.STATUS_INSUFFICIENT_RESOURCES  # this host has no doorbell left
        return p.STATUS_SUCCESS

    def close_channel(self, relid: int) -> None:
        """CLOSECHANNEL. With a primary go its sub-channels: their offers are taken back."""
        channel = self.channel(relid)
        if channel.state not in (OPEN, BROKEN, RESCINDED):
            raise BrokenRule("relid-state", f"CLOSECHANNEL of relid {relid}, {channel.state}")
        channel.close()
        if channel.state == BROKEN:
            channel.state = OFFERED
        if channel.primary is None:
            for other in self._channels_of(channel.device):
                if other.primary is channel:
                    self._rescind(other)

    def release(self, relid: int) -> None:
        """RELID_RELEASED: a rescinded relid may be used again."""
        channel = self.channel(relid)
        if channel.state != RESCINDED:
            raise BrokenRule("relid-state", f"RELID_RELEASED of relid {relid}, {channel.state}")
        self._forget(channel)

    def tear_down(self, gpadl: Gpadl) -> None:
        """GPADL_TEARDOWN; a channel whose rings lie in it is closed first."""
        channel = self.channels.get(gpadl.relid)
        if channel is not None and channel.state == OPEN and channel.ring_gpadl == gpadl.id:
            self.broken(BrokenRule("relid-state", "GPADL_TEARDOWN of open rings"), channel)
        self.gpadls.remove(gpadl)


def guid_bytes(text: str) -> bytes:
    """Return a GUID as it lies in memory: the first three groups little-endian."""
    groups = [bytes.fromhex(group) for group in text.split("-")]
    return b"".join([group[::-1] for group in groups[:3]] + groups[3:])
