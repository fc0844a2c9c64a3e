"""Ethernet frames as bytes: where their headers are, checksums, TCP segmentation, VLAN tags.

A guest leaves checksums and the cutting of large TCP frames to its device ("offloads"); what they
mean is RFC 1071 (the sum), RFC 9293 (TCP), RFC 768 (UDP). Frames come from a guest: every length
is checked, and a frame that does not hold what it says is passed on as it is.
"""

from __future__ import annotations

from ..record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

ETH_HEADER = 14
ETH_MAX = 65535 + ETH_HEADER + 8  # the largest IP packet, two VLAN tags
TYPE_IPV4, TYPE_IPV6 = 0x0800, 0x86DD
PLAIN_IPV4 = b"\x08\x00\x45"  # no options
VLAN_TYPES = (0x8100, 0x88A8)
TCP, UDP = 6, 17
CHECKSUM_AT = {TCP: 16, UDP: 6}
LEAST_HEADER = {TCP: 20, UDP: 8}
#: hop-by-hop, routing, fragment, destination options: (next header, length in 8 bytes - 1)
IPV6_EXTENSIONS = (0, 43, 60)
MAX_EXTENSIONS = 8
TCP_FIN, TCP_PSH, TCP_CWR = 0x01, 0x08, 0x80
FOLD_BYTES = 2048
LEAST_MSS = 48  # linux TCP_MIN_SND_MSS; smaller would let one packet become thousands

# offload requests of a frame; the bits are those of NDIS_TCP_IP_CHECKSUM_PACKET_INFO
CSUM_IPV4, CSUM_IPV6, CSUM_TCP, CSUM_UDP, CSUM_IP_HEADER = 1, 2, 4, 8, 16


class Layout(Record):
    """Where a frame's headers are: offsets of the IP header, the transport header, the end.

    ``version`` 4 or 6; ``protocol`` TCP, UDP or another; ``end`` is 0 where the IP header does not
    tell (a large frame, whose length field is left to the device).
    """

    version: int
    protocol: int
    ip: int
    transport: int
    end: int


def _word(frame: bytes, at: int) -> int:
    return frame[at] << 8 | frame[at + 1]


def layout(frame: bytes, whole: int = 0) -> Layout | None:
    """Return where the headers of *frame* are; None: no IP, a fragment, or headers cut short.

    :param whole: bytes of the frame, if only its begin is given.
    """
    at, size = 12, len(frame)
    if size < ETH_HEADER + 20:
        return None
    for _ in range(2):
        if _word(frame, at) in VLAN_TYPES:
            at += 4
    kind, ip = _word(frame, at), at + 2
    if kind == TYPE_IPV4 and size >= ip + 20 and frame[ip] >> 4 == 4:
        transport = ip + (frame[ip] & 15) * 4
        if transport < ip + 20 or _word(frame, ip + 6) & 0x3FFF:  # more fragments, or an offset
            return None
        protocol, length = frame[ip + 9], _word(frame, ip + 2)
        end = ip + length if length else 0
    elif kind == TYPE_IPV6 and size >= ip + 40 and frame[ip] >> 4 == 6:
        protocol, transport, length = frame[ip + 6], ip + 40, _word(frame, ip + 4)
        end = ip + 40 + length if length else 0
        for _ in range(MAX_EXTENSIONS):
            if protocol not in IPV6_EXTENSIONS or transport + 8 > size:
                break
            protocol, transport = frame[transport], transport + 8 + frame[transport + 1] * 8
    else:
        return None
    least = LEAST_HEADER.get(protocol, 0)
    if transport + least > size or end > (whole or size) or end and end < transport + least:
        return None
    return Layout(4 if kind == TYPE_IPV4 else 6, protocol, ip, transport, end)


def plain_protocol(start: bytes) -> int:
    """Return the IP protocol of a frame that begins with *start*.

    0: no IP, a fragment, behind a VLAN tag, cut short; extension headers are a protocol.
    """
    kind = start[12:14]
    if kind == b"\x08\x00" and len(start) >= 34 and not (start[20] & 0x3F or start[21]):
        return start[23]
    if kind == b"\x86\xdd" and len(start) >= 54:
        return start[20]
    return 0


