"""What the cases saw where it was measured: tests/baseline/differential.expected, read and written.

    tests/host/nested --timeout 300 env PYTHONPATH=.:tests/guest \\
        python3 -m diff.expected kernel tests/baseline/differential.expected

measures all sets anew under KVM's own Hyper-V (without ``nested`` where /dev/kvm has it); ``git
diff`` then is what changed. ``user`` and another file: the same under the other driver, to look at.
"""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path

from .cases import BASELINE, Case
from .run import Line, run, suite

FILE = BASELINE / "differential.expected"
HEAD = """\
# What the differential guest saw: the cases of differential.cases, in their order.
# Origin: measured under driver in_{driver}, Linux {release}, on {host}; made by
# tests/guest/diff/expected.py, which tells how. Not to be edited.
#
# = CASE, then a line for each outcome: SETS: what each telling operation of the case saw, in order.
# *: a number that is not compared; GP, UD: the fault; ok: no fault; bytes in memory order;
# interrupts in order, "!": without an ISR bit.
"""
Transcript = dict[str, list[str]]  # case -> what each telling operation saw


def transcript(lines: list[Line]) -> Transcript:
    """Return the lines by case."""
    found: Transcript = {}
    for line in lines:
        found.setdefault(line.case, []).append(line.seen)
    return found


def telling(case: Case) -> list[str]:
    """Return the texts of the operations that tell something."""
    return [op.text for op in case.ops if op.seen is not None]


def write(measured: dict[str, Transcript], driver: str, host: str) -> str:
    """Return the file's text; *measured*: set -> transcript."""
    parts = [HEAD.format(driver=driver, release=platform.release(), host=host)]
    names = dict.fromkeys(name for one in measured.values() for name in one)
    for name in names:
        outcomes: dict[str, list[str]] = {}
        for where, one in measured.items():
            if name in one:
                outcomes.setdefault("; ".join(one[name]), []).append(where)
        parts.append(f"= {name}\n")
        parts += [f"{','.join(where)}: {seen}\n" for seen, where in outcomes.items()]
    return "".join(parts)


def read(text: str) -> dict[str, Transcript]:
    """Return set -> transcript."""
    found: dict[str, Transcript] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("= "):
            name = line[2:]
        elif match := re.fullmatch(r"([\w,-]+): ?(.*)", line):
            for where in match[1].split(","):
                found.setdefault(where, {})[name] = match[2].split("; ") if match[2] else []
    return found


def main(driver: str, file: str) -> None:
    """Measure and write."""
    measured = {name: transcript(run(driver, name)) for name in suite().cpus}
    ends = {name: one["end"] for name, one in measured.items()}
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    Path(file).write_text(write(measured, driver, cpu[1] if cpu else platform.machine()))
    sys.stderr.write(f"{ends}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
