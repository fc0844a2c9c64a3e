"""Key-value pairs: pools of strings that a daemon in the guest keeps and the host asks for.

Layouts, operations and limits: linux include/uapi/linux/hyperv.h, drivers/hv/hv_kvp.c.
"""

from __future__ import annotations

from struct import Struct

from . import protocol as p
from .ic import Service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .ic import Told

# not KVP_OP_GET, 0: Linux tells its daemon that there is room for a value of 0 bytes, and so it is
KVP_OP_SET, KVP_OP_DELETE, KVP_OP_ENUMERATE, KVP_OP_SET_IP_INFO = 1, 2, 3, 5
#: name -> hv_kvp_exchg_pool. The host writes "external", programs in the guest write "guest", and
#: "auto" is what the guest says of itself.
POOLS = {"external": 0, "guest": 1, "auto": 2, "auto-external": 3, "internal": 4}
REG_SZ, REG_U32, REG_U64 = 1, 4, 8
HV_S_CONT = 0x80070103  # no such key, or no more of them
HV_GUID_NOTFOUND = 0x80041002
ABSENT = (HV_S_CONT, HV_GUID_NOTFOUND)
HV_KVP_EXCHANGE_MAX_KEY_SIZE, HV_KVP_EXCHANGE_MAX_VALUE_SIZE = 512, 2048  # bytes, with their end

_header = Struct("<BB2x")  # 0:1 operation, 1:1 pool
# 0:4 value type, 4:4 key bytes, 8:4 value bytes, 12:512 key, 524:2048 value; both UTF-16
_exchange = Struct("<III512s2048s")
_delete = Struct("<I512s")  # 0:4 key bytes, 4:512 key
_index = Struct("<I")  # before _exchange, of KVP_OP_ENUMERATE only
# of KVP_OP_SET_IP_INFO, and no padding before it: 0:256 adapter, 256:1 family, 257:1 DHCP,
# 258:2048 addresses, 2306:2048 netmasks, 4354:1024 gateways, 5378:2048 name servers; UTF-16
_ip_header, _ip_info = Struct("<BB"), Struct("<256sBB2048s2048s1024s2048s")
ADDR_FAMILY_NONE, ADDR_FAMILY_IPV4, ADDR_FAMILY_IPV6 = 0, 1, 2
BODY_BYTES = _header.size + _index.size + _exchange.size


class Kvp(Service):
    """The guest's driver agrees to a version when its daemon runs, and not before."""

    class_guid = p.GUID_KVP
    instance_guid = "242ff919-07db-4180-9c2e-b86cb68c8c55"
    message_type, versions = 2, ((4, 0), (3, 0), (1, 0))
    guest_side = "hv_utils, and hv_kvp_daemon of hyperv-daemons"

    def set(self, pool: int, key: str, value: str, told: Told) -> bool:
        """Write *value*; this and the others return what :meth:`ask` does. On the event loop."""
        raw, data = _text(key), _text(value)
        body = _exchange.pack(REG_SZ, len(raw), len(data), raw, data)
        return self._request(KVP_OP_SET, pool, body, told)

    def delete(self, pool: int, key: str, told: Told) -> bool:
        """Take a key out."""
        raw = _text(key)
        return self._request(KVP_OP_DELETE, pool, _delete.pack(len(raw), raw), told)

    def enumerate(self, pool: int, index: int, told: Told) -> bool:
        """Ask for the pair at *index*."""
        return self._request(KVP_OP_ENUMERATE, pool, _index.pack(index), told)

    def set_ip_info(
        self, adapter: str, family: int, dhcp: bool, texts: tuple[str, str, str, str], told: Told
    ) -> bool:
        """Have a network card set up.

        :param adapter: the device's instance GUID. *family*: ADDR_FAMILY_*.
        :param texts: addresses, netmasks, gateways, name servers; ``;`` between two of a kind.
        """
        address, mask, gateway, dns = map(_text, texts)
        # as the guest writes the GUID itself: hv_kvp_daemon compares it with sysfs' device_id
        info = _ip_info.pack(_text(f"{{{adapter}}}"), family, dhcp, address, mask, gateway, dns)
        return self.ask(_ip_header.pack(KVP_OP_SET_IP_INFO, 0) + info, told)

    def _request(self, operation: int, pool: int, body: bytes, told: Told) -> bool:
        # the guest answers in place: the request has the room that the longest answer needs
        return self.ask((_header.pack(operation, pool) + body).ljust(BODY_BYTES, b"\0"), told)


def _text(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass") + b"\0\0"


def units(text: str) -> int:
    """Return how many bytes *text* takes in a message, with its end."""
    return len(_text(text))


def pair(data: bytes) -> tuple[str, str] | None:
    """Return key and value of the answer to :meth:`Kvp.enumerate`; None if it makes no sense."""
    at = _header.size + _index.size
    if len(data) < at + _exchange.size:
        return None
    kind, key_size, value_size, key, value = _exchange.unpack_from(data, at)
    if key_size > len(key) or value_size > len(value):
        return None
    if kind in (REG_U32, REG_U64):
        return _string(key[:key_size]), str(int.from_bytes(value[:kind], "little"))
    return (_string(key[:key_size]), _string(value[:value_size])) if kind == REG_SZ else None


def _string(raw: bytes) -> str:
    return raw.decode("utf-16-le", "replace").partition("\0")[0]