def total(data: bytes | memoryview) -> int:
    """Return the 16-bit big-endian words of *data* summed modulo 0xFFFF.

    65536 is 1 modulo 65535, so the number that the bytes spell is congruent to their sum: one
    conversion and one division, both in C. A long one is folded before, which is cheaper.
    """
    value = int.from_bytes(data, "big")
    if len(data) & 1:
        value <<= 8
    if len(data) > FOLD_BYTES:
        bits = value.bit_length()
        while bits > 8 * FOLD_BYTES:
            bits = (bits >> 5) + 1 << 4
            value = (value >> bits) + (value & ((1 << bits) - 1))
    return value % 0xFFFF


def _complement(value: int) -> int:
    """Return the checksum for a sum whose words are not all 0 (a pseudo header never is)."""
    return 0xFFFF - (value % 0xFFFF) if value % 0xFFFF else 0


def checksum(data: bytes | memoryview) -> int:
    """Return the Internet checksum of *data* (RFC 1071)."""
    value = total(data)
    return 0xFFFF - value if value else 0 if any(data) else 0xFFFF


def pseudo(frame: bytes | bytearray, at: Layout, length: int) -> int:
    """Return the sum of the pseudo header for *length* bytes of TCP or UDP, modulo 0xFFFF."""
    first, size = (at.ip + 12, 8) if at.version == 4 else (at.ip + 8, 32)
    return (total(frame[first : first + size]) + at.protocol + length) % 0xFFFF


def _put(frame: bytearray, at: int, value: int) -> None:
    frame[at], frame[at + 1] = value >> 8, value & 0xFF


def put_ip_checksum(frame: bytearray, at: Layout) -> None:
    """Fill in the header checksum of IPv4; IPv6 has none."""
    if at.version == 4:
        _put(frame, at.ip + 10, 0)
        _put(frame, at.ip + 10, checksum(bytes(frame[at.ip : at.ip + (frame[at.ip] & 15) * 4])))


def put_transport_checksum(frame: bytearray, at: Layout, end: int) -> None:
    """Fill in the checksum of the TCP segment or UDP datagram that ends at *end*."""
    field = at.transport + CHECKSUM_AT[at.protocol]
    _put(frame, field, 0)
    value = pseudo(frame, at, end - at.transport) + total(bytes(frame[at.transport : end]))
    value = _complement(value)
    if at.protocol == UDP and not value:
        value = 0xFFFF  # 0 means "no checksum"
    _put(frame, field, value)


def put_pseudo(frame: bytearray, at: Layout, length: int) -> None:
    """Fill in only the pseudo header's sum: what a kernel completes (CHECKSUM_PARTIAL)."""
    _put(frame, at.transport + CHECKSUM_AT[at.protocol], pseudo(frame, at, length))


def put_length(frame: bytearray, at: Layout, whole: int) -> None:
    """Fill in the IP length of a frame of *whole* bytes."""
    _put(frame, at.ip + (2 if at.version == 4 else 4),
         whole - at.ip - (0 if at.version == 4 else 40))  # fmt: skip


def wants_transport(requested: int, protocol: int) -> bool:
    """Tell whether the bits CSUM_* ask for the checksum of *protocol*."""
    return bool(requested & {TCP: CSUM_TCP, UDP: CSUM_UDP}.get(protocol, 0))


def with_checksums(frame: bytes, requested: int) -> bytes:
    """Return *frame* with the checksums that the bits CSUM_* ask for."""
    if frame[12:15] == PLAIN_IPV4 and len(frame) > 54 and not (frame[20] & 0x3F or frame[21]):
        done = _plain_checksums(frame, requested)
        if done is not None:
            return done
    at = layout(frame)
    if at is None:
        return frame
    done = bytearray(frame)
    if requested & CSUM_IP_HEADER:
        put_ip_checksum(done, at)
    if wants_transport(requested, at.protocol):
        put_transport_checksum(done, at, at.end or len(frame))
    return bytes(done)


