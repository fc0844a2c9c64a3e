#!/usr/bin/env python3
"""Measures what docs/spec.md says of machines in a process: needs /dev/kvm, and half a minute.

    tools/spec.py            all parts
    tools/spec.py create     one of: import, create, idle, boots
    tools/spec.py --cycle    instead: a Linux guest's life beside QEMU's, in the nested host, some
                             minutes; status 1: pyhv took more, 2: not all could be measured

A figure is the least of several, or their median where it says so: what else runs on the host
can only add to it.
"""

from __future__ import annotations

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pyhv import Machine  # noqa: E402
from pyhv.console import Console  # noqa: E402

Figures = dict[str, float]

IMPORTS, CREATED, IDLE, BOOTS = 15, 30, 100, 20
MEMORY = "16M"
IDLE_S = 2.0
LIMIT_S = 300.0
#: boot sectors, by hand: out 0x80, al; then ACPI's power-off. sti; hlt; jmp
FIRST = bytes.fromhex("e6 80  ba 04 06  b8 00 20  ef  f4")
SLEEPS = bytes.fromhex("fb  f4  eb fd")


def sector(folder: str, name: str, code: bytes) -> str:
    """Return the path of a boot sector with *code*."""
    path = pathlib.Path(folder) / name
    path.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa")
    return str(path)


def imports(runs: int = IMPORTS) -> Figures:
    """Time ``from pyhv import Machine`` in fresh processes whose bytecode is there."""
    code = (
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r}); a, b = time.perf_counter(), "
        "time.process_time(); from pyhv import Machine; "
        "print(time.perf_counter() - a, time.process_time() - b, len(sys.modules))"
    )
    found = []
    for _ in range(runs + 1):
        done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True,
                              text=True, check=True)  # fmt: skip
        found.append([float(word) for word in done.stdout.split()])
    walls, cpus, modules = zip(*found[1:], strict=True)  # the first may have compiled
    return {
        "import, ms": min(walls) * 1e3,
        "import, CPU ms": min(cpus) * 1e3,
        "modules": modules[0],
    }


class Stamp:
    """The device at port 0x80: notes when it was written."""

    time_ns = 0

    def pio_in(self, offset: int, size: int) -> int:
        """Nothing is here to be read."""
        return 0

    def pio_out(self, offset: int, size: int, value: int) -> None:
        """Note the time."""
        self.time_ns = time.perf_counter_ns()


def create(runs: int = CREATED) -> Figures:
    """Time from the call of Machine() to the exit of the guest's first instruction."""
    found, ends = [], []
    with tempfile.TemporaryDirectory() as folder:
        kernel = sector(folder, "first", FIRST)
        for _ in range(runs + 2):
            stamp = Stamp()
            begin = time.perf_counter_ns()
            with Machine(kernel=kernel, memory=MEMORY) as vm:
                vm.board.bus.claim_pio(0x80, 1, stamp)
                vm.start()
                stop = vm.wait(LIMIT_S)
            ends.append(time.perf_counter_ns() - stamp.time_ns)
            assert stop.kind == "poweroff", stop.text
            found.append(stamp.time_ns - begin)
    return {  # the first two warm the process up
        "create to first instruction, ms": min(found[2:]) / 1e6,
        "create to first instruction, median ms": statistics.median(found[2:]) / 1e6,
        "first instruction to all given back, ms": min(ends[2:]) / 1e6,
    }


def _private_kib() -> int:
    """Return the memory that is this process's alone: anonymous and written pages."""
    with open("/proc/self/smaps_rollup") as file:
        sizes = {line.split()[0]: int(line.split()[1]) for line in file if line[0] == "P"}
    return sizes["Private_Dirty:"]


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def idle(count: int = IDLE, cpus: int = 1) -> Figures:
    """Let *count* machines sleep in this process; what each has, and what all cost."""
    with tempfile.TemporaryDirectory() as folder:
        kernel = sector(folder, "sleeps", SLEEPS)
        with Machine(kernel=kernel, memory=MEMORY) as first:  # what all share is there then
            first.start()
            before = _private_kib(), _threads(), _descriptors()
            machines: list[Machine] = []
            begin = time.perf_counter()
            try:
                for _ in range(count):
                    vm = Machine(kernel=kernel, memory=MEMORY, smp=cpus)
                    machines.append(vm)
                    vm.start()
                made = time.perf_counter() - begin
                time.sleep(2)  # until a silent console costs nothing
                cpu, wall = time.process_time(), time.perf_counter()
                time.sleep(IDLE_S)
                used = (time.process_time() - cpu) / (time.perf_counter() - wall)
                after = _private_kib(), _threads(), _descriptors()
                states = {vm.vcpus[0].state for vm in machines}
            finally:
                for vm in machines:
                    vm.close()
        assert states == {"halted"}, states
    memory, threads, descriptors = ((b - a) / count for a, b in zip(before, after, strict=True))
    return {
        "machines": count,
        "memory of each, KiB": memory,
        "threads of each": threads,
        "descriptors of each": descriptors,
        "CPU of all, % of one": 100 * used,
        "to make and start all, s": made,
    }


def boots(count: int = BOOTS) -> Figures:
    """Boot *count* demo disks at once, from the BIOS to power-off; compare with one alone."""
    from pyhv.boot.bios import firmware_file

    disk = firmware_file("demo.img")

    def run(number: int) -> float:
        from pyhv.config import Drive

        drive = Drive(disk, snapshot=True)
        begin = time.perf_counter()
        machines = [Machine(disk=drive, memory=MEMORY, console=Console()) for _ in range(number)]
        try:
            for vm in machines:
                vm.start()
            for vm in machines:
                stop = vm.wait(LIMIT_S)
                assert stop.kind == "poweroff", stop.text
                assert "powering off" in vm.console.text()
            return time.perf_counter() - begin
        finally:
            for vm in machines:
                vm.close()

    one = run(1)
    return {"machines": count, "one boot, s": one, "all at once, s": run(count)}


PARTS = {"import": imports, "create": create, "idle": idle, "boots": boots}


def cycle(files: list[str]) -> int:
    """Compare with QEMU; with a file, which only :mod:`bench.cycle` gives: inside its host."""
    sys.path.insert(0, str(ROOT / "tools"))
    from bench import cycle, meter

    if files:
        return cycle.inside(pathlib.Path(files[0]))
    try:
        found = cycle.measure([__file__, "--cycle"])
    except meter.Failed as error:
        print(f"spec.py: {error}", file=sys.stderr)
        return 2
    print(cycle.render(found), end="")
    missed = cycle.missed(found)
    print("".join(f"missed: {text}\n" for text in missed), end="")
    return 2 if any("not measured" in text for text in missed) else bool(missed)


def main(arguments: list[str]) -> int:
    """Run the parts named, or all."""
    if arguments[:1] == ["--cycle"]:
        return cycle(arguments[1:])
    for name in arguments or PARTS:
        if name not in PARTS:
            print(f"spec.py: {name}: there is {', '.join(PARTS)}", file=sys.stderr)
            return 2
        for what, value in PARTS[name]().items():
            print(f"{name:8} {what:42} {value:8.4g}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
