#!/usr/bin/env python3
"""Cost of a tick of a synthetic timer: in_user beside in_kernel, in instructions; prints a table.

    tools/bench_timers.py               all rows; needs root, a minute
    PYHV_BENCH_ROOT=TREE tools/bench_timers.py      the pyhv of another tree, to compare

It starts the nested host by itself (tests/host/nested --icount), where a nanosecond is an
instruction, so a loaded machine makes it slow but not wrong. Guest asleep: CPU time of the whole
process for 1000 ticks less that for 500. Guest computing: a second less what the guest's loop
had of it; the kernel's share is in that too. How late a tick is, the guest tells, by the
reference TSC page. A tick is lost if the next was due before it could be sent
(docs/deviations.md); a one-shot timer, which the guest sets again itself, has none to lose.
While the guest computes it has the nested host's one CPU, which pyhv's threads and that kernel
want, too: what it loses then is told, and is no verdict. Exit status 1: a target was missed.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from bench.machines import ROOT as TREE  # noqa: E402

LIMIT_S = 900
CPU = "host,kvm=off,hv_vpindex,hv_time,hv_synic,hv_stimer,hv_stimer_direct"
PARAMETERS, RESULTS, LATE = 0x80000, 0x80040, 0x300000
PERIOD = 10_000  # 100 ns: 1 kHz
TICKS, WARM_UP = 1000, 100
TARGET = 2.0
DRIVERS = ("kernel", "user")
LOST = ("lost asleep", "lost busy")
MODES = ("periodic, by message", "periodic, direct", "one-shot, direct")
ONE_SHOT = 2
#: the guest of these modes knows when a tick was due
TIMED = (0, ONE_SHOT)
SPIN_INSTRUCTIONS = 3  # timers.S


class Run:
    """What one machine's guest saw, and the CPU time of the whole process, ns."""

    def __init__(self, driver: str, path: str, mode: int, ticks: int, spin: bool) -> None:
        sys.path.insert(0, str(TREE))
        from pyhv import Machine

        with Machine(kernel=path, cpu=CPU, memory="16M", hyperv=driver) as vm:
            for n, value in enumerate((mode, ticks, PERIOD, spin)):
                vm.memory.write_u64(PARAMETERS + 8 * n, value)
            before = time.process_time_ns()
            vm.start()
            stop = vm.wait(LIMIT_S)
            self.cost_ns = time.process_time_ns() - before
            if stop.status != 3:
                raise SystemExit(f"{driver}, mode {mode}: {stop}")
            _, first, last, self.spins = (vm.memory.read_u64(RESULTS + 8 * i) for i in range(4))
            timed = range(WARM_UP, ticks)
            self.late_us = [vm.memory.read_u32(LATE + 4 * i) / 10 for i in timed]
        self.passed = last - first
        self.lost = round(self.passed / PERIOD) + 1 - (ticks - WARM_UP) if mode != ONE_SHOT else 0


def measure(driver: str, path: str, mode: int) -> dict[str, float]:
    """Return kI per tick of a sleeping and of a computing guest, lateness in us, ticks lost."""
    half, whole = (Run(driver, path, mode, n, False) for n in (TICKS // 2, TICKS))
    busy = Run(driver, path, mode, TICKS, True)
    used = busy.passed * 100 - busy.spins * SPIN_INSTRUCTIONS
    return {
        "asleep": (whole.cost_ns - half.cost_ns) / (TICKS // 2) / 1000,
        "busy": used / (TICKS - WARM_UP - 1) / 1000,
        "median": statistics.median(whole.late_us),
        "most": max(whole.late_us),
        "lost asleep": half.lost + whole.lost,
        "lost busy": busy.lost,
    }


def inside(path: str) -> int:
    """Measure in the nested host and print."""
    print(f"| {TICKS} ticks of 1 ms | driver | kI a tick, guest asleep | kI, guest computing "
          "| late, us, median | late, us, most | lost of 1500 | computing, of 1000 |")  # fmt: skip
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    cheap = whole = True
    # All modules are imported then, and all code is in the page cache: where an idle CPU's time is
    # skipped, a read from the shared files costs many ticks.
    for driver in DRIVERS:
        for mode in range(len(MODES)):
            for spin in (False, True):
                Run(driver, path, mode, WARM_UP + 1, spin)
    for mode, name in enumerate(MODES):
        seen = {driver: measure(driver, path, mode) for driver in DRIVERS}
        for driver, row in seen.items():
            timed = [f"{row[key]:.1f}" if mode in TIMED else "" for key in ("median", "most")]
            lost = [f"{row[key]:.0f}" if mode != ONE_SHOT else "" for key in LOST]
            cells = [f"{row['asleep']:.2f}", f"{row['busy']:.2f}", *timed, *lost]
            print(f"| {name} | in_{driver} |", " | ".join(cells), "|", flush=True)
        times = [seen["user"][key] / seen["kernel"][key] for key in ("asleep", "busy")]
        cheap &= max(times) <= TARGET
        whole &= not any(row["lost asleep"] for row in seen.values())
        print(f"| | ratio | {times[0]:.2f} | {times[1]:.2f} | | | | |", flush=True)
    print(f"target: at most {TARGET:g} x in_kernel: {'met' if cheap else 'missed'}")
    print(f"target: no tick lost of an idle host's: {'met' if whole else 'missed'}")
    return 0 if cheap and whole else 1


def main(argv: list[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inside", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.inside:
        return inside(options.inside)
    from bench import prepare

    with tempfile.TemporaryDirectory(prefix="pyhv-bench-") as folder:
        made = pathlib.Path(folder) / "timers"
        source = pathlib.Path(__file__).resolve().parent / "bench/timers.S"
        subprocess.run(["as", "--64", "-o", f"{made}.o", source], check=True)
        link = ["-m", "elf_x86_64", "-N", "--no-warn-rwx-segments", "-Ttext=0x100000"]
        subprocess.run(["ld", *link, "-o", made, f"{made}.o"], check=True)
        nested = [ROOT / "tests/host/nested", "--icount", "--timeout", str(LIMIT_S)]
        command = [prepare.python(), "-I", "-S", __file__, "--inside", made]
        return subprocess.run([*nested, *command], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
