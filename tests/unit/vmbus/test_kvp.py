"""Key-value pairs: vm.kvp over a simulated hv_utils with a daemon that keeps dictionaries."""

from __future__ import annotations

import random
import struct
from types import SimpleNamespace

import pytest
from fuzzing import SEEDS
from ic_sim import Utils, Vm

from pyhv import kvp as host
from pyhv.errors import ConfigError, HostError, PyhvError
from pyhv.vmbus.kvp import BODY_BYTES, Kvp

EXCHANGE = struct.Struct("<III512s2048s")
NO_MORE = 0x80070103
AUTO = {"OSName": "Debian", "FullyQualifiedDomainName": "pyhv"}


class Daemon:
    """What hv_kvp_daemon does with the driver's help: values in place, a status for what is not."""

    def __init__(self) -> None:
        self.pools: dict[int, dict[str, str]] = {n: {} for n in range(5)}
        self.pools[2].update(AUTO)

    def __call__(self, body: bytes) -> tuple[int, bytes]:
        assert len(body) == BODY_BYTES
        operation, pool = struct.unpack_from("<BB2x", body)
        pairs = self.pools[pool]
        if operation == 3:
            (index,) = struct.unpack_from("<I", body, 4)
            if index >= len(pairs):
                return NO_MORE, body
            key = list(pairs)[index]
            return 0, body[:8] + self.value(key, pairs[key])
        if operation == 2:
            size, key = struct.unpack_from("<I512s", body, 4)
            return (0 if pairs.pop(self.text(key, size), None) is not None else NO_MORE), body
        assert operation == 1, "Linux answers a GET with nothing"
        kind, key_size, value_size, key, value = EXCHANGE.unpack_from(body, 4)
        assert kind == 1
        pairs[self.text(key, key_size)] = self.text(value, value_size)
        return 0, body

    @staticmethod
    def text(raw: bytes, size: int) -> str:
        assert raw[size - 2 : size] == b"\0\0"
        return raw[: size - 2].decode("utf-16-le")

    @staticmethod
    def value(key: str, value: str) -> bytes:
        raw, data = (text.encode("utf-16-le") + b"\0\0" for text in (key, value))
        return EXCHANGE.pack(1, len(raw), len(data), raw, data)


@pytest.fixture
def make(make_guest):
    def vm(serve) -> Vm:
        utils = Utils(make_guest, Kvp())
        utils.negotiate()
        return Vm(utils, "kvp", serve)

    return vm


def test_reads_writes_deletes(make) -> None:
    daemon = Daemon()
    vm = make(daemon)
    assert vm.kvp["OSName"] == "Debian"
    vm.kvp["role"] = "database"
    assert daemon.pools[0] == {"role": "database"}
    assert vm.kvp["role"] == "database"
    vm.kvp["role"] = ""
    assert vm.kvp["role"] == ""
    daemon.pools[1]["from"] = "gäst \U0001f600"
    assert dict(vm.kvp) == dict(vm.kvp.items()) == {**AUTO, "role": "", "from": "gäst \U0001f600"}
    assert sorted(vm.kvp.values()) == sorted(dict(vm.kvp).values())
    assert len(vm.kvp) == 4
    assert "from" in vm.kvp
    assert "to" not in vm.kvp
    del vm.kvp["role"]
    assert daemon.pools[0] == {}
    with pytest.raises(KeyError, match="role"):
        del vm.kvp["role"]
    with pytest.raises(KeyError, match="role"):
        vm.kvp["role"]


def test_pools_are_apart(make) -> None:
    daemon = Daemon()
    vm = make(daemon)
    guest = vm.kvp.pool("guest")
    guest["a"] = "1"
    assert dict(guest) == {"a": "1"}
    assert len(guest) == 1
    assert guest["a"] == "1"
    assert not dict(vm.kvp.pool("external"))
    assert dict(vm.kvp.pool("auto")) == AUTO
    with pytest.raises(ConfigError, match="kvp pool 'gast': one of external, guest, auto"):
        vm.kvp.pool("gast")


def test_the_guest_speaks_for_itself_first(make) -> None:
    daemon = Daemon()
    daemon.pools[0]["OSName"] = "not so"
    vm = make(daemon)
    assert vm.kvp["OSName"] == dict(vm.kvp)["OSName"] == "Debian"
    assert vm.kvp.pool("external")["OSName"] == "not so"


@pytest.mark.parametrize("key", ["", "a\0b", "x" * 256, "\U0001f600" * 128, 7])
def test_keys_that_cannot_be(make, key) -> None:
    vm = make(Daemon())
    with pytest.raises(ConfigError, match="1 to 255 UTF-16 units"):
        vm.kvp[key] = "x"
    vm.kvp["x" * 255] = "longest"
    assert vm.kvp["x" * 255] == "longest"


@pytest.mark.parametrize("value", ["a\0b", "x" * 1024, 7])
def test_values_that_cannot_be(make, value) -> None:
    vm = make(Daemon())
    with pytest.raises(ConfigError, match="at most 1023 UTF-16 units"):
        vm.kvp["x"] = value
    vm.kvp["x"] = "y" * 1023
    assert vm.kvp["x"] == "y" * 1023


def test_numbers_of_other_guests_are_text(make) -> None:
    pair = struct.pack("<III512sQ", 4, 4, 4, b"a\0", 77) + bytes(2056)
    vm = make(lambda body: (0, body[:8] + pair))
    assert vm.kvp.pool("guest")["a"] == "77"


