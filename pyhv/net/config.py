"""``-nic`` and ``-netdev`` as QEMU spells them: what is read, and one clear line for the rest."""

from __future__ import annotations

from ..errors import ConfigError
from ..record import Record

MAX_NICS = 8
MAC_BASE = 0x525400123456  # QEMU's first card; the next ones count up
GUEST_ADDRESS = "10.0.2.15"


class HostForward(Record):
    """``hostfwd``: *protocol* "tcp" or "udp"; *host* "" listens on every address."""

    protocol: str
    host: str
    host_port: int
    guest_port: int


class Nic(Record):
    """One network card. *kind*: user, tap, socket or none; *mac* 0 picks one."""

    kind: str
    mac: int = 0
    ifname: str = ""
    path: str = ""
    server: bool | None = None
    forwards: tuple[HostForward, ...] = ()


#: what QEMU calls it -> what it is here
KINDS = {"user": "user", "passt": "user", "tap": "tap", "socket": "socket", "stream": "socket",
         "none": "none"}  # fmt: skip
#: kind -> its keys
KEYS = {
    "user": ("hostfwd", "mac", "id", "model"),
    "tap": ("ifname", "script", "downscript", "mac", "id", "model"),
    "socket": ("path", "server", "addr.type", "addr.path", "mac", "id", "model"),
    "none": ("mac", "id", "model"),
}


def parse_nic(text: str, option: str = "-nic") -> Nic:
    """Return the card for ``user,hostfwd=tcp::2222-:22``, ``tap,ifname=tap0``, ``socket,path=S``.

    :raises ConfigError: another kind or key, a value that cannot be.
    """
    kind_text, *items = text.replace(",,", "\0").split(",")
    kind = KINDS.get(kind_text.removeprefix("type="))
    if kind is None:
        raise ConfigError(f"{option} {text}: no network of kind {kind_text!r}: pyhv has "
                          f"{', '.join(dict.fromkeys(KINDS.values()))}")  # fmt: skip
    given: dict[str, str] = {}
    forwards = []
    for item in items:
        key, equals, value = item.replace("\0", ",").partition("=")
        if not equals:
            raise ConfigError(f"{option} {text}: {key!r} has no '='; write key=value")
        if key not in KEYS[kind]:
            raise ConfigError(
                f"{option} {text}: {key!r} is not provided by pyhv; known: {', '.join(KEYS[kind])}"
            )
        if key == "hostfwd":
            forwards.append(parse_forward(value))
        given[key] = value
    for key in ("script", "downscript"):
        if given.get(key, "no") != "no":
            raise ConfigError(f"{option} {text}: {key}={given[key]}: pyhv runs no scripts; say no")
    if given.get("addr.type", "unix") != "unix":
        raise ConfigError(f"{option} {text}: addr.type={given['addr.type']}: pyhv has unix")
    if given.get("model", "netvsc") != "netvsc":
        raise ConfigError(f"{option} {text}: model={given['model']}: pyhv has netvsc; leave it out")
    path = given.get("path") or given.get("addr.path", "")
    if kind == "socket" and not path:
        raise ConfigError(f"{option} {text}: no path; write socket,path=FILE")
    servers = {"on": True, "off": False, None: None}
    if given.get("server") not in servers:
        raise ConfigError(f"{option} {text}: server={given['server']}: on or off")
    return Nic(
        kind, parse_mac(given["mac"]) if "mac" in given else 0, given.get("ifname", ""), path,
        servers[given.get("server")], tuple(forwards),
    )  # fmt: skip


def parse_mac(text: str) -> int:
    """Return the 48-bit number of ``52:54:00:12:34:56``.

    :raises ConfigError: no MAC, or one that no card can have (multicast, all zero).
    """
    parts = text.replace("-", ":").split(":")
    try:
        if len(parts) != 6 or any(len(part) != 2 for part in parts):
            raise ValueError
        number = int("".join(parts), 16)
    except ValueError:
        raise ConfigError(f"mac={text}: not six bytes like 52:54:00:12:34:56") from None
    if number >> 40 & 1 or not number:
        raise ConfigError(f"mac={text}: a multicast address; the first byte must be even")
    return number


def parse_forward(text: str) -> HostForward:
    """Return the forward for ``[tcp|udp]:[HOST]:PORT-[GUEST]:PORT``.

    :raises ConfigError: something else.
    """
    outer, dash, inner = text.partition("-")
    protocol, _, where = outer.partition(":")
    host, colon, host_port = where.rpartition(":")
    guest, inner_colon, guest_port = inner.rpartition(":")
    numbers = [int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else 0
               for port in (host_port, guest_port)]  # fmt: skip
    shape = dash and colon and inner_colon and (protocol or "tcp") in ("tcp", "udp")
    if not shape or not all(0 < number < 65536 for number in numbers):
        raise ConfigError(f"hostfwd={text}: write hostfwd=tcp::2222-:22 or tcp:127.0.0.1:2222-:22")
    if guest not in ("", GUEST_ADDRESS):
        raise ConfigError(f"hostfwd={text}: the guest has {GUEST_ADDRESS}, or leave it out")
    return HostForward(protocol or "tcp", host, *numbers)


def mac_of(nic: Nic, number: int) -> bytes:
    """Return the 6 bytes of card *number* (0 on).

    The default is QEMU's, but not on a socket: two machines must not have the same there.
    """
    if nic.mac:
        return nic.mac.to_bytes(6, "big")
    if nic.kind == "socket":
        import os

        return b"\x52\x54\x00" + os.urandom(3)
    return (MAC_BASE + number).to_bytes(6, "big")
