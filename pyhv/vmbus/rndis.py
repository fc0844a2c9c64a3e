"""RNDIS: what a guest asks of a network card (control), and frames with what it left to do (data).

[MS-RNDIS]; linux drivers/net/hyperv/rndis_filter.c. A message arrives as a private copy; every
length and offset in it is the guest's.
"""

from __future__ import annotations

from . import netvsc_protocol as n
from .rndis_oids import QUERY, SET
from .rules import BrokenRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .netvsc import Netvsc

_packet = n.RNDIS_PACKET.unpack_from
_ppi = n.PPI.unpack_from
LEAST_FRAME = 14
MAX_FRAME = 65536 + 64
FRAME_HEADERS = 160  # Ethernet with tags, IP with options, TCP with options, and some
NO_REPLY = b""


def _short(message: bytes, least: int) -> None:
    if len(message) < least:
        raise BrokenRule("packet-short", f"RNDIS message of {len(message)} bytes, {least} needed")


def _initialize(adapter: Netvsc, message: bytes) -> bytes:
    _short(message, n.RNDIS_INIT.size)
    request = n.RNDIS_INIT.unpack_from(message)[0]
    adapter.initialized = True
    return n.RNDIS_INIT_COMPLETE.pack(
        n.RNDIS_MSG_INIT | n.RNDIS_MSG_COMPLETION, n.RNDIS_INIT_COMPLETE.size, request,
        n.RNDIS_STATUS_SUCCESS, 1, 0, n.RNDIS_DF_CONNECTIONLESS, 0, n.RNDIS_MAX_PACKETS,
        n.RNDIS_MAX_TRANSFER, n.RNDIS_ALIGNMENT,
    )  # fmt: skip


def _halt(adapter: Netvsc, message: bytes) -> bytes:
    adapter.halt()
    return NO_REPLY


def _query(adapter: Netvsc, message: bytes) -> bytes:
    request, oid, length, data = _request(message)
    answer = QUERY.get(oid)
    if answer is None or not adapter.initialized:
        status, data = n.RNDIS_STATUS_NOT_SUPPORTED, b""
    else:
        status, data = n.RNDIS_STATUS_SUCCESS, answer(adapter, length)
    kind, size = n.RNDIS_MSG_QUERY | n.RNDIS_MSG_COMPLETION, n.RNDIS_QUERY_COMPLETE.size
    offset = size - n.OFFSETS_FROM if data else 0
    head = n.RNDIS_QUERY_COMPLETE.pack(kind, size + len(data), request, status, len(data), offset)
    return head + data


def _set(adapter: Netvsc, message: bytes) -> bytes:
    request, oid, _, data = _request(message)
    change = SET.get(oid)
    if change is None or not adapter.initialized:
        status = n.RNDIS_STATUS_NOT_SUPPORTED
    elif change(adapter, data):
        status = n.RNDIS_STATUS_SUCCESS
    else:
        status = n.RNDIS_STATUS_INVALID_DATA
    return _status_only(n.RNDIS_MSG_SET, request, status)


def _status_only(kind: int, request: int, status: int) -> bytes:
    size = n.RNDIS_SET_COMPLETE.size
    return n.RNDIS_SET_COMPLETE.pack(kind | n.RNDIS_MSG_COMPLETION, size, request, status)


def _request(message: bytes) -> tuple[int, int, int, bytes]:
    """Return request id, OID, buffer length and the data that is there of a QUERY or SET."""
    _short(message, n.RNDIS_REQUEST.size)
    request, oid, length, offset = n.RNDIS_REQUEST.unpack_from(message)
    at = offset + n.OFFSETS_FROM
    return request, oid, length, message[at : at + length]


def _reset(adapter: Netvsc, message: bytes) -> bytes:
    kind, size = n.RNDIS_MSG_RESET | n.RNDIS_MSG_COMPLETION, n.RNDIS_RESET_COMPLETE.size
    return n.RNDIS_RESET_COMPLETE.pack(kind, size, n.RNDIS_STATUS_SUCCESS, 0)


def _keep_alive(adapter: Netvsc, message: bytes) -> bytes:
    _short(message, 12)
    request = int.from_bytes(message[8:12], "little")
    return _status_only(n.RNDIS_MSG_KEEPALIVE, request, n.RNDIS_STATUS_SUCCESS)


#: what a guest may ask -> (adapter, message) -> the reply, NO_REPLY for none
CONTROL: dict[int, Callable[[Netvsc, bytes], bytes]] = {
    n.RNDIS_MSG_INIT: _initialize,
    n.RNDIS_MSG_HALT: _halt,
    n.RNDIS_MSG_QUERY: _query,
    n.RNDIS_MSG_SET: _set,
    n.RNDIS_MSG_RESET: _reset,
    n.RNDIS_MSG_KEEPALIVE: _keep_alive,
}


