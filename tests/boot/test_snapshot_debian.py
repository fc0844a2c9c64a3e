"""A running Debian guest goes back, forks, and goes on from a file, with its disk and its clock."""

from __future__ import annotations

import time

import pytest
from conftest import BOOT_S, COMMAND_S, Guest, drivers, image

from pyhv.config import Drive
from pyhv.snapshot import Snapshot

pytestmark = [pytest.mark.boot, pytest.mark.kvm]

CLOCK = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
FORKS = "dmesg | grep -c 'crng reseeded due to virtual machine fork'"
RANDOM = "head -c 9 /dev/urandom | od -An -tx1"
TROUBLE = "dmesg | grep -ciE 'stall|lockup|unstable|backwards|BUG|WARNING'"


class Shell(Guest):
    """The initramfs's shell, which neither echoes nor prompts."""

    def sector(self, number: int) -> str:
        """Read a sector past the guest's cache."""
        return self.run(
            "echo 3 >/proc/sys/vm/drop_caches; "
            f"dd if=/dev/sda bs=512 skip={number} count=1 2>/dev/null | head -c 12"
        )

    def uptime(self) -> float:
        return float(self.run("cat /proc/uptime").split()[0])

    def wrong_by(self) -> float:
        """Return how far the guest's clock is from the host's, seconds."""
        return abs(float(self.run("date +%s")) - time.time())


def content(number: int) -> bytes:
    return b"sector %5d" % number


@pytest.mark.parametrize("hyperv", drivers())
def test_debian_goes_back_and_forks(boot, tmp_path, hyperv: str) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(content(n).ljust(512, b"\0") for n in range(32768)))
    first = boot(
        kernel=image("kernel", "trixie")[0], initrd=image("initramfs", "trixie")[0],
        append="console=ttyS0 quiet", memory="256M", smp=2, hyperv=hyperv,
        drives=[Drive(str(path), readonly=True)],
    )  # fmt: skip
    vm = first.vm
    vm.console.expect("PYHV-USERSPACE", timeout=BOOT_S)
    vm.console.expect("# ", timeout=COMMAND_S)
    guest = Shell(vm)
    guest.run("stty -echo; PS1=")
    assert guest.sector(5) == content(5).decode()
    guest.run("mkdir -p /tmp; echo before >/tmp/x")
    assert guest.run(f"cat {CLOCK}").strip() == "hyperv_clocksource_tsc_page"
    uptime, trouble = guest.uptime(), guest.run(TROUBLE)
    begin = time.monotonic()
    with vm.snapshot() as snap:
        taken = time.monotonic() - begin
        guest.run("echo after >/tmp/x")
        assert guest.run("cat /tmp/x").strip() == "after"
        # in the middle of reads, on both CPUs
        read = "dd if=/dev/sda of=/dev/null bs=64k 2>/dev/null &"
        vm.console.send(f"for i in 1 2 3 4; do {read} done\n")
        times = []
        for _ in range(3):
            begin = time.monotonic()
            vm.restore(snap)
            times.append(round(time.monotonic() - begin, 3))
            assert guest.run("cat /tmp/x").strip() == "before"
        print(f"{hyperv}: snapshot in {taken:.3f} s, back in {times} s")
        assert guest.sector(77) == content(77).decode()
        begin = time.monotonic()
        with snap.clone() as one, snap.clone() as two:
            print(f"two clones in {time.monotonic() - begin:.3f} s")
            shells = []
            for clone in (one, two):
                clone.start()
                shells.append(Shell(clone))
            for number, shell in enumerate(shells):
                shell.run(f"echo clone {number} >>/tmp/x")
            guest.run("echo the first >>/tmp/x")
            assert len({shell.run(RANDOM) for shell in (*shells, guest)}) == 3
            for number, shell in enumerate((*shells, guest)):
                name = f"clone {number}" if shell is not guest else "the first"
                assert shell.run("cat /tmp/x").split("\n")[:2] == ["before", name]
                assert shell.sector(100 + number) == content(100 + number).decode()
                now = shell.uptime()
                assert uptime < now < uptime + BOOT_S
                assert shell.wrong_by() < 60
                assert shell.run(TROUBLE) == trouble, shell.run("dmesg | tail -40")
                assert shell.run("nproc").strip() == "2"
                assert shell.run(FORKS).strip() == "1"
            one.shutdown(timeout=COMMAND_S)
            assert one.wait(timeout=COMMAND_S).kind == "poweroff"
        snap.save(tmp_path / "guest.snap")
    size = (tmp_path / "guest.snap").stat().st_blocks * 512
    begin = time.monotonic()
    with Snapshot.load(tmp_path / "guest.snap") as snap, snap.clone() as late:
        print(f"a file of {size >> 20} MiB, loaded and made in {time.monotonic() - begin:.3f} s")
        late.start()
        shell = Shell(late)
        assert shell.run("cat /tmp/x").strip() == "before"
        assert shell.sector(7) == content(7).decode()
        late.reset()
        late.console.expect("PYHV-USERSPACE", timeout=BOOT_S)
