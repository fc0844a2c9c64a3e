"""``vm.kvp``: the guest's key-value pools as mappings of strings.

A key that is not there is a KeyError, as in a dictionary; a guest that cannot be asked is a
ConfigError or HostError, as everywhere.
"""

from __future__ import annotations

import time
from _collections_abc import MutableMapping

from .errors import ConfigError, HostError
from .vmbus import kvp as protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .services import Services

#: Linux gives its daemon 30 s for an answer, and says HV_E_FAIL then
TIMEOUT_S = 40.0
READ_ORDER = ("auto", "guest", "external")
MAX_PAIRS = 4096  # a pool that has more has no end


def _ask_daemon(
    vm: Services, what: str, seconds: float, operation: str, *arguments: object
) -> tuple[int, bytes]:
    """Return status and body of what the guest's daemon answers to *operation*."""
    service = vm._components(what).kvp
    return vm._ask(
        what, service, lambda told: getattr(service, operation)(*arguments, told),
        max(0.0, seconds),
    )  # fmt: skip


class Pool(MutableMapping):
    """One pool; every access asks the guest. *timeout* is in seconds, for the whole access."""

    def __init__(self, vm: Services, name: str, timeout: Callable[[], float]) -> None:
        self._vm, self.name, self._timeout = vm, name, timeout
        self._number = protocol.POOLS[name]

    def __repr__(self) -> str:
        return f"<pool {self.name} of a guest>"

    def _ask(self, what: str, deadline: float, operation: str, *arguments: object) -> bytes | None:
        """Return the answer's body, None for what is not there."""
        status, data = _ask_daemon(
            self._vm, what, deadline - time.monotonic(), operation, self._number, *arguments
        )
        if status in protocol.ABSENT:
            return None
        if status:
            raise HostError(
                f"{what}: the guest refused, status {status:#x}; it may be that its hv_kvp_daemon "
                "does not run any more"
            )
        return data

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout()

    def __getitem__(self, key: str) -> str:
        """Ask for pairs until *key* is there; for all of them, ``items()`` asks once."""
        for name, value in self._pairs():
            if name == key:
                return value
        raise KeyError(key)

    def __setitem__(self, key: str, value: str) -> None:
        """Write a value, in the guest's file when this returns."""
        what = f"kvp[{key!r}]"
        limit = protocol.HV_KVP_EXCHANGE_MAX_VALUE_SIZE
        if not isinstance(value, str) or "\0" in value or protocol.units(value) > limit:
            raise ConfigError(f"{what}: a value is text of at most {limit // 2 - 1} UTF-16 units")
        if self._ask(what, self._deadline(), "set", _checked(what, key), value) is None:
            raise HostError(f"{what}: the guest could not keep the value in its pool {self.name}")

    def __delitem__(self, key: str) -> None:
        """Take a key out of the guest's file."""
        what = f"kvp[{key!r}]"
        if self._ask(what, self._deadline(), "delete", _checked(what, key)) is None:
            raise KeyError(key)

    def _pairs(self) -> Iterator[tuple[str, str]]:
        what, deadline = f"kvp pool {self.name}", self._deadline()
        for index in range(MAX_PAIRS):
            data = self._ask(what, deadline, "enumerate", index)
            if data is None:
                return
            pair = protocol.pair(data)
            if pair is None:
                raise HostError(f"{what}: the guest's answer makes no sense")
            yield pair
        raise HostError(f"{what}: the guest still had pairs after {MAX_PAIRS}")

    def __iter__(self) -> Iterator[str]:
        """The keys."""
        return iter(dict(self._pairs()))

    def __len__(self) -> int:
        return len(dict(self._pairs()))

    def items(self) -> dict[str, str].items:  # type: ignore[valid-type]
        """Keys and values, all asked for once."""
        return dict(self._pairs()).items()

    def values(self) -> dict[str, str].values:  # type: ignore[valid-type]
        """The values, all asked for once."""
        return dict(self._pairs()).values()


