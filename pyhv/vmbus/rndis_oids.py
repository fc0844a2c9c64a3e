"""The OIDs of a network card as tables: what a query returns, what a set changes.

[MS-RNDIS], NDIS 6.30; which ones guests need: linux drivers/net/hyperv/rndis_filter.c, and iPXE,
which asks for addresses, filter and link.
"""

from __future__ import annotations

from . import netvsc_protocol as n

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .netvsc import Netvsc

LINK_SPEED = 100_000_000  # in 100 bit/s: 10 Gbit/s
FRIENDLY_NAME = "pyhv network adapter"  # Linux shows it as ifalias
VENDOR = "pyhv"
ETHERNET = 0  # NDIS_MEDIUM_802_3
CONNECTED, DISCONNECTED = 0, 1
MULTICAST_MOST = 32
IP6_CHECKSUMS = n.CAP_IP6EXT | n.CAP_TCP | n.CAP_UDP
IP4_CHECKSUMS = n.CAP_IP4 | n.CAP_TCP | n.CAP_UDP
NETWORK_ADDRESS = "NetworkAddress".encode("utf-16-le")


def _u32(value: int) -> Callable[[Netvsc, int], bytes]:
    data = value.to_bytes(4, "little")
    return lambda adapter, length: data


def _supported(adapter: Netvsc, length: int) -> bytes:
    return b"".join(oid.to_bytes(4, "little") for oid in sorted({*QUERY, *SET}))


def _frame_size(adapter: Netvsc, length: int) -> bytes:
    return adapter.mtu.to_bytes(4, "little")


def _total_size(adapter: Netvsc, length: int) -> bytes:
    return (adapter.mtu + 14).to_bytes(4, "little")


def _filter(adapter: Netvsc, length: int) -> bytes:
    return adapter.filter.to_bytes(4, "little")


def _link(adapter: Netvsc, length: int) -> bytes:
    return (CONNECTED if adapter.backend.link else DISCONNECTED).to_bytes(4, "little")


def _permanent(adapter: Netvsc, length: int) -> bytes:
    return adapter.permanent_mac


def _current(adapter: Netvsc, length: int) -> bytes:
    return adapter.mac


def _name(adapter: Netvsc, length: int) -> bytes:
    return (FRIENDLY_NAME + "\0").encode("utf-16-le")


def _counter(name: str) -> Callable[[Netvsc, int], bytes]:
    return lambda adapter, length: (getattr(adapter, name) & 0xFFFFFFFF).to_bytes(4, "little")


def _rss_capabilities(adapter: Netvsc, length: int) -> bytes:
    flags = n.RSS_CAP_TOEPLITZ_TCP | n.RSS_CAP_MESSAGE_SIGNALED
    return n.RSS_CAPABILITIES.pack(
        n.NDIS_OBJECT_TYPE_RSS_CAPABILITIES, 2, n.RSS_CAPABILITIES.size,
        flags | n.RSS_CAP_AT_ISR | n.RSS_CAP_AT_DPC, adapter.most_queues, adapter.most_queues,
        n.RSS_TABLE_ENTRIES,
    )  # fmt: skip


def _offload(adapter: Netvsc, length: int) -> bytes:
    """Checksums both ways, large send, coalescing if both ends can; as long as the guest asks."""
    size = next((size for size in n.OFFLOAD_SIZES if size <= length), n.OFFLOAD_SIZES[-1])
    encapsulation = n.NDIS_OFFLOAD_ENCAP_8023
    head = n.NDIS_OBJECT.pack(n.NDIS_OBJECT_TYPE_OFFLOAD, n.OFFLOAD_REVISION[size], size)
    body = n.OFFLOAD_BODY.pack(
        encapsulation, IP4_CHECKSUMS, encapsulation, IP4_CHECKSUMS,
        encapsulation, IP6_CHECKSUMS, encapsulation, IP6_CHECKSUMS,
        encapsulation, n.LSO_MAX_SIZE, n.LSO_MIN_SEGMENTS,
        encapsulation, n.LSO_MAX_SIZE, n.LSO_MIN_SEGMENTS, n.LSO_IP6,
    )  # fmt: skip
    answer = bytearray((head + body).ljust(size, b"\0"))
    if size >= n.OFFLOAD_RSC.stop and adapter.can_coalesce:
        answer[n.OFFLOAD_RSC] = b"\1\1"
    return bytes(answer)