def _plain_checksums(frame: bytes, requested: int) -> bytes | None:
    """Do the usual case in half the time: IPv4 without options. None: not for here."""
    protocol, end = frame[23], ETH_HEADER + _word(frame, 16)
    place = CHECKSUM_AT.get(protocol)
    if place is None or not 54 <= end <= len(frame):
        return None
    done = bytearray(frame)
    if requested & CSUM_IP_HEADER:
        value = _complement(total(frame[14:34]) - _word(frame, 24))
        done[24:26] = value.to_bytes(2, "big")
    if requested & (CSUM_TCP if protocol == TCP else CSUM_UDP):
        place += 34
        # addresses and segment lie one behind the other; what is in the field is taken out again
        value = total(frame[26:end]) - _word(frame, place) + protocol + end - 34
        value = _complement(value) or (0 if protocol == TCP else 0xFFFF)
        done[place : place + 2] = value.to_bytes(2, "big")
    return bytes(done)


def tcp_headers_end(frame: bytes, at: Layout | None) -> int:
    """Return where the TCP payload begins; 0: no whole TCP header."""
    if at is None or at.protocol != TCP:
        return 0
    length = (frame[at.transport + 12] >> 4) * 4
    return at.transport + length if 20 <= length <= len(frame) - at.transport else 0


def large(frame: bytes) -> bytes | None:
    """Return a large TCP frame whole, its lengths and checksums filled in; None: it is none."""
    at = layout(frame)
    if at is None or not tcp_headers_end(frame, at) or len(frame) - at.ip > 0xFFFF:
        return None
    done = bytearray(frame)
    put_length(done, at, len(done))
    put_ip_checksum(done, at)
    put_transport_checksum(done, at, len(done))
    return bytes(done)


def segments(frame: bytes, mss: int) -> Iterator[bytes]:
    """Cut a large TCP frame into frames of *mss* payload bytes each, as a sender would.

    Nothing comes of a frame that is no TCP, or of an *mss* below LEAST_MSS.
    """
    at = layout(frame)
    payload = tcp_headers_end(frame, at)
    if not payload or mss < LEAST_MSS:
        return
    head = bytearray(frame[:payload])
    sequence = int.from_bytes(head[at.transport + 4 : at.transport + 8], "big")
    identity, flags = _word(frame, at.ip + 4), head[at.transport + 13]
    last = max(0, len(frame) - payload - 1) // mss
    tcp, ip, version = at.transport, at.ip, at.version
    field = tcp + CHECKSUM_AT[TCP]
    _put(head, field, 0)
    # what is the same in all of them is summed once
    constant = pseudo(head, at, 0)
    for number in range(last + 1):
        data = frame[payload + number * mss : payload + (number + 1) * mss]
        place = (sequence + number * mss) & 0xFFFFFFFF
        head[tcp + 4 : tcp + 8] = place.to_bytes(4, "big")
        now = flags
        if number < last:
            now &= ~(TCP_FIN | TCP_PSH)
        if number:
            now &= ~TCP_CWR
        head[tcp + 13] = now
        size = payload + len(data)
        if version == 4:
            _put(head, ip + 2, size - ip)
            _put(head, ip + 4, (identity + number) & 0xFFFF)
            put_ip_checksum(head, at)
        else:
            _put(head, ip + 4, size - ip - 40)
        _put(head, field, 0)
        value = constant + size - tcp + total(head[tcp:]) + total(data)
        _put(head, field, _complement(value))
        yield bytes(head) + data


def tagged(frame: bytes, tci: int) -> bytes:
    """Return *frame* with an 802.1Q tag; *tci*: priority << 13 | DEI << 12 | VLAN."""
    return frame[:12] + (0x81000000 | tci).to_bytes(4, "big") + frame[12:]


def finished(frame: bytes, requested: int, mss: int, whole: bool = False) -> list[bytes]:
    """Do in software what a guest asked of its device; return the frames for the wire.

    :param requested: CSUM_* bits. *mss*: 0, or the payload bytes per frame of a large send.
    :param whole: the other end takes TCP frames of up to 64 KiB: they are not cut.
    """
    if mss:
        done = large(frame) if whole else None
        return [done] if done is not None else list(segments(frame, mss))
    return [with_checksums(frame, requested)] if requested else [frame]
