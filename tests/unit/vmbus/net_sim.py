"""The network driver of the simulated guest: NVSP, RNDIS and frames, as Linux's netvsc does it."""

from __future__ import annotations

import struct
from typing import NamedTuple

from guest_sim import PAGE, Guest, GuestChannel, Packet, gpa_ranges, packet

from pyhv.net import frames
from pyhv.net.backend import Backend

MAC = bytes.fromhex("525400123456")
NO_SECTION = 0xFFFFFFFF
RECEIVE_ID = 0xCAFE


class Cable(Backend):
    """A backend whose other end is the test: ``wire`` keeps what was sent."""

    kind = "test"

    def __init__(
        self, link: bool = True, checked: bool = False, coalesces: bool = False
    ) -> None:
        super().__init__()
        self.link, self.checked, self.coalesces = link, checked, coalesces
        self.coalescing = False
        self.wire: list[bytes] = []
        self.busy = False
        self.resumed = 0

    def send(self, prepared: list[bytes]) -> bool:
        self.wire += prepared
        return not self.busy

    def resume(self) -> None:
        self.resumed += 1

    def coalesce(self, on: bool) -> None:
        assert self.coalesces or not on
        self.coalescing = on

    def land(self, *several: bytes, checked: bool = True) -> int:
        """Put frames where the sink wants them; return how many went."""
        done = 0
        for frame in several:
            pieces, at = self.sink.landing(True), 0
            if not pieces:
                break
            assert sum(map(len, pieces)) >= frames.ETH_MAX
            for piece in pieces:
                part = frame[at : at + len(piece)]
                piece[: len(part)] = part
                at += len(part)
            self.sink.landed(frame[:64], len(frame), checked)
            done += 1
        if self.sink is not None:
            self.sink.landed_all()
        return done

    def sent_frames(self) -> list[bytes]:
        found, self.wire = self.wire, []
        return found


def ipv4(payload: bytes, protocol: int, source: str = "0a000001", to: str = "0a000002") -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 7, 0, 64, protocol, 0)
    return head + bytes.fromhex(source + to) + payload


def ipv6(payload: bytes, protocol: int) -> bytes:
    addresses = bytes.fromhex("fd00" + "00" * 13 + "01" + "fd00" + "00" * 13 + "02")
    return struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64) + addresses + payload


def tcp(data: bytes, sport: int = 1000, sequence: int = 1, flags: int = 0x10) -> bytes:
    return struct.pack(">HHIIBBHHH", sport, 80, sequence, 0, 0x50, flags, 512, 0, 0) + data


def udp(data: bytes) -> bytes:
    return struct.pack(">HHHH", 1000, 53, 8 + len(data), 0) + data


def ethernet(payload: bytes, kind: int = 0x0800) -> bytes:
    return MAC[:5] + b"\x99" + MAC + struct.pack(">H", kind) + payload


def ppi(kind: int, value: int) -> bytes:
    return struct.pack("<IIII", 16, kind, 12, value)


def rndis_packet(frame: bytes, *information: bytes) -> bytes:
    extra = b"".join(information)
    length = 44 + len(extra) + len(frame)
    return struct.pack(
        "<IIIIIIIIIII", 1, length, 36 + len(extra), len(frame), 0, 0, 0,
        36 if extra else 0, len(extra), 0, 0,
    ) + extra + frame  # fmt: skip


class Received(NamedTuple):
    """A frame as the driver gets it: the sums' word is None without that information."""

    frame: bytes
    sums: int | None
    channel: int
    parts: int = 1


