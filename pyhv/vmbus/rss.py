"""Receive-side scaling: which of a guest's queues a frame goes to, by the hash that it asked for.

[MS-NDIS] RSS hashing: Toeplitz over addresses, and ports for TCP where asked.
"""

from __future__ import annotations

from struct import Struct

from . import netvsc_protocol as n

FLOWS_KEPT = 4096
_table = Struct(f"<{n.RSS_TABLE_ENTRIES}I")
IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"
TCP = 6
PLAIN_IPV4 = 0x45  # version 4, no options


def toeplitz(key: bytes, data: bytes) -> int:
    """Return the 32-bit hash of *data* with the 40-byte *key*."""
    window = int.from_bytes(key, "big")
    shift = len(key) * 8 - 32
    result = 0
    for byte in data:
        for bit in (7, 6, 5, 4, 3, 2, 1, 0):
            if byte >> bit & 1:
                result ^= window >> shift
            shift -= 1
    return result & 0xFFFFFFFF


class Rss:
    """The guest's parameters, and the flows seen under them. Without parameters all is queue 0."""

    def __init__(self) -> None:
        self.enabled = False
        self.key = bytes(n.RSS_KEY_BYTES)
        self.table: tuple[int, ...] = (0,) * n.RSS_TABLE_ENTRIES
        self.types = 0
        self._flows: dict[bytes, int] = {}

    def set(self, parameters: bytes) -> bool:
        """Take NDIS_RECEIVE_SCALE_PARAMETERS; False: they do not add up, nothing changes."""
        if len(parameters) < n.RSS_PARAMETERS.size:
            return False
        flags, _, types, table_size, table_at, key_size, key_at = n.RSS_PARAMETERS.unpack_from(
            parameters
        )
        if parameters[0] != n.NDIS_OBJECT_TYPE_RSS_PARAMETERS:
            return False
        table, key = self.table, self.key
        if not flags & n.RSS_FLAG_ITABLE_UNCHANGED and table_size:
            count = table_size // 4
            values = parameters[table_at : table_at + table_size]
            if len(values) != table_size or table_size % 4 or n.RSS_TABLE_ENTRIES % count:
                return False  # a power of 2 up to 128 entries
            values *= n.RSS_TABLE_ENTRIES // count
            table = _table.unpack(values)
        if not flags & n.RSS_FLAG_KEY_UNCHANGED and key_size:
            key = parameters[key_at : key_at + key_size]
            if key_size > n.RSS_KEY_BYTES or len(key) != key_size:
                return False
            key = key.ljust(n.RSS_KEY_BYTES, b"\0")
        if not flags & n.RSS_FLAG_HASH_INFO_UNCHANGED:
            self.types = types
        self.table, self.key = table, key
        self.enabled = bool(self.types) and not flags & n.RSS_FLAG_DISABLE
        self._flows.clear()
        return True

    def queue(self, frame: bytes) -> int:
        """Return the queue that the guest wants *frame* on; it may be one that is not open."""
        kind, types = frame[12:14], self.types
        if kind == IPV4 and len(frame) >= 38:
            tcp = types & n.HASH_TCP_IPV4 and frame[23] == TCP and frame[14] == PLAIN_IPV4
            if tcp and not (frame[20] & 0x3F or frame[21]):  # a fragment has no ports
                flow = frame[26:38]
            elif types & n.HASH_IPV4:
                flow = frame[26:34]
            else:
                return 0
        elif kind == IPV6 and len(frame) >= 58:
            if types & n.HASH_TCP_IPV6 and frame[20] == TCP:
                flow = frame[22:58]
            elif types & n.HASH_IPV6:
                flow = frame[22:54]
            else:
                return 0
        else:
            return 0
        queue = self._flows.get(flow)
        if queue is None:
            if len(self._flows) >= FLOWS_KEPT:
                self._flows.clear()
            queue = self.table[toeplitz(self.key, flow) & (n.RSS_TABLE_ENTRIES - 1)]
            self._flows[flow] = queue
        return queue
