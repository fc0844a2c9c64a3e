"""Integration components: heartbeat, shutdown and time, which the guest's hv_utils serves.

Turned round: here the host asks and the guest answers in the same packet. Layouts and limits: linux
include/linux/hyperv.h, drivers/hv/hv_util.c, channel_mgmt.c (vmbus_prep_negotiate_resp).
"""

from __future__ import annotations

import time
from struct import Struct

from ..saving import fields, put
from . import protocol as p
from .device import Device, check_inband
from .rules import BrokenRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .channel import Channel
    from .server import VmbusServer

    Told = Callable[[int | None, bytes], None]

# Pipe header: 0:4 flags (1), 4:4 size of the rest. IC header: 8:4 framework version, 12:2 type,
# 14:4 message version, 18:2 body size, 20:4 status, 24:1 transaction, 25:1 flags, 26:2 zero
_header = Struct("<II HHH HHH I BB2x")
# Negotiation body: 0:2 framework versions, 2:2 message versions, 4:4 zero, then the versions
_negotiate = Struct("<HH4x")
_version = Struct("<HH")
PIPE_HEADER = 8
ICMSGTYPE_NEGOTIATE = 0
FLAG_TRANSACTION, FLAG_REQUEST, FLAG_RESPONSE = 1, 2, 4
FRAMEWORKS = ((3, 0), (1, 0))

HEARTBEAT_S, TIMESYNC_S = 2.0, 30.0  # Linux's PTP clock calls a sample of 600 s ago stale
EPOCH_1601 = 116_444_736_000_000_000  # of 1970, in 100 ns
TIME_SYNC, TIME_SAMPLE = 1, 2
SHUTDOWN_FORCED, SHUTDOWN_REBOOT, SHUTDOWN_HIBERNATE = 1, 2, 4
SHUTDOWN_REASON = 0x80000000
MESSAGE_BYTES = 2048
SAVED = ("framework", "version", "answers", "_transaction", "_asked")


class Service(Device):
    """What the components share: negotiation, one request after the other.

    ``version`` is what the guest's driver agreed to, None before; ``answers`` counts;
    ``guest_side`` is who answers in Linux.
    """

    guest_side = "hv_utils"

    offer_flags = p.VMBUS_CHANNEL_NAMED_PIPE_MODE
    user_data = p.VMBUS_PIPE_TYPE_MESSAGE.to_bytes(4, "little")
    kept = True
    message_type = 0
    versions: tuple[tuple[int, int], ...] = ()

    def __init__(self) -> None:
        self.channel: Channel | None = None
        self.framework = FRAMEWORKS[0]
        self.version: tuple[int, int] | None = None
        self.answers = 0
        self._transaction = 0
        self._ticking = False  # a timer is set that calls what _every was given
        self._asked: int | None = None  # the type that an answer is due for
        self._told: Told | None = None  # who waits for it

    def opened(self, channel: Channel) -> None:
        """Offer versions: framework first, then the component's own."""
        self.channel, self.version = channel, None
        every = b"".join(_version.pack(*one) for one in (*FRAMEWORKS, *self.versions))
        body = _negotiate.pack(len(FRAMEWORKS), len(self.versions)) + every
        self._send(ICMSGTYPE_NEGOTIATE, (0, 0), (0, 0), body)

    def closed(self, channel: Channel) -> None:
        """No driver any more; who waits is told None."""
        self.channel = self.version = self._asked = None
        self._tell(None, b"")

    @property
    def busy(self) -> bool:
        """Whether the guest's driver is there and has not answered the last request."""
        return self.version is not None and self._asked is not None

    def _tell(self, status: int | None, data: bytes) -> None:
        told, self._told = self._told, None
        if told is not None:
            told(status, data)

    def _send(
        self, kind: int, framework: tuple[int, int], version: tuple[int, int], body: bytes
    ) -> bool:
        self._transaction = self._transaction + 1 & 0xFF
        head = _header.pack(
            1, _header.size - PIPE_HEADER + len(body), *framework, kind, *version, len(body), 0,
            self._transaction, FLAG_TRANSACTION | FLAG_REQUEST,
        )  # fmt: skip
        if self.channel is None or not self.channel.send_inband(head + body):
            return False
        self._asked = kind
        return True

    def ask(self, body: bytes, told: Told | None = None) -> bool:
        """Send a request; False: no driver, or it has not answered the last one (``busy``).

        :param told: called once with the answer's status and body; with None and nothing when
            the driver goes away before.
        """
        if self.version is None or self._asked is not None:
            return False
        if not self._send(self.message_type, self.framework, self.version, body):
            return False
        self._told = told
        return True

    def packet(
        self, channel: Channel, kind: int, flags: int, transaction: int,
        batch: bytes, start: int, body: int, end: int,
    ) -> None:  # fmt: skip
        """Take an answer."""
        check_inband(kind, end - body, _header.size)
        fields = _header.unpack_from(batch, body)
        answered, size, status, number, ic_flags = fields[4], fields[7], *fields[8:]
        data = batch[body + _header.size : end][:size]
        if answered != self._asked or number != self._transaction or not ic_flags & FLAG_RESPONSE:
            raise BrokenRule("device-state", f"an answer of type {answered} that nobody waits for")
        self._asked = None
        if answered == ICMSGTYPE_NEGOTIATE:
            self._negotiated(data)
        else:
            self.answers += 1
            told, self._told = self._told, None  # before answered(), which may ask again
            self.answered(status, data)
            if told is not None:
                told(status, data)

    def _negotiated(self, data: bytes) -> None:
        if len(data) < _negotiate.size + 2 * _version.size:
            raise BrokenRule("packet-short", "negotiation without versions")
        frameworks, messages = _negotiate.unpack_from(data)
        if frameworks != 1 or messages != 1:
            return  # the guest's driver knows none of ours
        framework = _version.unpack_from(data, 8)
        version = _version.unpack_from(data, 12)
        if framework in FRAMEWORKS and version in self.versions:
            self.framework, self.version = framework, version
            self.ready()

    def save(self) -> dict[str, Any]:
        """Return how far the driver is, and what an answer is due for."""
        return fields(self, SAVED)

    def load(self, state: dict[str, Any], channels: dict[int, Channel]) -> None:
        """Undo :meth:`save`; who waited for an answer waits in the life before."""
        put(self, SAVED, state)
        self.framework = tuple(state["framework"])
        self.version = tuple(state["version"]) if state["version"] is not None else None
        self.channel = channels.get(0)
        if self.version is not None and self.server is not None:
            self.server.events.call(self.ready)

    def ready(self) -> None:
        """The guest's driver is there."""

    def answered(self, status: int, data: bytes) -> None:
        """The guest answered a request with *status* (0 is good)."""

    def _every(self, seconds: float, act: Callable[[], None]) -> None:
        """Call *act* now, and again and again while there is a driver.

        One that closes and opens its channel at will gets no clockwork more each time.
        """
        server = self.server
        assert server is not None

        def again() -> None:
            self._ticking = self.version is not None
            if self._ticking:
                server.events.after(seconds, again)
                act()

        if self._ticking:
            act()
        else:
            again()


