"""The synthetic network card: NVSP over a channel per queue, RNDIS within, a backend behind.

Layouts and guest behaviour: linux drivers/net/hyperv/netvsc.c, rndis_filter.c; iPXE's netvsc, which
speaks version 1, lends no send buffer, and wants every message completed.
"""

from __future__ import annotations

from struct import Struct

from . import netvsc_landing, netvsc_receive, rndis
from . import netvsc_protocol as n
from . import protocol as p
from .netvsc_receive import ReceiveBuffer, section_size
from .netvsc_sent import NetvscSent
from .pagelist import PageList
from .rss import Rss
from .rules import BrokenRule
from .sharedbuffer import SharedBuffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..net.backend import Backend
    from .channel import Channel
    from .server import VmbusServer

MOST_QUEUES = 64  # linux VRSS_CHANNEL_MAX
DEFAULT_MTU, LEAST_MTU, MOST_MTU = 1500, 68, 65521
WANTED = p.VMBUS_DATA_PACKET_FLAG_COMPLETION_REQUESTED
_word = Struct("<I").unpack_from
_rndis = Struct("<4xIII").unpack_from  # channel type, section, bytes in it
NO_ANSWER = b""


class Netvsc(NetvscSent):
    """A card on *backend*, which it does not close.

    :param mac: 6 bytes. *number*: distinguishes the cards of one machine.
    :param max_version: the highest NVSP version to agree to.

    What guests read and set is here: ``mtu``, ``mac``, ``filter`` (0: the interface is down),
    ``rss``, ``tell_checksums``, ``coalesced`` (RSC); ``queues`` are the open channels, the primary
    first.
    """

    class_guid = p.GUID_NET

    def __init__(
        self, backend: Backend, mac: bytes, number: int = 0,
        max_version: int = n.NVSP_PROTOCOL_VERSION_61,
    ) -> None:  # fmt: skip
        self.instance_guid = f"f1b2c3d4-5c3a-4e52-9d0b-70797368{number:04x}"
        self.backend, self.permanent_mac, self.max_version = backend, mac, max_version
        self.sent = self.received = self.dropped = 0
        self.most_queues = 1
        self._pages: PageList  # from offered() on
        self._frames: list = []  # of this batch, prepared for the backend
        self._sends: list[int] = []  # of this batch, to be completed
        self._held: list[tuple[Channel, int]] = []
        self._begin()

    def _begin(self) -> None:
        """As it is for a new driver."""
        self.version = 0
        self.initialized = False
        self.filter = 0
        self.mtu, self.mac = DEFAULT_MTU, self.permanent_mac
        self.tell_checksums = True
        self.can_coalesce = self.coalesced = False
        self.rss = Rss()
        self.queues: dict[int, Channel] = {}  # by sub-channel index
        self._subchannels = 0
        self._receive: ReceiveBuffer | None = None
        self._landing = None
        self._send: SharedBuffer | None = None
        self._frames.clear()
        self._sends.clear()
        self._held.clear()

    # life

    def offered(self, server: VmbusServer) -> None:
        """Learn whose memory the page lists mean."""
        self._pages = PageList(server.memory)
        self.most_queues = min(server.vp_count, MOST_QUEUES)

    def opened(self, channel: Channel) -> None:
        """A driver begins, or one more queue of it."""
        if channel.primary is None:
            self._begin()
            self.backend.coalesce(False)
            self.backend.sink = self
        self.queues[channel.sub_index] = channel
        if self._subchannels and len(self.queues) == self._subchannels + 1:
            self._send_table()

    def closed(self, channel: Channel) -> None:
        """A queue less; without the primary, the driver is gone."""
        if self.queues.pop(channel.sub_index, None) is None:
            return
        if self._landing is not None:
            self._landing.forget(channel)
        if channel.primary is None:
            if self.backend.sink is self:
                self.backend.sink = None
            self._begin()
            self.backend.coalesce(False)
            self.backend.resume()  # what comes now falls on the floor

    def halt(self) -> None:
        """RNDIS HALT: the driver goes; what it negotiated is void."""
        self.initialized = False
        self.set_filter(0)

    def set_filter(self, value: int) -> None:
        """Let frames in, or (0) not."""
        self.filter = value
        self.backend.resume()

    def _send_table(self) -> None:
        """Tell which queue to send on: all, in turn."""
        count = n.VRSS_SEND_TAB_SIZE
        head = n.SEND_TABLE.pack(n.NVSP_MSG5_TYPE_SEND_INDIRECTION_TABLE, count, n.SEND_TABLE.size)
        table = b"".join((i % len(self.queues)).to_bytes(4, "little") for i in range(count))
        self.queues[0].send_inband(head + table)

    # from the backend

    def link_changed(self, up: bool) -> None:
        """Tell the driver."""
        if self._receive is not None and self.initialized:
            try:
                self._receive.control(self.queues[0], rndis.indicate(up))
            except BrokenRule as error:
                self._broken(error)

    # from the guest

    def packet(
        self, channel: Channel, kind: int, flags: int, transaction: int,
        batch: bytes, start: int, body: int, end: int,
    ) -> None:  # fmt: skip
        """Serve one packet; most are frames to send, and completions of frames received."""
        if kind == p.VM_PKT_COMP:
            if self._receive is not None:  # None: late, the buffer was revoked meanwhile
                self._receive.completed(transaction)
            return
        if end - body < 4:
            if kind == p.VM_PKT_CANCEL_REQUEST:
                return  # iPXE's, empty: a send is done when it is taken, nothing is left to cancel
            raise BrokenRule("packet-short", f"{end - body} bytes")
        (message,) = _word(batch, body)
        if message == n.NVSP_MSG1_TYPE_SEND_RNDIS_PKT:
            if end - body < n.RNDIS_PKT.size:
                raise BrokenRule("packet-short", f"{end - body} bytes of {n.RNDIS_PKT.size}")
            channel_type, section, size = _rndis(batch, body)
            if kind == p.VM_PKT_DATA_USING_GPA_DIRECT and self._large(
                batch, start, body, channel_type, section, size
            ):
                if flags & WANTED:
                    self._sends.append(transaction)
                return
            data = self._data(kind, batch, start, body, section, size)
            if channel_type == n.RNDIS_CHANNEL_DATA:
                self._transmit(data)
            else:
                self._control(channel, data)
            if flags & WANTED:
                self._sends.append(transaction)
            return
        handler = CONTROL.get(message)
        if kind != p.VM_PKT_DATA_INBAND or handler is None:
            raise BrokenRule("packet-type", f"type {kind}, NVSP message {message}")
        if channel.primary is not None:
            raise BrokenRule("device-state", f"NVSP message {message} on a sub-channel")
        least, version, serve = handler
        if end - body < least:
            raise BrokenRule("packet-short", f"NVSP message {message}: {end - body} bytes")
        if self.version < version:
            raise BrokenRule("device-state", f"NVSP message {message} at version {self.version:#x}")
        answer = serve(self, channel, batch[body:end])
        if flags & WANTED:
            channel.complete(transaction, answer.ljust(n.NVSP_SIZE, b"\0"))

    def _control(self, channel: Channel, message: bytes) -> None:
        if self._receive is None:
            raise BrokenRule("device-state", "RNDIS without a receive buffer")
        reply = rndis.control(self, message)
        if reply:
            self._receive.control(channel, reply)

    # NVSP

    def _init(self, channel: Channel, message: bytes) -> bytes:
        least, most = n.INIT.unpack_from(message)
        fits = [v for v in n.NVSP_VERSIONS if least <= v <= min(most, self.max_version)]
        status = n.NVSP_STAT_SUCCESS
        if fits:
            self.version = fits[-1]
        else:
            newer = least > self.max_version
            status = n.NVSP_STAT_PROTOCOL_TOO_NEW if newer else n.NVSP_STAT_PROTOCOL_TOO_OLD
        return n.INIT_COMPLETE.pack(
            n.NVSP_MSG_TYPE_INIT_COMPLETE, self.version if fits else self.max_version,
            n.MAX_MDL_CHAIN, status,
        )  # fmt: skip

    def _nothing(self, channel: Channel, message: bytes) -> bytes:
        return NO_ANSWER

    def _config(self, channel: Channel, message: bytes) -> bytes:
        mtu, _ = n.NDIS_CONFIG.unpack_from(message)
        self.mtu = max(LEAST_MTU, min(mtu - 14, MOST_MTU))
        if len(message) >= n.NDIS_CAPABILITIES.size:
            (able,) = n.NDIS_CAPABILITIES.unpack_from(message)
            newest = self.version >= n.NVSP_PROTOCOL_VERSION_61 and self.backend.coalesces
            self.can_coalesce = newest and bool(able & n.NDIS_CAPABILITY_RSC)
        return NO_ANSWER

    def _lent(self, channel: Channel, message: bytes) -> tuple[SharedBuffer | None, int]:
        gpadl, identity = n.BUFFER.unpack_from(message)
        found = channel.server.gpadls.get(channel.relid, gpadl)
        if found is None or gpadl == channel.ring_gpadl:
            return None, identity
        return SharedBuffer(channel.server.memory, found), identity

    def _receive_buffer(self, channel: Channel, message: bytes) -> bytes:
        buffer, identity = self._lent(channel, message)
        least = netvsc_landing.SECTION if self.can_coalesce else netvsc_receive.SECTION
        size = section_size(self.mtu, least)
        kind = n.NVSP_MSG1_TYPE_SEND_RECV_BUF_COMPLETE
        if buffer is None or self._receive is not None or buffer.size < size:
            return n.RECV_BUF_COMPLETE.pack(kind, n.NVSP_STAT_FAIL, 0, 0, 0, 0, 0)
        receive = self._receive = ReceiveBuffer(buffer, identity, size)
        self.land()
        return n.RECV_BUF_COMPLETE.pack(
            kind, n.NVSP_STAT_SUCCESS, 1, 0, size, receive.count, size * receive.count
        )

    def _revoke_receive(self, channel: Channel, message: bytes) -> bytes:
        self._receive = None
        self.land()
        self.backend.resume()
        return NO_ANSWER

    def _send_buffer(self, channel: Channel, message: bytes) -> bytes:
        buffer, _ = self._lent(channel, message)
        status = n.NVSP_STAT_SUCCESS
        if buffer is None or self._send is not None or buffer.size < n.SEND_SECTION_SIZE:
            status = n.NVSP_STAT_FAIL
        else:
            self._send = buffer
        kind = n.NVSP_MSG1_TYPE_SEND_SEND_BUF_COMPLETE
        return n.SEND_BUF_COMPLETE.pack(kind, status, n.SEND_SECTION_SIZE)

    def _revoke_send(self, channel: Channel, message: bytes) -> bytes:
        self._send = None
        return NO_ANSWER

    def _more_queues(self, channel: Channel, message: bytes) -> bytes:
        operation, count = n.SUBCHANNEL.unpack_from(message)
        good = operation == n.NVSP_SUBCHANNEL_ALLOCATE and self.initialized
        count = min(count, self.most_queues - 1)
        status = n.NVSP_STAT_FAIL
        if good and count and channel.server.offer_subchannels(channel, count):
            self._subchannels, status = count, n.NVSP_STAT_SUCCESS
        kind = n.NVSP_MSG5_TYPE_SUBCHANNEL
        return n.SUBCHANNEL_COMPLETE.pack(kind, status, self._subchannels)