def test_no_daemon_is_told_at_once(make_guest) -> None:
    """Linux's driver does not even negotiate before there is one."""
    vm = Vm(Utils(make_guest, Kvp()), "kvp", Daemon())
    vm.guest = lambda: None
    with pytest.raises(ConfigError, match="no driver for it now .Linux: hv_utils, and hv_kvp_d"):
        vm.kvp["OSName"]


def test_a_silent_daemon_is_told(make) -> None:
    vm = make(lambda body: None)
    vm.kvp.timeout = 0.05
    with pytest.raises(HostError, match=r"kvp.'a'.: the guest's driver has not answered in 0"):
        vm.kvp["a"] = "b"
    with pytest.raises(HostError, match="has not answered the request before"):
        vm.kvp["a"] = "b"


def test_a_refusal_is_told(make) -> None:
    vm = make(lambda body: (0x80004005, body))
    with pytest.raises(HostError, match="the guest refused, status 0x80004005"):
        vm.kvp["a"] = "b"


def test_a_pool_that_is_full(make) -> None:
    vm = make(lambda body: (NO_MORE, body))
    with pytest.raises(HostError, match="could not keep the value in its pool external"):
        vm.kvp["a"] = "b"


def test_a_pool_without_end(make, monkeypatch) -> None:
    monkeypatch.setattr(host, "MAX_PAIRS", 20)
    vm = make(lambda body: (0, body[:8] + Daemon.value("k", "v")))
    with pytest.raises(HostError, match="still had pairs after 20"):
        dict(vm.kvp.pool("guest"))


@pytest.mark.parametrize(
    "body",
    [b"", bytes(100), bytes(BODY_BYTES),
     *(struct.pack("<8xIII", *words) + bytes(2560) for words in
       ((1, 514, 2), (1, 2, 2049), (99, 2, 2)))],
)  # fmt: skip
def test_nonsense_is_told(make, body: bytes) -> None:
    vm = make(lambda _: (0, body))
    with pytest.raises(HostError, match="makes no sense"):
        vm.kvp.pool("guest")["a"]


@SEEDS
def test_a_mad_daemon(make, seed: int) -> None:
    """Whatever it answers is a value, a KeyError, or one line."""
    rng = random.Random(seed)

    def serve(body: bytes) -> tuple[int, bytes]:
        answer = bytearray(body if rng.random() < 0.8 else rng.randbytes(rng.randrange(3000)))
        for _ in range(rng.randrange(20)):
            if answer:
                answer[rng.randrange(min(len(answer), rng.choice((20, 3000))))] = rng.randrange(256)
        return rng.choice((0, 0, 0, NO_MORE, rng.getrandbits(32))), bytes(answer)

    vm = make(serve)
    vm.kvp.timeout = 5
    for _ in range(200):
        try:
            rng.choice((
                lambda: vm.kvp["a"], lambda: vm.kvp.pool("guest")["b"],
                lambda: list(vm.kvp.items()), lambda: vm.kvp.pool("guest").pop("c"),
            ))()  # fmt: skip
        except (KeyError, PyhvError):
            pass
    assert vm.utils.guest.server.violation_count == 0


def text(raw: bytes) -> str:
    return raw.decode("utf-16-le").partition("\0")[0]


@pytest.mark.parametrize(
    ("arguments", "family", "dhcp", "texts"),
    [
        (("10.0.2.20/24", "10.0.2.2", "10.0.2.3,1.1.1.1"), 1, 0,
         ["10.0.2.20", "255.255.255.0", "10.0.2.2", "10.0.2.3;1.1.1.1"]),
        (("fd00::2/64",), 2, 0, ["fd00::2", "64", "", ""]),
        ((None,), 0, 1, ["", "", "", ""]),
    ],
)  # fmt: skip
def test_an_address_is_set(make, arguments, family: int, dhcp: int, texts: list[str]) -> None:
    """linux: include/uapi/linux/hyperv.h, struct hv_kvp_ip_msg, which is packed."""
    asked: list[bytes] = []
    vm = make(lambda body: asked.append(body) or (0, body))
    vm.offered["network"] = [None, SimpleNamespace(instance_guid="f1b2c3d4-0001")]
    vm.kvp.set_address(*arguments, nic=1)
    (body,) = asked
    assert len(body) == 2 + 256 + 2 + 2048 + 2048 + 1024 + 2048
    assert body[0] == 5
    assert text(body[2:258]) == "{f1b2c3d4-0001}"
    assert tuple(body[258:260]) == (family, dhcp)
    at = [260, 2308, 4356, 5380, 7428]
    assert [text(body[a:b]) for a, b in zip(at, at[1:], strict=False)] == texts


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("10.0.2.20/33",), "10.0.2.20/33"),
        (("here",), "'here' does not appear"),
        (("10.0.2.20/24", "fd00::1"), "no gateway for"),
        (("10.0.2.20/24", "", "x"), "'x' does not appear"),
        (("10.0.2.20/24", "", ",".join(["10.255.255.255"] * 80)), "80 name servers"),
        (("10.0.2.20/24", "", "", 1), "network card 1 of 1"),
    ],
)
def test_addresses_that_cannot_be(make, arguments, said: str) -> None:
    vm = make(lambda body: pytest.fail("the guest was asked"))
    vm.offered["network"] = [SimpleNamespace(instance_guid="f1b2c3d4-0001")]
    with pytest.raises(ConfigError, match=f"kvp set_address .*{said}"):
        vm.kvp.set_address(*arguments)


def test_a_guest_without_the_program(make) -> None:
    vm = make(lambda body: (0x80004005, body))
    vm.offered["network"] = [SimpleNamespace(instance_guid="f1b2c3d4-0001")]
    with pytest.raises(HostError, match="refused, status 0x80004005; .* no hv_set_ifconfig"):
        vm.kvp.set_address("10.0.2.20/24")
