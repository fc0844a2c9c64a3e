"""Debian's netvsc driver on each backend: DHCP, names, downloads, forwarded ports, two machines."""

from __future__ import annotations

import hashlib
import http.server
import pathlib
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import perl_initrd
import pytest
from conftest import COMMAND_S, drivers, image
from nameserver import NAME, NameServer
from ssh_client import DROPBEAR, DROPBEAR_LIBRARIES, DROPBEAR_SETUP, ssh

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
CONTENT = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(32768))  # 1 MiB
#: what udhcpc calls with what it got
SCRIPT = r"""
echo '#!/bin/sh' > /lease
echo 'case $1 in bound|renew) ifconfig $interface $ip netmask $subnet;
ip route add default via $router; echo nameserver ${dns%% *} > /etc/resolv.conf;
echo LEASE $ip $router $dns;; esac' >> /lease
chmod +x /lease; mkdir -p /etc; ip link set lo up; ip link set eth0 up
"""


@pytest.fixture(scope="module")
def passt() -> None:
    if shutil.which("passt") is None:
        pytest.fail("the program passt is missing: apt-get install passt (tests/run does)")


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: pathlib.Path) -> Iterator[tuple[pathlib.Path, int]]:
    """A web server of this host on its loopback address: its folder and port."""
    folder = tmp_path / "web"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: Handler(*args, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def names() -> Iterator[None]:
    """A name server on this host's loopback address, which is 10.0.2.2 to the guest."""
    with NameServer("10.0.2.2"):
        yield


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def small(boot, suite: str, *nics: str, initrd: str = "", **options: object) -> object:
    """Start the small initramfs, or *initrd*."""
    return boot(
        kernel=image("kernel", suite)[0], initrd=initrd or image("initramfs", suite)[0],
        append="console=ttyS0 quiet", memory="512M", nics=nics, **options,
    )  # fmt: skip


def shell(boot, suite: str, *nics: str, smp: int = 2, **options: object) -> object:
    """Boot the small initramfs to its shell, with the interface of the first card up."""
    return ready(small(boot, suite, *nics, smp=smp, **options))


def ready(guest: object) -> object:
    """Wait for the shell of the small initramfs."""
    guest.prompt()
    guest.run(SCRIPT.strip())
    return guest


@pytest.mark.parametrize(
    ("suite", "hyperv"),
    [(suite, hyperv) for suite in ("trixie", "bookworm") for hyperv in drivers()],
)
def test_user_mode(boot, passt, web, names, suite: str, hyperv: str) -> None:
    """An address, a name, the host's files, a TCP connection in and one out, all bytes whole."""
    folder, port = web
    (folder / "blob").write_bytes(CONTENT)
    forwarded = free_port()
    guest = shell(boot, suite, f"user,hostfwd=tcp:127.0.0.1:{forwarded}-:7", hyperv=hyperv)
    assert "hv_netvsc" in guest.run("ls /sys/bus/vmbus/drivers")
    lease = guest.run("udhcpc -i eth0 -s /lease -q -n 2>/dev/null")
    assert "LEASE 10.0.2.15 10.0.2.2" in lease
    digest = hashlib.md5(CONTENT).hexdigest()
    guest.run("echo nameserver 10.0.2.2 > /etc/resolv.conf")
    found = guest.run(f"nslookup {NAME}")  # answers to A and AAAA, in either order
    assert re.search(rf"Name:\s+{re.escape(NAME)}\s+Address[ 1]*:\s+10\.0\.2\.2\s", found), found
    assert digest in guest.run(f"wget -q -O - http://{NAME}:{port}/blob | md5sum")
    # a connection from the host, echoed by the guest
    guest.console.send("nc -l -p 7 -e cat &\n")
    guest.run("sleep 1")
    with socket.create_connection(("127.0.0.1", forwarded), timeout=COMMAND_S) as host:
        host.sendall(CONTENT[:100000])
        back = b""
        while len(back) < 100000:
            back += host.recv(65536)
    assert back == CONTENT[:100000]
    queues = guest.run("ls -d /sys/class/net/eth0/queues/rx-*").split()
    assert len(queues) >= 2, queues
    assert guest.vm.board.vmbus.violation_count == 0
    guest.console.send("poweroff -f\n")
    assert guest.vm.wait(timeout=COMMAND_S).kind == "poweroff"


@pytest.mark.parametrize(
    ("suite", "hyperv"),
    [(suite, hyperv) for suite in ("trixie", "bookworm") for hyperv in drivers()],
)
def test_ssh_through_a_forwarded_port(boot, passt, tmp_path, suite: str, hyperv: str) -> None:
    port, initrd = free_port(), tmp_path / "initrd"
    perl_initrd.build(suite, initrd, DROPBEAR, DROPBEAR_LIBRARIES)
    guest = shell(
        boot, suite, f"user,hostfwd=tcp:127.0.0.1:{port}-:22", initrd=str(initrd), hyperv=hyperv
    )
    assert "LEASE 10.0.2.15" in guest.run("udhcpc -i eth0 -s /lease -q -n 2>/dev/null")
    guest.run(f"{DROPBEAR_SETUP}; /usr/sbin/dropbear -R -B")
    command = "uname -s; cat /sys/class/net/eth0/device/class_id; md5sum"
    answer = ssh(command, f"Port={port}", host="127.0.0.1", data=CONTENT).decode().split()
    digest = hashlib.md5(CONTENT).hexdigest()
    assert answer == ["Linux", "{f8615163-df3e-46c5-913f-f2d2f965ed0e}", digest, "-"]
    assert guest.vm.board.vmbus.violation_count == 0


@pytest.mark.parametrize("hyperv", drivers())
def test_two_machines_on_a_socket(boot, tmp_path: pathlib.Path, hyperv: str) -> None:
    """Two machines of one process, two Debians: the one is the other's network."""
    nic = f"socket,path={tmp_path / 'cable'}"
    guests = [small(boot, suite, nic, hyperv=hyperv) for suite in ("trixie", "bookworm")]
    first, second = [ready(guest) for guest in guests]
    first.run("ip addr add 192.168.9.1/24 dev eth0")
    second.run("ip addr add 192.168.9.2/24 dev eth0")
    assert " 3 packets received" in second.run("ping -c 3 192.168.9.1")
    for sender, receiver, address in ((second, first, "9.2"), (first, second, "9.1")):
        sender.run("dd if=/dev/urandom of=/data bs=64k count=16 2>/dev/null")
        sender.run("(nc -l -p 7 < /data &)")  # its end is not for the interactive shell
        sender.run("sleep 1")
        before = receiver.vm.nics[0][0].received
        got = receiver.run(f"nc 192.168.{address} 7 | md5sum")
        assert got == sender.run("md5sum < /data")
        count = receiver.vm.nics[0][0].received - before
        assert count < 500, "frames go whole: 1 MiB is 725 standard frames"
    assert [guest.vm.board.vmbus.violation_count for guest in guests] == [0, 0]
    second.vm.kill()
    second.vm.wait(timeout=COMMAND_S)
    first.run("sleep 1")
    assert first.run("cat /sys/class/net/eth0/carrier").strip() == "0"


def disks() -> list[object]:
    """A whole Debian with every doorbell in Python takes minutes on an emulated CPU."""
    return [
        pytest.param(suite, hyperv, marks=[pytest.mark.slow] if hyperv == "user" else [])
        for suite in ("trixie", "bookworm")
        for hyperv in drivers()
    ]


@pytest.mark.parametrize(("suite", "hyperv"), disks())
def test_a_debian_disk(boot, passt, web, names, tmp_path, suite: str, hyperv: str) -> None:
    """systemd-networkd gets the address; a name, a download, and SSH through a forwarded port."""
    disk, forwarded = tmp_path / "debian.img", free_port()
    image("disk", suite, "-o", str(disk))
    folder, port = web
    (folder / "blob").write_bytes(CONTENT)
    kernel, initrd = image("kernel", suite)
    guest = boot(
        disk=str(disk), kernel=kernel, initrd=initrd, memory="768M", smp=2, hyperv=hyperv,
        append="root=LABEL=pyhv rw console=ttyS0 quiet systemd.default_device_timeout_sec=900",
        nics=[f"user,hostfwd=tcp:127.0.0.1:{forwarded}-:22"],
    )  # fmt: skip
    guest.login()
    guest.run("systemctl start systemd-networkd")
    end = time.monotonic() + COMMAND_S
    while "10.0.2.15 (DHCP" not in (status := guest.run("networkctl status eth0 --no-pager")):
        assert time.monotonic() < end, status
        time.sleep(2)
    guest.run("echo nameserver 10.0.2.2 > /etc/resolv.conf")
    assert guest.run(f"getent hosts {NAME}").split() == ["10.0.2.2", NAME]
    digest = hashlib.md5(CONTENT).hexdigest()
    assert digest in guest.run(f"busybox wget -q -O - http://{NAME}:{port}/blob | md5sum")
    guest.run("mkdir -p /etc/dropbear; dropbear -R -B")
    answer = ssh("hostname; cat /proc/1/comm", f"Port={forwarded}", host="127.0.0.1")
    assert answer == b"pyhv\nsystemd\n"
    assert guest.vm.board.vmbus.violation_count == 0
    guest.console.send("poweroff -f\n")
    assert guest.vm.wait(timeout=COMMAND_S).kind == "poweroff"


@pytest.mark.parametrize(
    ("suite", "hyperv"),
    [(suite, hyperv) for suite in ("trixie", "bookworm") for hyperv in drivers()],
)
def test_a_tap_and_large_frames(boot, suite: str, hyperv: str) -> None:
    """Who sends does not cut: the host's kernel does for the guest, nobody does towards it.

    A guest that forwards may have no frames above its MTU; its kernel says so.
    """
    guest = shell(boot, suite, "tap,ifname=pyhvtap0", smp=1, hyperv=hyperv)
    for command in ("address add 192.168.77.1/24 dev pyhvtap0", "link set pyhvtap0 up"):
        subprocess.run(["ip", *command.split()], check=True)
    guest.run("ip addr add 192.168.77.2/24 dev eth0")
    backend = guest.vm.nics[0][0]
    with socket.create_server(("192.168.77.1", 0)) as server:
        server.settimeout(COMMAND_S)
        port = server.getsockname()[1]
        guest.run(f"(head -c 3000000 /dev/zero | nc 192.168.77.1 {port} &)")
        connected, _ = server.accept()
        with connected:
            connected.settimeout(COMMAND_S)
            size = 0
            while more := connected.recv(1 << 20):
                size += len(more)
                assert not more.strip(b"\0")
    assert size == 3000000
    assert backend.sent < 1500, "large sends go out whole: 3 MB are 2055 standard frames"
    assert large_received(guest, backend, 7) < 1500
    guest.run("echo 1 > /proc/sys/net/ipv4/ip_forward")
    assert large_received(guest, backend, 8) > 2000
    assert guest.vm.board.vmbus.violation_count == 0
    guest.console.send("poweroff -f\n")
    assert guest.vm.wait(timeout=COMMAND_S).kind == "poweroff"


def large_received(guest: object, backend: object, port: int) -> int:
    """Have the guest receive 3 MiB whole; return in how many frames."""
    before = backend.received
    guest.run(f"(nc -l -p {port} | md5sum > /sum &)")
    guest.run("sleep 1")
    with socket.create_connection(("192.168.77.2", port), timeout=COMMAND_S) as host:
        host.sendall(CONTENT * 3)
    digest = hashlib.md5(CONTENT * 3).hexdigest()
    assert digest in guest.run("while pidof md5sum; do sleep 1; done; cat /sum")
    return backend.received - before
