#!/usr/bin/env python3
"""A guest's network card against QEMU's virtio-net, both on a tap, in instructions.

    tools/bench_nic.py --prepare                  outside: fill the cache
    tests/host/nested --icount tools/bench_nic.py      inside the nested host

With --icount a nanosecond is an instruction. Counted is the VMM's CPU time, its guest's included;
not the host's far end, a socket on the tap, and not idle time, which -icount skips. The
same Debian kernel and initramfs boot in both. --only WORD: the machines with it in their name.
"""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/host"), str(ROOT / "tools")]

import debian  # noqa: E402
import debian_image  # noqa: E402
import emulator  # noqa: E402
import initramfs  # noqa: E402

SUITE, CPU = "trixie", "host,kvm=off,hv_relaxed,hv_vapic,hv_vpindex,hv_time,hv_synic,hv_stimer," \
    "hv_stimer_direct,hv_frequencies,hv_tlbflush,hv_ipi"
TAP, HOST, GUEST = "pyhvbench0", "192.168.78.1", "192.168.78.2"
MIB = 1 << 20
SENT_MIB, RECEIVED_MIB, PINGS = 4, 32, 100
MODULES = [*debian_image.GUEST_MODULES, "virtio_pci", "virtio_net"]
READY = "BENCH-READY"
COMMANDS = f"""ip link set lo up; ip addr add {GUEST}/24 dev eth0; ip link set eth0 up
echo {READY}
while read address port size; do
if [ $size = 0 ]; then nc -l -p $port >/dev/null & echo BENCH-LISTENS
else head -c $size /dev/zero | nc $address $port; fi
done"""
READY_S = 240


def image() -> tuple[str, str]:
    """Return kernel and an initramfs with both cards' drivers, made on first use."""
    base = debian_image.root(SUITE)
    init = debian_image.GUEST_INIT.replace("setsid cttyhack sh", COMMANDS)

    def build(file: pathlib.Path) -> None:
        program = next((base.parent / "busybox").glob("**/bin/busybox"))
        modules = initramfs.find_modules(base, MODULES)
        file.write_bytes(initramfs.build(program, init, modules))

    recipe = debian.digest(init, MODULES, initramfs.LINKS, base.parent.name)
    return str(debian_image.kernel(SUITE)[0]), str(debian.once(f"bench-nic-{recipe}", build))


def machines() -> dict[str, list[object]]:
    """Return the command of each machine."""
    kernel, initrd = image()
    same = ("-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet net.ifnames=0")
    tap = f"tap,ifname={TAP},script=no,downscript=no"
    return {
        "pyhv netvsc": [sys.executable, "-I", "-S", "-c",
                        f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
                        "from pyhv.cli import entry; entry()",
                        "run", "-m", "512M", "-cpu", CPU, "-nic", tap, *same],
        "QEMU virtio-net": [*emulator.Files(SUITE).qemu, "-M", "pc", "-accel", "kvm", "-cpu", CPU,
                            "-m", 512, "-nodefaults", "-no-user-config", "-display", "none",
                            "-serial", "stdio", "-netdev", f"{tap},id=n", "-device",
                            "virtio-net-pci,netdev=n,romfile=", *same],
    }  # fmt: skip


class Running:
    """A machine that has booted; its console is read and written here."""

    def __init__(self, command: list[object]) -> None:
        self.process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.text = b""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        while data := os.read(self.process.stdout.fileno(), 65536):
            self.text += data

    def wait(self, words: str) -> None:
        end = time.monotonic() + READY_S * 10
        while words.encode() not in self.text:
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"bench_nic: no {words}: {self.text[-800:].decode()}")
            time.sleep(0.05)

    def say(self, line: str) -> None:
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def cpu_ns(self) -> int:
        """Return the CPU time so far of all its threads, the guest's with it."""
        # linux: include/linux/posix-timers.h, make_process_cpuclock(pid, CPUCLOCK_SCHED)
        return time.clock_gettime_ns((~self.process.pid << 3) | 2)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def counter(name: str) -> int:
    return int(pathlib.Path(f"/sys/class/net/{TAP}/statistics/{name}").read_text())


def measured(machine: Running, work: Callable[[], None], count: int) -> float:
    """Return the machine's instructions per unit of *work*, of which there are *count*."""
    start = machine.cpu_ns()
    work()
    return (machine.cpu_ns() - start) / count


def from_guest(machine: Running) -> float:
    """Return instructions per KiB that the guest sends by TCP."""
    with socket.create_server((HOST, 0)) as server:
        machine.say(f"{HOST} {server.getsockname()[1]} {SENT_MIB * MIB}")
        connected, _ = server.accept()
        with connected:
            connected.recv(MIB)  # the beginning is not counted

            def read() -> None:
                while connected.recv(MIB):
                    pass

            return measured(machine, read, SENT_MIB * 1024)


def to_guest(machine: Running, port: int) -> float:
    """Return instructions per KiB that the guest receives by TCP."""
    machine.text = b""
    machine.say(f"x {port} 0")
    machine.wait("BENCH-LISTENS")
    while True:
        try:
            connected = socket.create_connection((GUEST, port))
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    with connected:

        def write() -> None:
            connected.sendall(bytes(RECEIVED_MIB * MIB))
            connected.shutdown(socket.SHUT_WR)
            connected.recv(1)

        return measured(machine, write, RECEIVED_MIB * 1024)


def round_trip(machine: Running) -> float:
    """Return instructions per ping: a frame in, a frame out."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.connect((GUEST, 0))
        raw.settimeout(READY_S)
        echo = bytes.fromhex("0800 f7ff 0000 0000")

        def pings(count: int) -> None:
            for _ in range(count):
                raw.send(echo)
                while raw.recv(2048)[20] != 0:
                    pass

        pings(5)
        return measured(machine, lambda: pings(PINGS), PINGS)


def main() -> int:
    """Print a line per machine."""
    if "--prepare" in sys.argv:
        machines()
        return 0
    print(f"{'':16s} {'sent /KiB':>10s} {'frame':>7s} {'received /KiB':>14s} {'ping':>10s}")
    only = sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv else ""
    for name, command in machines().items():
        if only not in name:
            continue
        machine = Running(command)
        try:
            machine.wait(READY)
            for words in (f"address add {HOST}/24 dev {TAP}", f"link set {TAP} up"):
                subprocess.run(["ip", *words.split()], check=True)
            time.sleep(1)
            ping = round_trip(machine)
            frames, size = counter("rx_packets"), counter("rx_bytes")
            sent = from_guest(machine)
            frames, size = counter("rx_packets") - frames, counter("rx_bytes") - size
            received = to_guest(machine, 7000)
            print(f"{name:16s} {sent:10.0f} {size // frames:7d} {received:14.0f} {ping:10.0f}",
                  flush=True)  # fmt: skip
        finally:
            machine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
