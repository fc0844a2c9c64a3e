"""Plays the guest of a trace against the bus and its devices, and compares what these answer.

::

    with open("trace.jsonl") as file:
        result = play(file)
    assert not result.differences
"""

from __future__ import annotations

import json
from _heapq import heappop, heappush

from ..errors import ConfigError
from ..memory import GuestMemory
from ..record import Record
from ..trace import names
from ..trace.event import Event
from ..trace.host import HostTracer
from ..vmbus import protocol as p
from ..vmbus.channel import RESCINDED
from ..vmbus.server import VmbusServer
from .compare import Comparison, Said, is_frame, is_medium, stream
from .devices import Mute, Workshop, name_of
from .world import TraceEvents, TraceSynic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from ..vmbus.channel import Channel
    from ..vmbus.device import Device
    from .compare import Difference

WINDOW = 4096  # events that are sorted by time: a packet's comes after its answers'
#: clocks differ: a heartbeat came 7 ms less than its 2 s after the one before (an emulated host)
EARLY_NS = 50_000_000
PAGE = 4096
MOST_MEMORY, MOST_CPUS = 1 << 42, 4096
HOW = "pyhv run --trace vmbus,ring,bytes,machine --trace-format jsonl --trace-file FILE"


class Result(Record):
    """What came of it. ``left_out``: devices that cannot be made again, and how much they said."""

    lives: int
    messages: int
    packets: int
    compared: int
    count: int
    differences: list[Difference]
    left_out: dict[str, int]
    empty_disks: int


def play(
    lines: Iterable[str], images: Iterable[str] = (), devices: Iterable[Device] = ()
) -> Result:
    """Play the trace in *lines*, JSON Lines with the category ``bytes``.

    :param images: of the disks, in the order of their LUNs, as they were before. Without, disks
        are empty and what READ brings is not compared. They are not changed.
    :param devices: of the caller's own, for those that the trace's machine had.
    :raises ConfigError: no such trace.
    """
    player = Player(list(images), list(devices))
    try:
        for when, category, name, fields, result in ordered(lines):
            player.event(when, category, name, fields, result)
        player.end()
    finally:
        player.close()
    if not player.lives:
        raise ConfigError(f"nothing to replay in it: no machine; a trace is made by {HOW}")
    if not player.messages:
        raise ConfigError(f"nothing to replay in it: no bytes; a trace is made by {HOW}")
    compared = player.comparison
    return Result(
        player.lives, player.messages, player.packets, compared.compared, compared.count,
        compared.differences, player.left_out, player.empty_disks,
    )  # fmt: skip


def ordered(lines: Iterable[str]) -> Iterator[tuple[int, str, str, dict[str, Any], object]]:
    """Yield a trace's events by time; what is no event is passed over."""
    heap: list[Any] = []
    for count, line in enumerate(lines):
        try:
            event = json.loads(line)
            fields = dict(event["fields"])
            row = (int(event["time_ns"]), count, str(event["category"]), str(event["name"]),
                   fields, event.get("result"))  # fmt: skip
            bytes.fromhex(fields.get("data", ""))
            hash((fields.get("relid"), fields.get("transaction"), fields.get("cdb")))
            for at, size, text in fields.get("before", ()):
                range(at, size, len(bytes.fromhex(text)) or 1)
        except (ValueError, RecursionError, TypeError, KeyError, OverflowError, AttributeError):
            continue
        heappush(heap, row)
        if len(heap) > WINDOW:
            when, _, *rest = heappop(heap)
            yield (when, *rest)
    while heap:
        when, _, *rest = heappop(heap)
        yield (when, *rest)