#: OID -> (adapter, the guest's buffer length) -> data
QUERY: dict[int, Callable[[Netvsc, int], bytes]] = {
    n.OID_GEN_SUPPORTED_LIST: _supported,
    n.OID_GEN_HARDWARE_STATUS: _u32(0),
    n.OID_GEN_MEDIA_SUPPORTED: _u32(ETHERNET),
    n.OID_GEN_MEDIA_IN_USE: _u32(ETHERNET),
    n.OID_GEN_MAXIMUM_FRAME_SIZE: _frame_size,
    n.OID_GEN_LINK_SPEED: _u32(LINK_SPEED),
    n.OID_GEN_TRANSMIT_BLOCK_SIZE: _u32(1),
    n.OID_GEN_RECEIVE_BLOCK_SIZE: _u32(1),
    n.OID_GEN_VENDOR_ID: _u32(0xFFFFFF),
    n.OID_GEN_VENDOR_DESCRIPTION: lambda adapter, length: VENDOR.encode() + b"\0",
    n.OID_GEN_CURRENT_PACKET_FILTER: _filter,
    n.OID_GEN_MAXIMUM_TOTAL_SIZE: _total_size,
    n.OID_GEN_MEDIA_CONNECT_STATUS: _link,
    n.OID_GEN_RECEIVE_SCALE_CAPABILITIES: _rss_capabilities,
    n.OID_GEN_FRIENDLY_NAME: _name,
    n.OID_GEN_XMIT_OK: _counter("sent"),
    n.OID_GEN_RCV_OK: _counter("received"),
    n.OID_GEN_XMIT_ERROR: _u32(0),
    n.OID_GEN_RCV_ERROR: _u32(0),
    n.OID_GEN_RCV_NO_BUFFER: _counter("dropped"),
    n.OID_802_3_PERMANENT_ADDRESS: _permanent,
    n.OID_802_3_CURRENT_ADDRESS: _current,
    n.OID_802_3_MAXIMUM_LIST_SIZE: _u32(MULTICAST_MOST),
    n.OID_TCP_OFFLOAD_CURRENT_CONFIG: _offload,
    n.OID_TCP_OFFLOAD_HARDWARE_CAPABILITIES: _offload,
}


def _set_filter(adapter: Netvsc, data: bytes) -> bool:
    if len(data) < 4:
        return False
    adapter.set_filter(int.from_bytes(data[:4], "little"))
    return True


def _set_multicast(adapter: Netvsc, data: bytes) -> bool:
    """Every multicast frame is passed on; the list is only checked."""
    return len(data) % 6 == 0 and len(data) <= MULTICAST_MOST * 6


def _set_offload(adapter: Netvsc, data: bytes) -> bool:
    """What is sent says by itself what is left to do; what is received can be switched off."""
    if len(data) < n.OFFLOAD_PARAMETERS.size:
        return False
    kind, _, _, _, tcp4, _, _, _ = n.OFFLOAD_PARAMETERS.unpack_from(data)
    if kind != n.NDIS_OBJECT_TYPE_DEFAULT:
        return False
    if tcp4 != n.OFFLOAD_NO_CHANGE:
        adapter.tell_checksums = tcp4 > n.OFFLOAD_TX_ENABLED
    rsc = data[n.PARAMETERS_RSC]
    if len(rsc) == 2 and any(rsc):
        adapter.coalesced = n.OFFLOAD_RSC_DISABLED not in rsc
    adapter.land()
    return True


def _set_rss(adapter: Netvsc, data: bytes) -> bool:
    return adapter.rss.set(data)


def _set_parameter(adapter: Netvsc, data: bytes) -> bool:
    """A named setting; the only one is the address, 12 hexadecimal digits in UTF-16."""
    if len(data) < 20:
        return False
    words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, 20, 4)]
    name_at, name_length, _, value_at, value_length = words
    if data[name_at : name_at + name_length].rstrip(b"\0") != NETWORK_ADDRESS.rstrip(b"\0"):
        return False
    try:
        text = data[value_at : value_at + value_length].decode("utf-16-le").rstrip("\0")
        address = bytes.fromhex(text)
    except ValueError:
        return False
    if len(address) != 6 or address[0] & 1:
        return False
    adapter.mac = address
    return True


#: OID -> (adapter, data) -> False if it is refused
SET: dict[int, Callable[[Netvsc, bytes], bool]] = {
    n.OID_GEN_CURRENT_PACKET_FILTER: _set_filter,
    n.OID_802_3_MULTICAST_LIST: _set_multicast,
    n.OID_TCP_OFFLOAD_PARAMETERS: _set_offload,
    n.OID_GEN_RECEIVE_SCALE_PARAMETERS: _set_rss,
    n.OID_GEN_RNDIS_CONFIG_PARAMETER: _set_parameter,
}
