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
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_ECN = 0, 1, 4, 0x80
PLAIN = HEADER.pack(0, GSO_NONE, 0, 0, 0, 0)
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
