"""The command line of a failed test's machine runs the same machine again."""

from __future__ import annotations

import shlex

import pytest

from pyhv import options
from pyhv.config import Drive, MachineConfig, machine_config
from pyhv.errors import HostError
from pyhv.leftovers import SPELLED, command, screen

#: field -> a value that is not the default
VALUES = {
    "memory_bytes": {"memory": "33M"},
    "max_memory_bytes": {"memory": "33M,slots=2,maxmem=161M"},
    "smp": {"smp": "cpus=8,sockets=2,cores=2,threads=2"},
    "drives": {"drives": ["a,b.img", Drive("c.img", readonly=True, snapshot=True),
                          Drive("d", format="qcow2"), Drive("e", format="raw")]},
    "cpu": {"cpu": "host,kvm=off,hv_time,hv_vpindex,hv_vendor_id='My Vendor'"},
    "hv": {"hv": "windows"},
    "machine": {"machine": "pc-i440fx-6.1"},
    "kernel": {"kernel": "a kernel"},
    "initrd": {"kernel": "k", "initrd": "i"},
    "append": {"kernel": "k", "append": "console=ttyS0 pyhv.run=%27 $HOME"},
    "firmware": {"firmware": "bios.bin"},
    "hyperv": {"hyperv": "user"},
    "testdev": {"testdev": True},
    "vmbus_version": {"vmbus_version": "4.1"},
    "nics": {"nics": ["user,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp::53-:53",
                      "tap,ifname=tap0,mac=52:54:00:00:00:01", "socket,path=a,,b,server=on"]},
    "agent": {"agent": True},
    "vga": {"vga": "hyperv"},
    "no_reboot": {"no_reboot": True},
    "time_limit": {"time_limit": 2.5},
    "free_page_reporting": {"free_page_reporting": True},
}  # fmt: skip


def test_every_field_can_be_spelled() -> None:
    """Who adds a field to MachineConfig adds a row to leftovers.SPELLED, and one here."""
    assert set(SPELLED) == set(MachineConfig._fields) == set(VALUES)


@pytest.mark.parametrize("field", VALUES)
def test_there_and_back(field: str) -> None:
    wanted = machine_config(**({"disk": "x.img"} | VALUES[field]))
    assert getattr(wanted, field) != getattr(MachineConfig(), field)
    program, verb, *words = shlex.split(command(wanted))
    assert (program, verb) == ("pyhv", "run")
    assert options.config_of(options.parse(words), lambda: "") == wanted


class Machine:
    """Has a screen with a picture, or none on it."""

    def __init__(self, vga: str, picture: bytes = b"") -> None:
        self.config, self.picture = MachineConfig(vga=vga), picture

    def screenshot(self) -> Machine:
        if not self.picture:
            raise HostError("screen: the guest shows nothing")
        return self

    def png(self) -> bytes:
        return self.picture


@pytest.mark.parametrize(
    ("machine", "picture"),
    [(Machine("hyperv", b"PNG"), b"PNG"), (Machine("hyperv"), b""), (Machine("none", b"x"), b"")],
)
def test_the_screen_of_a_failed_test(machine: Machine, picture: bytes) -> None:
    assert screen(machine) == picture