class Pools(MutableMapping):
    """All that a host usually sees, as one mapping: reads look into "auto", "guest" and "external".

    Writes and deletions go to "external", which is the host's. ``pool(name)`` is one alone.
    ``timeout`` is how long one access may take, in seconds.
    """

    def __init__(self, vm: Services) -> None:
        self._vm, self.timeout = vm, TIMEOUT_S
        self._pools = {name: Pool(vm, name, lambda: self.timeout) for name in protocol.POOLS}

    def pool(self, name: str) -> Pool:
        """Return the pool *name*: external, guest, auto, auto-external or internal.

        :raises ConfigError: there is no such pool.
        """
        if name not in self._pools:
            raise ConfigError(f"kvp pool {name!r}: one of {', '.join(self._pools)}")
        return self._pools[name]

    def set_address(
        self, address: str | None, gateway: str = "", dns: str = "", nic: int = 0
    ) -> None:
        """Set a network card up; the guest keeps it, and calls its own program to do it.

        That program (hv_set_ifconfig, beside hv_kvp_daemon) is the distribution's; Debian has none
        and refuses.

        :param address: such as "10.0.2.20/24" or "fd00::2/64"; None: by DHCP.
        :param gateway: one of the same kind; *dns*: one, or more with commas. *nic*: from 0.
        :raises ConfigError: no such card or address, no daemon. HostError: the guest refused.
        """
        what = f"kvp set_address {address or 'DHCP'}"
        board = self._vm.board
        cards = board.offered.get("network", []) if board is not None else []
        if not 0 <= nic < len(cards):
            raise ConfigError(f"{what}: network card {nic} of {len(cards)}")
        family, texts = _ip_info(what, address, gateway, dns)
        arguments = (cards[nic].instance_guid, family, address is None, texts)
        status, _ = _ask_daemon(self._vm, what, self.timeout, "set_ip_info", *arguments)
        if status:
            raise HostError(
                f"{what}: the guest refused, status {status:#x}; it may be that it has no "
                "hv_set_ifconfig (Debian ships none), or that its hv_kvp_daemon runs no more"
            )

    def _all(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in reversed(READ_ORDER):
            found.update(self._pools[name].items())
        return found

    def __getitem__(self, key: str) -> str:
        """The first pool's that has it."""
        for name in READ_ORDER:
            try:
                return self._pools[name][key]
            except KeyError:
                pass
        raise KeyError(key)

    def __setitem__(self, key: str, value: str) -> None:
        """Write to "external"."""
        self._pools["external"][key] = value

    def __delitem__(self, key: str) -> None:
        """Delete in "external"."""
        del self._pools["external"][key]

    def __iter__(self) -> Iterator[str]:
        """The keys of the three pools."""
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def items(self) -> dict[str, str].items:  # type: ignore[valid-type]
        """Keys and values, all asked for once."""
        return self._all().items()

    def values(self) -> dict[str, str].values:  # type: ignore[valid-type]
        """The values, all asked for once."""
        return self._all().values()


def _ip_info(
    what: str, address: str | None, gateway: str, dns: str
) -> tuple[int, tuple[str, str, str, str]]:
    """Return family and texts for :meth:`protocol.Kvp.set_ip_info`."""
    import ipaddress

    servers = [one for one in dns.split(",") if one]
    try:
        for one in servers:
            ipaddress.ip_address(one)
        if address is None:
            return protocol.ADDR_FAMILY_NONE, ("", "", "", ";".join(servers))
        found = ipaddress.ip_interface(address)
        if gateway and ipaddress.ip_address(gateway).version != found.version:
            raise ValueError(f"{gateway!r} is no gateway for {address!r}")
    except ValueError as error:
        raise ConfigError(f"{what}: {error}") from None
    six = found.version == 6
    family = protocol.ADDR_FAMILY_IPV6 if six else protocol.ADDR_FAMILY_IPV4
    # Linux' daemon takes the length of an IPv6 prefix for its mask
    mask = str(found.network.prefixlen if six else found.netmask)
    if len(";".join(servers)) > 1000:
        raise ConfigError(f"{what}: {len(servers)} name servers are too many")
    return family, (str(found.ip), mask, gateway, ";".join(servers))


def _checked(what: str, key: str) -> str:
    limit = protocol.HV_KVP_EXCHANGE_MAX_KEY_SIZE
    if not isinstance(key, str) or not key or "\0" in key or protocol.units(key) > limit:
        raise ConfigError(f"{what}: a key is text of 1 to {limit // 2 - 1} UTF-16 units")
    return key