class Heartbeat(Service):
    """Asks every 2 s; ``last_answer`` is time.monotonic() of the last answer, None without."""

    class_guid = p.GUID_HEARTBEAT
    instance_guid = "fd149e91-82e0-4a7d-afa6-2a4166cbd7c0"
    message_type, versions = 1, ((3, 0), (1, 0))
    last_answer: float | None = None
    _sequence = 0

    def ready(self) -> None:
        """Begin."""
        self._every(HEARTBEAT_S, self._beat)

    def _beat(self) -> None:
        following = self._sequence + 1
        if self.ask(following.to_bytes(8, "little") + bytes(32)):
            self._sequence = following  # else the answer to the last one is still to come

    def answered(self, status: int, data: bytes) -> None:
        """The guest counts the sequence number up."""
        if int.from_bytes(data[:8], "little") == self._sequence + 1:
            self.last_answer = time.monotonic()

    def closed(self, channel: Channel) -> None:
        """The guest has no heart."""
        super().closed(channel)
        self.last_answer = None


class Shutdown(Service):
    """Asks the guest to power off, restart or hibernate; ``status`` is its last answer."""

    class_guid = p.GUID_SHUTDOWN
    instance_guid = "b6650ff7-33bc-4840-8048-e0676786f393"
    message_type, versions = 3, ((3, 2), (3, 1), (3, 0), (1, 0))
    status: int | None = None

    def request(
        self, *, reboot: bool = False, hibernate: bool = False, force: bool = False,
        text: str = "", told: Told | None = None,
    ) -> bool:
        """Ask; False: the guest has no driver for it. On the event loop.

        :param text: for the guest's log, at most 1,023 characters count.
        :param told: as for :meth:`ask`.
        """
        flags = (
            (SHUTDOWN_FORCED if force else 0)
            | (SHUTDOWN_REBOOT if reboot else 0)
            | (SHUTDOWN_HIBERNATE if hibernate else 0)
        )
        words = b"".join(n.to_bytes(4, "little") for n in (SHUTDOWN_REASON, 0, flags))
        # Linux drops a request without the whole text field
        message = text.encode("utf-16-le")[: MESSAGE_BYTES - 2].ljust(MESSAGE_BYTES, b"\0")
        self.status = None
        return self.ask(words + message, told)

    def answered(self, status: int, data: bytes) -> None:
        """Keep it; a good one means that the guest has begun."""
        self.status = status


class Timesync(Service):
    """Sets the guest's clock when its driver comes, and feeds its PTP clock from then on.

    :param now_ns: the host's time, ns since 1970; tests and wrong clocks give another.
    """

    class_guid = p.GUID_TIMESYNC
    instance_guid = "2497f4de-e9fa-4204-80e4-4b75c46419c0"
    message_type, versions = 4, ((4, 0), (3, 0), (1, 0))

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        super().__init__()
        self._now_ns = now_ns
        self._first = True

    def ready(self) -> None:
        """Set the clock, then send samples."""
        self._first = True
        self._every(TIMESYNC_S, self._sample)

    def _sample(self) -> None:
        flags = TIME_SYNC if self._first else TIME_SAMPLE
        if self.ask(self._body(flags)):
            self._first = False

    def _body(self, flags: int) -> bytes:
        server = self.server
        assert server is not None
        # the pair belongs together: the guest adds what its reference time has gone on since
        host, reference = self._now_ns() // 100 + EPOCH_1601, server.synic.reference_ticks()
        times = host.to_bytes(8, "little") + reference.to_bytes(8, "little")
        if self.version == (4, 0):
            return times + bytes((flags, 0, 0, 0, 0, 0))  # flags, leap, stratum
        return times + bytes(8) + bytes((flags,))  # parent, child, round trip

    def sync(self, told: Told | None = None) -> bool:
        """Set the guest's clock now; False: no driver. On the event loop."""
        return self.ask(self._body(TIME_SYNC), told)


class Components:
    """The components of one board, offered on *server*."""

    def __init__(self, server: VmbusServer) -> None:
        from .kvp import Kvp
        from .vss import Vss

        self.heartbeat, self.shutdown, self.timesync = Heartbeat(), Shutdown(), Timesync()
        self.kvp, self.vss = Kvp(), Vss()
        for component in (self.heartbeat, self.shutdown, self.timesync, self.kvp, self.vss):
            server.offer(component)