class NetGuest:
    """A driver on one primary channel, with its buffers."""

    def __init__(
        self, guest: Guest, channel: GuestChannel, receive_pages: int = 64, send_pages: int = 6
    ) -> None:
        self.guest, self.channels = guest, [channel]
        self.receive_pages = guest.pages(receive_pages, scattered=True)
        self.send_pages = guest.pages(send_pages)
        self.transaction, self.request = 0x100, 0
        self.section = self.sections = self.send_section = 0
        self.receive_gpadl = self.send_gpadl = 0
        self.frames: list[Received] = []
        self.replies: list[bytes] = []
        self.indications: list[int] = []
        self.completions: list[Packet] = []
        self.hold = False  # keep sections instead of giving them back
        self.held: list[tuple[GuestChannel, int]] = []

    @property
    def channel(self) -> GuestChannel:
        return self.channels[0]

    def nvsp(self, kind: int, *words: int, wanted: bool = True) -> bytes:
        """Send a control message; return the completion's data, b"" if none came."""
        self.transaction += 1
        data = struct.pack(f"<{1 + len(words)}I", kind, *words).ljust(40, b"\0")
        self.channel.send(packet(6, data, self.transaction, flags=int(wanted)))
        self.poll()
        found = [one for one in self.completions if one.transaction == self.transaction]
        self.completions.clear()
        return found[0].data if found else b""

    def initialize(self, version: int = 0x60001, mtu: int = 1500) -> None:
        """All that Linux does until frames flow."""
        kind, got, _, status = struct.unpack_from("<IIII", self.nvsp(1, version, version))
        assert (kind, got, status) == (2, version, 1)
        if version >= 0x30002:
            self.nvsp(125, mtu + 14, 0, 0xAC, 0, wanted=False)
        self.nvsp(100, 6, 30, wanted=False)
        self.lend_buffers()
        self.start()

    def lend_buffers(self) -> None:
        self.receive_gpadl = self.guest.lend(self.channel.relid, self.receive_pages)
        answer = struct.unpack_from("<7I", self.nvsp(101, self.receive_gpadl, RECEIVE_ID))
        kind, status, count, offset, self.section, self.sections, end = answer
        assert (kind, status, count, offset) == (102, 1, 1, 0)
        assert end == self.section * self.sections <= len(self.receive_pages) * PAGE
        self.send_gpadl = self.guest.lend(self.channel.relid, self.send_pages)
        kind, status, self.send_section = struct.unpack_from(
            "<III", self.nvsp(104, self.send_gpadl, 0)
        )
        assert (kind, status) == (105, 1)

    def start(self) -> None:
        assert struct.unpack_from("<IIIIII", self.rndis(2, 1, 0, 0x4000))[3] == 0
        self.set(0x0001010E, struct.pack("<I", 0x0D))

    # RNDIS control

    def rndis(self, kind: int, *words: int, data: bytes = b"") -> bytes:
        """Send a control message with a fresh request id; return the reply."""
        self.request += 1
        body = struct.pack(f"<{1 + len(words)}I", self.request, *words) + data
        self.send_messages(struct.pack("<II", kind, 8 + len(body)) + body, channel_type=1)
        replies, self.replies = self.replies, []
        self.completions.clear()
        if not replies:
            return b""
        assert len(replies) == 1
        head = struct.unpack_from("<III", replies[0])
        assert head[:2] == (kind | 0x80000000, len(replies[0]))
        if kind != 6:
            assert head[2] == self.request
        return replies[0]

    def query(self, oid: int, length: int = 0) -> bytes | None:
        """Return the data of an OID, None if it is refused."""
        reply = self.rndis(4, oid, length, 20, 0)
        status, size, offset = struct.unpack_from("<III", reply, 12)
        return None if status else reply[8 + offset : 8 + offset + size]

    def set(self, oid: int, data: bytes) -> int:
        """Return the status."""
        return struct.unpack_from("<I", self.rndis(5, oid, len(data), 20, 0, data=data), 12)[0]

    # data

    def put(
        self, data: bytes, section: int | None = None, channel_type: int = 0,
        channel: int = 0, offset: int = 0, inside: int = 0,
    ) -> None:  # fmt: skip
        """Put a packet with RNDIS messages into the ring, in a section or in guest pages.

        :param inside: the first bytes, to be in section 0 when the rest is in pages.
        """
        self.transaction += 1
        if inside:
            self.guest.memory.write(self.send_pages[0] * PAGE, data[:inside])
            data = data[inside:]
        size = len(data) if section is not None else 0
        message = struct.pack(
            "<IIII", 107, channel_type,
            0 if inside else NO_SECTION if section is None else section, inside or size,
        ).ljust(40, b"\0")
        if section is not None:
            at = self.send_pages[0] * PAGE + section * self.send_section
            self.guest.memory.write(at, data)
            one = packet(6, message, self.transaction)
        else:
            pages = self.guest.pages((offset + len(data) + PAGE - 1) // PAGE)
            self.guest.memory.write(pages[0] * PAGE + offset, data)
            one = packet(9, message, self.transaction,
                         extra=gpa_ranges([(len(data), offset, pages)]))  # fmt: skip
        self.channels[channel].put(one)

    def send_messages(self, data: bytes, **options) -> None:
        self.put(data, **options)
        self.channels[options.get("channel", 0)].signal()
        self.poll()

    def transmit(self, frame: bytes, *information: bytes, **options) -> None:
        self.send_messages(rndis_packet(frame, *information), **options)

    def poll(self) -> None:
        """Take all packets; frames, replies and completions are kept, sections given back."""
        for channel in self.channels:
            for one in channel.receive():
                if one.kind == 11:
                    self.completions.append(one)
                elif one.kind == 7:
                    self._transfer(channel, one)
                else:
                    assert one.kind == 6
                    self.replies.append(one.data)

    def _transfer(self, channel: GuestChannel, one: Packet) -> None:
        kind, channel_type, section, _ = struct.unpack_from("<IIII", one.data)
        assert (kind, section) == (107, NO_SECTION)
        assert one.flags == 1
        self.parts: list[Received] = []
        ranges = self.ranges_of[one.transaction]
        for number, (length, offset) in enumerate(ranges):
            assert length <= (self.section or length)
            message = self.read_buffer(offset, length)
            code, total = struct.unpack_from("<II", message)
            assert total == length
            if code == 1:
                assert channel_type == 0
                self._frame(message, channel.relid, number == len(ranges) - 1)
            elif code == 7:
                self.indications.append(struct.unpack_from("<I", message, 8)[0])
            else:
                assert channel_type == 1
                self.replies.append(message)
        if self.hold:
            self.held.append((channel, one.transaction))
        else:
            self.give_back(channel, one.transaction)

    def give_back(self, channel: GuestChannel, transaction: int) -> None:
        channel.send(packet(11, struct.pack("<II", 108, 1), transaction, flags=0))

    def read_buffer(self, offset: int, length: int) -> bytes:
        assert offset + length <= len(self.receive_pages) * PAGE
        found = b""
        while length:
            count = min(length, PAGE - offset % PAGE)
            found += self.guest.memory.read(
                self.receive_pages[offset // PAGE] * PAGE + offset % PAGE, count
            )
            offset, length = offset + count, length - count
        return found

    def _frame(self, message: bytes, relid: int, is_last: bool) -> None:
        """Take a message as Linux does: parts of a coalesced packet by their ids."""
        offset, length = struct.unpack_from("<II", message, 8)
        at, end = struct.unpack_from("<II", message, 28)
        at, end, found = at + 8, at + 8 + end, {}
        while at < end:
            size, kind, place, value = struct.unpack_from("<IIII", message, at)
            assert (size, place) == (16, 12)
            found[kind] = value
            at += size
        assert at == end
        assert found.keys() <= {0, 1 | 1 << 31}
        one = Received(message[8 + offset : 8 + offset + length], found.get(0), relid)
        assert len(one.frame) == length
        if 1 | 1 << 31 not in found:
            assert not self.parts, "a frame between the parts of another"
            self.frames.append(one)
            return
        version, flags = found[1 | 1 << 31] & 0xFF, found[1 | 1 << 31] >> 8 & 0xFF
        assert version == 1
        assert flags & 1
        assert bool(flags & 2) == (not self.parts), "the first, and only it, says so"
        self.parts.append(one)
        if flags & 4:
            whole = b"".join(part.frame for part in self.parts)
            self.frames.append(self.parts[0]._replace(frame=whole, parts=len(self.parts)))
            self.parts = []
        else:
            assert not is_last, "Linux drops what does not end with its packet"


def watch_ranges(driver: NetGuest) -> None:
    """Keep each transfer-page packet's ranges: GuestChannel gives only what is behind them."""
    driver.ranges_of = {}
    for channel in driver.channels:
        watch(driver, channel)


def watch(driver: NetGuest, channel: GuestChannel) -> None:
    original = channel._copy_out

    def copy_out(at: int, length: int) -> bytes:
        data = original(at, length)
        if length > 24 and data[:2] == b"\7\0":
            transaction, identity, _, count = struct.unpack_from("<QHHI", data, 8)
            assert identity == RECEIVE_ID
            assert struct.unpack_from("<H", data, 2)[0] * 8 == 24 + 8 * count
            ranges = struct.unpack_from(f"<{2 * count}I", data, 24)
            driver.ranges_of[transaction] = list(zip(ranges[::2], ranges[1::2], strict=True))
        return data

    channel._copy_out = copy_out


def make(guest: Guest, **options) -> NetGuest:
    """Connect and open the first offer; nothing of NVSP yet."""
    offer = guest.connect()[0]
    driver = NetGuest(guest, guest.open(offer.relid), **options)
    watch_ranges(driver)
    return driver


def start(guest: Guest, version: int = 0x60001, mtu: int = 1500, **options) -> NetGuest:
    """Connect, open, initialize; frames flow."""
    driver = make(guest, **options)
    driver.initialize(version, mtu)
    return driver


def add_queues(driver: NetGuest, count: int) -> None:
    """Ask for sub-channels and open them."""
    kind, status, given = struct.unpack_from("<III", driver.nvsp(133, 1, count))
    assert (kind, status, given) == (133, 1, count)
    driver.guest.received()
    offers = [one for one in driver.guest.offers.values() if one.sub_index]
    for offer in sorted(offers, key=lambda one: one.sub_index):
        channel = driver.guest.open(offer.relid, vp=offer.sub_index)
        watch(driver, channel)
        driver.channels.append(channel)


def right_sums(frame: bytes) -> bool:
    """Tell, without the code under test, whether all checksums of *frame* are right."""

    def folded(data: bytes) -> int:
        data += b"\0" * (len(data) & 1)
        value = sum(struct.unpack(f">{len(data) // 2}H", data))
        while value >> 16:
            value = (value & 0xFFFF) + (value >> 16)
        return value

    at = frames.layout(frame)
    assert at is not None
    body = frame[at.transport : at.end]
    if at.version == 4:
        assert folded(frame[at.ip : at.transport]) == 0xFFFF
        addresses = frame[at.ip + 12 : at.ip + 20]
    else:
        addresses = frame[at.ip + 8 : at.ip + 40]
    return folded(addresses + struct.pack(">HH", at.protocol, len(body)) + body) == 0xFFFF


def rules(driver: NetGuest) -> list[str]:
    """Return the rules that this guest broke, in order."""
    return [one.rule for one in driver.guest.server.violations]


#: the least that is of use: a datagram
FRAME = ethernet(ipv4(udp(b"hello"), 17))