class Player:
    """One replay; see :func:`play`."""

    def __init__(self, images: list[str], own: list[Device]) -> None:
        self._images, self._own = images, own
        self.comparison = Comparison()
        self.lives = self.messages = self.packets = self.empty_disks = 0
        self.left_out: dict[str, int] = {}
        self._asked: tuple[int, bytes] | None = None  # REQUESTOFFERS, until the offers are known
        self.memory: GuestMemory | None = None
        self.server: VmbusServer | None = None
        self._workshop: Workshop | None = None

    # lives

    def _begin(self, board: dict[str, Any]) -> None:
        self.end()
        self.close()
        try:
            size, cpus = int(board["memory"]), int(board["cpus"])
            most = int(board["max_version"])
        except (KeyError, TypeError, ValueError):
            raise ConfigError(f"its machine is without bytes; a trace is made by {HOW}") from None
        self.lives += 1
        if not 0 < size <= MOST_MEMORY or not 0 < cpus <= MOST_CPUS:
            raise ConfigError(f"its machine has {size} bytes and {cpus} CPUs")
        self.memory, self.events = GuestMemory(size), TraceEvents()
        self.synic = TraceSynic(self.events)
        self.server = VmbusServer(
            self.memory, self.synic, self.events, cpus, most, trace=self._message_now
        )
        tracer = HostTracer(frozenset(("ring", "bytes")), self._packet_now)
        self.server.new_channel.append(tracer._channel)
        self.empty_disks = max(0, len(board.get("disks", ())) - len(self._images))
        self._workshop = Workshop(board, self.events, self._images, self._own)

    def end(self) -> None:
        """A life is over: compare what is still open."""
        if self.server is not None:
            self._ask()
            self.events.run()
            self.comparison.settle()

    def close(self) -> None:
        """Give all back."""
        if self.server is not None:
            self.server.close()
            self.server = None
        if self._workshop is not None:
            self._workshop.close()
        if self.memory is not None:
            self.memory.close()
            self.memory = None

    # now

    def _message_now(self, way: str, message: bytes) -> None:
        if way == "out":
            name, fields = names.channel_message(message)
            said = Said(self.events.now_ns, name, fields | {"data": message.hex()}, None)
            self.comparison.now("messages", said)

    def _packet_now(self, event: Event) -> None:
        now = self.events.now_ns
        self._packet(self.comparison.now, now, event.name, event.fields, event.result)

    def _packet(
        self, note: Any, when: int, name: str, fields: dict[str, Any], result: Any
    ) -> None:  # fmt: skip
        """Note a packet of the host, or what it left in memory when it served one of the guest."""
        if "from" in fields:
            if "after" not in fields or (is_medium(fields) and not self._images):
                return
        elif is_frame(fields):
            return
        if isinstance(self._device(fields), Mute):
            return
        note(stream(name, fields), Said(when, name, fields, result))

    def _device(self, fields: dict[str, Any]) -> Device | None:
        channel = self.server.channels.get(fields.get("relid", 0)) if self.server else None
        return channel.device if channel is not None else None

    # the trace

    def event(
        self, when: int, category: str, name: str, fields: dict[str, Any], result: object
    ) -> None:
        """Take the trace's next event."""
        if category == "machine" and name == "board":
            self._begin(fields)
        if self.server is None or category not in ("vmbus", "ring") or "data" not in fields:
            return
        self.events.advance(when, EARLY_NS if "to" in fields else 0)
        self.events.run()
        data = bytes.fromhex(fields["data"])
        if category == "vmbus" and "from" in fields:
            if result == "HV_STATUS_SUCCESS":
                self._post(when, data)
        elif category == "vmbus":
            self._offered(data)
            self.comparison.then("messages", Said(when, name, fields, None))
        else:
            device = self._device(fields)
            if isinstance(device, Mute):
                title = name_of(device)
                self.left_out[title] = self.left_out.get(title, 0) + 1
                return
            self._packet(self.comparison.then, when, name, fields, result)
            if "from" in fields:
                self._put(when, fields, data)

    def _post(self, when: int, message: bytes) -> None:
        number = int.from_bytes(message[:4], "little")
        self.messages += 1
        if number == p.CHANNELMSG_REQUESTOFFERS:
            self._asked = (when, message)
            return
        self._ask()
        if number == p.CHANNELMSG_OPENCHANNEL and len(message) >= p.OPEN_CHANNEL.size:
            self._new_rings(message)
        self.synic.post(message)
        self._settle()

    def _ask(self) -> None:
        """Ask for the offers, now that the devices are there."""
        asked, self._asked = self._asked, None
        if asked is not None:
            self.synic.post(asked[1])
            self._settle()

    def _offered(self, message: bytes) -> None:
        """What the host did by itself: put a device on the bus, or take one away."""
        number = int.from_bytes(message[:4], "little")
        if number == p.CHANNELMSG_OFFERCHANNEL and len(message) == p.OFFER_CHANNEL.size:
            sub_index, relid = p.OFFER_CHANNEL.unpack(message)[7:9]
            if not sub_index and relid not in self.server.channels and 0 < relid <= p.MAX_RELID:
                self.server._next_relid = relid
                self.server.offer(self._workshop.make(message))
        elif number == p.CHANNELMSG_RESCIND_CHANNELOFFER:
            channel = self.server.channels.get(int.from_bytes(message[8:12], "little"))
            if channel is not None and channel.state != RESCINDED and channel.primary is None:
                self.server.rescind(channel.device)
        elif number == p.CHANNELMSG_ALLOFFERS_DELIVERED:
            self._ask()
        self._settle()

    def _new_rings(self, message: bytes) -> None:
        """What the guest's driver does to the headers of its rings before it opens them."""
        relid, _, gpadl, _, out_page = p.OPEN_CHANNEL.unpack_from(message)
        found = self.server.gpadls.get(relid, gpadl)
        for index in (0, out_page):
            if found is not None and index < len(found.pages):
                at = found.pages[index]
                self.memory.bytes[at : at + PAGE] = bytes(PAGE)
                self.memory.u32[(at + p.RING_FEATURE_BITS) >> 2] = p.RING_FEAT_PENDING_SEND_SIZE

    def _put(self, when: int, fields: dict[str, Any], packet: bytes) -> None:
        """Put a packet into its channel's ring, and what it speaks of into memory."""
        channel = self.server.channels.get(fields.get("relid", 0))
        ring = channel._in if channel is not None else None
        if ring is None or len(packet) + 8 >= ring.size or len(packet) % 8:
            self.comparison.differ(
                when, f"{Said(when, '', fields, None).title}: its channel is not open now"
            )
            return
        for at, size, text in fields.get("before", ()):
            if 0 <= at <= at + size <= len(self.memory.bytes):
                self.memory.bytes[at : at + size] = bytes.fromhex(text).ljust(size, b"\0")[:size]
        start = ring._u32[ring._write_at]
        ring._store(start, packet + p.PACKET_TRAILER.pack(start << 32))
        ring._u32[ring._write_at] = (start + len(packet) + 8) % ring.size
        self.packets += 1
        channel.ring()
        self._settle()

    def _settle(self) -> None:
        """Let the host do all it does, and read what it put into the guest's rings."""
        self.events.run()
        again = True
        while again:
            again = False
            for channel in list(self.server.channels.values()):
                again |= self._read(channel)
            self.events.run()

    def _read(self, channel: Channel) -> bool:
        out = channel._out
        if out is None:
            return False
        out._u32[out._read_at] = out._u32[out._write_at]
        if channel.waiting:
            channel.ring()
            return True
        return False
