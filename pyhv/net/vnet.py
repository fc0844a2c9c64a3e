"""The header before each frame of a tap (virtio_net_hdr): what its sender left undone in the frame.

Source: linux include/uapi/linux/virtio_net.h, include/linux/virtio_net.h. A header from the other
end is believed as little as a frame: what does not add up gives no frame.
"""

from __future__ import annotations

from struct import Struct

from . import frames

# 0:1 flags, 1:1 GSO type, 2:2 header bytes, 4:2 GSO size, 6:2 sum from, 8:2 sum at, from there
HEADER = Struct("<BBHHHH")
NEEDS_CSUM, DATA_VALID = 1, 2
CHECKED = NEEDS_CSUM | DATA_VALID  # its receiver need not look: right, or made on this host
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_ECN = 0, 1, 4, 0x80
PLAIN = HEADER.pack(0, GSO_NONE, 0, 0, 0, 0)
_ipv4 = Struct(">HHHIHQ").unpack_from  # the second is the length, the fifth the checksum
LARGE = (GSO_TCPV4, GSO_TCPV6)


def header(frame: bytes | bytearray, at: frames.Layout, payload: int, mss: int) -> bytes:
    """Return the header that leaves the sum of *frame* to the kernel, and with *mss* the cutting.

    :param payload: where the TCP payload begins.
    """
    kind = GSO_NONE
    if mss:
        kind = GSO_TCPV4 if at.version == 4 else GSO_TCPV6
        if frame[at.transport + 13] & frames.TCP_CWR:
            kind |= GSO_ECN
    return HEADER.pack(
        NEEDS_CSUM, kind, payload if mss else 0, mss, at.transport,
        frames.CHECKSUM_AT[at.protocol],
    )  # fmt: skip


def headed(begin: bytes, size: int, requested: int, mss: int) -> bytes:
    """Return *begin*, of a frame of *size* bytes, with its header; empty: it cannot be."""
    if mss and begin[12:15] == frames.PLAIN_IPV4:
        return plain_large(begin, size, mss)
    at = frames.layout(begin, size)
    payload = frames.tcp_headers_end(begin, at)
    if mss and (not payload or not frames.LEAST_MSS <= mss <= 0xFFFF):
        return b""
    if at is None:
        return PLAIN + begin
    done, end = bytearray(begin), at.end or size
    if mss:
        if size - at.ip > 0xFFFF:
            return b""
        frames.put_length(done, at, size)
        end = size
    if mss or requested & frames.CSUM_IP_HEADER:
        frames.put_ip_checksum(done, at)
    if not mss and not frames.wants_transport(requested, at.protocol):
        return PLAIN + done
    frames.put_pseudo(done, at, end - at.transport)
    return header(done, at, payload, mss) + done


def plain_large(begin: bytes, size: int, mss: int) -> bytes:
    """Return *begin*, of a large TCP frame over IPv4 without options, with its header.

    It is :func:`header` and all that belongs to it, in a third of the time. Empty: it cannot be.

    :param begin: all headers at least. *size*: of the frame.
    """
    if len(begin) < 54 or begin[23] != frames.TCP or begin[20] & 0x3F or begin[21]:
        return b""
    payload, length = 34 + (begin[46] >> 4) * 4, size - frames.ETH_HEADER
    if (
        not 54 <= payload <= len(begin)
        or not frames.LEAST_MSS <= mss <= 0xFFFF
        or length > 0xFFFF
    ):
        return b""
    kind = GSO_TCPV4 | GSO_ECN if begin[47] & frames.TCP_CWR else GSO_TCPV4
    first, stated, second, third, _, addresses = _ipv4(begin, 14)
    if stated and not 40 <= stated <= length:
        return b""
    # modulo 0xFFFF: a number is the sum of its 16-bit words (frames.total)
    value = (first + length + second + third + addresses) % 0xFFFF
    partial = (addresses + frames.TCP + length - 20) % 0xFFFF
    return b"".join((
        HEADER.pack(NEEDS_CSUM, kind, payload, mss, 34, 16), begin[:16],
        length.to_bytes(2, "big"), begin[18:24], ((0xFFFF - value) % 0xFFFF).to_bytes(2, "big"),
        begin[26:50], partial.to_bytes(2, "big"), begin[52:],
    ))  # fmt: skip


def of_tcp(head: bytes | bytearray) -> bool:
    """Tell whether *head* can be that of a TCP frame."""
    return head[1] & ~GSO_ECN in (GSO_NONE, *LARGE)


def finished(head: bytes | bytearray, frame: bytes) -> list[bytes]:
    """Return *frame* as a wire would carry it: cut, its sums filled in. Nothing: it cannot be."""
    flags, kind, _, mss, start, offset = HEADER.unpack(head)
    kind &= ~GSO_ECN
    if kind in LARGE:
        return list(frames.segments(frame, mss))
    if kind != GSO_NONE:
        return []
    if not flags & NEEDS_CSUM:
        return [frame]
    place = start + offset
    if start < frames.ETH_HEADER or place + 2 > len(frame):
        return []
    # the field has the pseudo header's sum already
    value = frames.checksum(frame[start:]) or 0xFFFF  # of UDP, 0 says that there is none
    return [frame[:place] + value.to_bytes(2, "big") + frame[place + 2 :]]


def spread(rest: memoryview, at: int, pieces: list[memoryview]) -> list[memoryview]:
    """Copy *rest* behind the first *at* bytes of *pieces*; return those."""
    for piece in pieces:
        if not rest:
            break
        if at >= len(piece):
            at -= len(piece)
            continue
        part = rest[: len(piece) - at]
        piece[at : at + len(part)] = part
        rest, at = rest[len(part) :], 0
    return pieces