#: NVSP message -> (least length, least version, handler)
CONTROL: dict[int, tuple[int, int, Callable[[Netvsc, Channel, bytes], bytes]]] = {
    n.NVSP_MSG_TYPE_INIT: (n.INIT.size, 0, Netvsc._init),
    n.NVSP_MSG1_TYPE_SEND_NDIS_VER: (12, n.NVSP_PROTOCOL_VERSION_1, Netvsc._nothing),
    n.NVSP_MSG1_TYPE_SEND_RECV_BUF: (
        n.BUFFER.size, n.NVSP_PROTOCOL_VERSION_1, Netvsc._receive_buffer,
    ),
    n.NVSP_MSG1_TYPE_REVOKE_RECV_BUF: (6, n.NVSP_PROTOCOL_VERSION_1, Netvsc._revoke_receive),
    n.NVSP_MSG1_TYPE_SEND_SEND_BUF: (
        n.BUFFER.size, n.NVSP_PROTOCOL_VERSION_1, Netvsc._send_buffer,
    ),
    n.NVSP_MSG1_TYPE_REVOKE_SEND_BUF: (6, n.NVSP_PROTOCOL_VERSION_1, Netvsc._revoke_send),
    n.NVSP_MSG2_TYPE_SEND_NDIS_CONFIG: (
        n.NDIS_CONFIG.size, n.NVSP_PROTOCOL_VERSION_2, Netvsc._config,
    ),
    n.NVSP_MSG4_TYPE_SWITCH_DATA_PATH: (8, n.NVSP_PROTOCOL_VERSION_4, Netvsc._nothing),
    n.NVSP_MSG5_TYPE_SUBCHANNEL: (
        n.SUBCHANNEL.size, n.NVSP_PROTOCOL_VERSION_5, Netvsc._more_queues,
    ),
}  # fmt: skip