def control(adapter: Netvsc, message: bytes) -> bytes:
    """Serve one control message; return the reply.

    :raises BrokenRule: a type that guests do not send, or a message cut short.
    """
    _short(message, n.RNDIS_HEADER.size)
    kind, length = n.RNDIS_HEADER.unpack_from(message)
    serve = CONTROL.get(kind)
    if serve is None:
        raise BrokenRule("packet-type", f"RNDIS control message {kind:#x}")
    if length > len(message):
        raise BrokenRule("packet-short", f"{len(message)} bytes of a message of {length}")
    return serve(adapter, message[:length])


def indicate(up: bool) -> bytes:
    """Return the message that tells of the link."""
    status = n.RNDIS_STATUS_MEDIA_CONNECT if up else n.RNDIS_STATUS_MEDIA_DISCONNECT
    return n.RNDIS_INDICATE.pack(n.RNDIS_MSG_INDICATE, n.RNDIS_INDICATE.size, status, 0, 0)


def packets(data: bytes) -> list[tuple[bytes, int, int, int | None]]:
    """Return (frame, CSUM_* bits, MSS, VLAN tag or None) of each packet message in *data*.

    :raises BrokenRule: lengths that do not add up, or what is no packet message.
    """
    found, at, size = [], 0, len(data)
    while size - at >= n.RNDIS_PACKET_SIZE:
        kind, length, offset, count, ppi, ppi_length = _packet(data, at)
        offset += n.OFFSETS_FROM
        if kind != n.RNDIS_MSG_PACKET:
            raise BrokenRule("packet-type", f"RNDIS data message {kind:#x}")
        if (
            not n.RNDIS_PACKET_SIZE <= length <= size - at
            or offset + count > length
            or not LEAST_FRAME <= count <= MAX_FRAME
        ):
            raise BrokenRule("packet-ranges", f"RNDIS: {count} bytes at {offset} of {length}")
        start = at + offset
        frame = data[start : start + count]
        if ppi_length:
            first = at + n.OFFSETS_FROM + ppi
            if ppi + n.OFFSETS_FROM + ppi_length > length:
                raise BrokenRule("packet-ranges", f"RNDIS: {ppi_length} bytes of PPI at {ppi}")
            found.append((frame, *information(data, first, first + ppi_length)))
        else:
            found.append((frame, 0, 0, None))
        at += length
        if len(found) > n.RNDIS_MAX_PACKETS:
            raise BrokenRule("packet-ranges", f"RNDIS: more than {n.RNDIS_MAX_PACKETS} packets")
    if not found:
        raise BrokenRule("packet-short", f"RNDIS: a packet message of {size} bytes")
    return found  # less than a header behind the last one is padding


def only_packet(begin: bytes, size: int) -> tuple[int, int, int, int, int | None] | None:
    """Return where the frame of a large message begins, its bytes, and what :func:`packets` tells.

    :param begin: the first of its *size* bytes, with all headers. None: it is for :func:`packets`.
    """
    if len(begin) < n.RNDIS_PACKET_SIZE:
        return None
    kind, length, offset, count, ppi, ppi_length = _packet(begin, 0)
    offset += n.OFFSETS_FROM
    if (
        kind != n.RNDIS_MSG_PACKET
        or not 0 <= size - length < n.RNDIS_PACKET_SIZE  # padding may follow
        or offset + count > length
        or not LEAST_FRAME <= count <= MAX_FRAME
        or offset + FRAME_HEADERS > len(begin)
        or ppi + n.OFFSETS_FROM + ppi_length > offset
    ):
        return None
    if not ppi_length:
        return offset, count, 0, 0, None
    at = n.OFFSETS_FROM + ppi
    return offset, count, *information(begin, at, at + ppi_length)


def information(data: bytes, at: int, end: int) -> tuple[int, int, int | None]:
    """Return (CSUM_* bits, MSS, VLAN tag) of the per-packet information in ``data[at:end]``."""
    requested, mss, tag = 0, 0, None
    while end - at >= n.PPI.size:
        size, kind, offset = _ppi(data, at)
        if not n.PPI.size <= size <= end - at:
            raise BrokenRule("packet-ranges", f"RNDIS: PPI of {size} bytes, {end - at} left")
        if offset + 4 <= size:
            value = int.from_bytes(data[at + offset : at + offset + 4], "little")
            if kind == n.PPI_TCPIP_CHKSUM:
                requested = value & 0x1F
            elif kind == n.PPI_TCP_LARGESEND:
                mss = value & n.LSO_MSS
            elif kind == n.PPI_IEEE_8021Q:
                tag = (value & n.VLAN_PRIORITY) << 13 | (value & n.VLAN_CFI) << 9
                tag |= value >> n.VLAN_ID_SHIFT & n.VLAN_ID
        at += size
    return requested, mss, tag
