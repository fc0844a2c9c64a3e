"""-nic and -netdev: QEMU's spelling, and one clear line for what pyhv does not have."""

from __future__ import annotations

import pytest

from pyhv import options
from pyhv.config import machine_config
from pyhv.errors import ConfigError
from pyhv.net.config import HostForward, Nic, mac_of, parse_forward, parse_mac, parse_nic
from pyhv.net.kinds import KINDS, backend

QEMU_MAC = 0x525400123456


@pytest.mark.parametrize(
    ("text", "nic"),
    [
        ("user", Nic("user")),
        ("passt", Nic("user")),
        ("type=user,id=n0,model=netvsc", Nic("user")),
        ("user,hostfwd=tcp::2222-:22,hostfwd=udp:127.0.0.1:53-10.0.2.15:5353",
         Nic("user", forwards=(HostForward("tcp", "", 2222, 22),
                               HostForward("udp", "127.0.0.1", 53, 5353)))),
        ("tap", Nic("tap")),
        ("tap,ifname=tap7,script=no,downscript=no,mac=52:54:00:00:00:01",
         Nic("tap", 0x525400000001, "tap7")),
        ("socket,path=/tmp/a,,b", Nic("socket", path="/tmp/a,b")),
        ("stream,id=s,server=on,addr.type=unix,addr.path=/tmp/s",
         Nic("socket", path="/tmp/s", server=True)),
        ("socket,path=x,server=off", Nic("socket", path="x", server=False)),
        ("none", Nic("none")),
    ],
)  # fmt: skip
def test_cards(text: str, nic: Nic) -> None:
    assert parse_nic(text) == nic


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no network of kind ''"),
        ("bridge,br=br0", "no network of kind 'bridge'"),
        ("user,net=10.0.3.0/24", "'net' is not provided by pyhv"),
        ("user,ifname=tap0", "'ifname' is not provided"),
        ("user,hostfwd", "no '='"),
        ("user,hostfwd=tcp:2222-:22", "write hostfwd="),
        ("user,model=e1000", "pyhv has netvsc"),
        ("tap,script=/etc/qemu-ifup", "runs no scripts"),
        ("socket", "no path"),
        ("socket,path=x,server=maybe", "on or off"),
        ("stream,addr.type=inet,addr.path=x", "pyhv has unix"),
        ("user,mac=x", "not six bytes"),
        ("user,mac=01:00:00:00:00:00", "multicast"),
    ],
)
def test_bad_cards(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_nic(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "tcp::22", "tcp::0-:22", "tcp::99999-:22", "sctp::1-:2",
                                  "tcp::1-:", "tcp::1-2", "tcp::1-10.0.2.16:2", "tcp::x-:2"])
def test_bad_forwards(text: str) -> None:
    with pytest.raises(ConfigError, match="hostfwd="):
        parse_forward(text)


def test_forwards() -> None:
    assert parse_forward("::2222-:22") == HostForward("tcp", "", 2222, 22)
    assert parse_forward("udp:10.1.1.1:1-:2") == HostForward("udp", "10.1.1.1", 1, 2)


def test_macs() -> None:
    assert parse_mac("52-54-00-12-34-56") == QEMU_MAC
    for bad in ("5254:00:12:34:56", "52:54:00:12:34", "zz:54:00:12:34:56", "00:00:00:00:00:00"):
        with pytest.raises(ConfigError):
            parse_mac(bad)
    assert [mac_of(Nic("user"), i).hex() for i in (0, 1)] == ["525400123456", "525400123457"]
    assert mac_of(Nic("tap", 0x525400000001), 3).hex() == "525400000001"
    # two machines on one cable: never the same by default
    one, two = mac_of(Nic("socket"), 0), mac_of(Nic("socket"), 0)
    assert one != two
    assert one[:3] == two[:3] == b"\x52\x54\x00"


def test_every_kind_has_a_backend() -> None:
    kinds = {kind: backend(Nic(kind, path="x")).kind for kind in KINDS}
    assert kinds == {"user": "user", "tap": "tap", "socket": "socket", "none": "none"}


def parsed(*arguments: str) -> tuple[Nic, ...]:
    return options.config_of(options.parse([*arguments, "disk.img"]), lambda: "demo").nics


def test_the_command_line() -> None:
    assert parsed() == parsed("-nic", "none") == ()
    assert parsed("-nic", "user", "-netdev", "tap,id=t,ifname=tap0") == (
        Nic("user"), Nic("tap", ifname="tap0"),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="^-netdev bridge"):
        parsed("-netdev", "bridge,id=b")
    with pytest.raises(ConfigError, match="at most 8"):
        parsed(*["-nic", "user"] * 9)


def test_keywords() -> None:
    config = machine_config(nics=["user", Nic("tap")])
    assert config.nics == (Nic("user"), Nic("tap"))
