"""List where a guest of pyhv reads another CPUID than one of QEMU, each with its reason.

    python3 tools/qemu_cpuid/compare.py [-cpu CPU] [-smp SMP]           against recorded dumps
    python3 tools/qemu_cpuid/compare.py [-cpu CPU] [-smp SMP] QEMU...   both guests run, needs KVM

Exit status 1 when a difference has no reason.
"""

from __future__ import annotations

import argparse
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE.parent), str(ROOT)]

from pyhv import cpu_models  # noqa: E402
from pyhv.config import parse_smp  # noqa: E402
from pyhv.guestcpuid import GuestCpuid  # noqa: E402
from qemu_cpuid import guest  # noqa: E402

RECORDED = ROOT / "tests" / "baseline" / "qemu10_cpuid.txt"
BRAND = "QEMU TCG CPU version 2.5+"  # of the host where the dumps were recorded
REGISTERS = ("eax", "ebx", "ecx", "edx")
_SIZE = "the XSAVE area's size for what the guest has switched on: KVM fills it in at run time"
#: (leaf, index, register) -> why it may differ from QEMU's, for what is set before the guest runs
JUSTIFIED = {(0xD, 0, "ebx"): _SIZE, (0xD, 1, "ebx"): _SIZE}


def recorded() -> tuple[list[tuple[int, ...]], dict[tuple[str, str], guest.Rows]]:
    """Return KVM's table of the recorded host, and (cpu, smp) -> rows of QEMU's guest."""
    supported: list[tuple[int, ...]] = []
    dumps: dict[tuple[str, str], list[str]] = {}
    section = ""
    for line in RECORDED.read_text().splitlines():
        if line.startswith("["):
            section = line[1:-1]
        elif section == "supported":
            supported.append(tuple(int(word, 16) for word in line.split()))
        elif section:
            cpu, _, smp = section.partition(" | ")
            dumps.setdefault((cpu, smp), []).append(line)
    return supported, {key: guest.parse("\n".join([*rows, "."])) for key, rows in dumps.items()}


def made(supported: list[tuple[int, ...]], cpu: str, smp: str) -> guest.Rows:
    """Return what pyhv gives CPU 0 on the recorded host."""
    cpu_models.host_model_id = lambda: BRAND
    table = GuestCpuid(cpu, supported, None, parse_smp(smp)).for_vcpu(0).table
    return {key: tuple(row) for key, row in table.items() if any(row)}  # type: ignore[misc]


def differences(want: guest.Rows, got: guest.Rows, justified: dict) -> list[tuple[str, str]]:
    """Return (difference, reason) of each register that differs; no reason is an empty one."""
    found = []
    none = (0, 0, 0, 0)
    for key in sorted(want.keys() | got.keys()):
        pairs = zip(REGISTERS, want.get(key, none), got.get(key, none), strict=True)
        for register, theirs, ours in pairs:
            if theirs != ours:
                text = f"{key[0]:08x}.{key[1]:02x} {register}: QEMU {theirs:08x}, pyhv {ours:08x}"
                found.append((text, justified.get((*key, register), "")))
    return found


def live(program: list[str], cpu: str, smp: str, image: pathlib.Path) -> list[tuple[str, str]]:
    """Run the guest twice and compare."""
    want = guest.dump(program, "kvm", cpu, image, "-M", "pc", "-m", "64", "-smp", smp)
    command = [sys.executable, "-m", "pyhv", "run", "-kernel", str(image), "-m", "64M"]
    command += ["-cpu", cpu, "-smp", smp]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    return differences(want, guest.parse(done.stdout), {})


def main() -> int:
    """Print the comparison; see the module's docstring."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("-cpu", default="")
    parser.add_argument("-smp", default="")
    parser.add_argument("qemu", nargs="*")
    options = parser.parse_args()
    unknown = 0
    if options.qemu:
        with tempfile.TemporaryDirectory() as folder:
            image = guest.build(pathlib.Path(folder))
            one = options.cpu or "host", options.smp or "1"
            results = {one: live(options.qemu, *one, image)}
    else:
        supported, dumps = recorded()
        results = {
            key: differences(want, made(supported, *key), JUSTIFIED)
            for key, want in dumps.items()
            if options.cpu in ("", key[0]) and options.smp in ("", key[1])
        }
    for (cpu, smp), found in results.items():
        print(f"-cpu {cpu} -smp {smp}: {'equal' if not found else ''}".rstrip())
        for text, reason in found:
            print(f"  {text}: {reason or 'NO REASON KNOWN'}")
            unknown += not reason
    return 1 if unknown or not results else 0


if __name__ == "__main__":
    sys.exit(main())
