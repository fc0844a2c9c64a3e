"""pyhv's decoders against independent ones inside a Debian guest, and against pyhv's own CPUID."""

from __future__ import annotations

import csv
import pathlib
import re
import subprocess

import pytest
from conftest import COMMAND_S, ROOT, drivers, image

from pyhv.cpu_options import DEFAULT_CPU
from pyhv.lookup import cpuid, dumps
from pyhv.lookup.source import of_cpu

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
PARTITION = 1048576
REGISTERS = dumps.REGISTERS


def disk_with_decoders(folder: pathlib.Path) -> pathlib.Path:
    """Return a copy of the Debian disk with cpuid and virt-what in it."""
    disk = folder / "trixie.img"
    image("disk", "trixie", "-o", str(disk))
    (tools,) = image("decoders", "trixie")
    lines = []
    for path in ("usr/bin/cpuid", "usr/sbin/virt-what", "usr/libexec/virt-what-cpuid-helper"):
        parent, _, name = path.rpartition("/")
        lines += [f"cd /{parent}", f"write {tools}/{path} {name}", f"sif {name} mode 0100755"]
    script = folder / "edit"
    script.write_text("\n".join(lines) + "\n")
    subprocess.run(
        ["debugfs", "-w", "-f", script, f"{disk}?offset={PARTITION}"], check=True,
        capture_output=True,
    )  # fmt: skip
    return disk


def bits_by_cpuid(text: str) -> set[tuple[int, str, int]]:
    """Return (leaf, register, bit) for what Debian's cpuid calls true in the Hyper-V leaves."""
    path = ROOT / "tests" / "baseline" / "debian_cpuid_bits.csv"
    rows = csv.DictReader(line for line in path.open() if not line.startswith("#"))
    known = {(int(row["leaf"], 16), row["register"], row["text"]): int(row["bit"]) for row in rows}
    found, leaf, register = set(), 0, ""
    for line in text.splitlines():
        title = re.search(r"\(0x(4[0-9a-f]{7})/(e[a-d]x)\)", line)
        if title:
            leaf, register = int(title[1], 16), title[2]
        name, equals, value = line.partition(" = ")
        bit = known.get((leaf, register, name.strip()))
        if equals and bit is not None and value.strip() == "true":
            found.add((leaf, register, bit))
    return found


def test_decoders_agree(boot, tmp_path) -> None:
    """cpuid, lscpu, systemd-detect-virt, virt-what and Linux itself see what pyhv says."""
    hyperv = drivers()[0]  # in_kernel where there is one: a Debian disk boots sooner
    guest = boot(disk=str(disk_with_decoders(tmp_path)), memory="768M", hyperv=hyperv)
    guest.login()
    ((_, dump),) = dumps.parse(guest.run("cpuid -1 -r -i"), "cpuid -r")
    mine = {
        key: dict(zip(REGISTERS, words, strict=True))
        for key, words in guest.vm.guest_cpuid.base.table.items()
        if key[0] >> 28 == 4
    }
    assert {key: dump[key] for key in mine} == mine
    assert set(cpuid.flags_of(dump)[0]) == {"kvm=off", *of_cpu("-cpu", DEFAULT_CPU, []).hv}

    decoded = {
        (leaf, register, bit)
        for leaf in (0x40000003, 0x40000004)
        for register, bit, _ in cpuid.set_bits(dump, leaf, 0)
    }
    theirs = bits_by_cpuid(guest.run("cpuid -1 -i"))
    assert theirs == decoded
    assert len(theirs) > 10

    log = guest.run("dmesg | grep 'Hyper-V: '")
    ((_, told),) = dumps.parse(log, "dmesg")
    for leaf in (0x40000003, 0x40000004, 0x40000002):
        assert all(dump[leaf, 0][name] == value for name, value in told[leaf, 0].items())
    assert "eax" in told[0x40000003, 0]

    assert re.search(r"Hypervisor vendor: +Microsoft", guest.run("lscpu"))
    assert guest.run("systemd-detect-virt").strip() == "microsoft"
    assert "hyperv" in guest.run("virt-what").split()
    assert "vendor 'Microsoft Hv'" in " ".join(cpuid.fields(dump, 0x40000000))
    guest.console.send("poweroff\n")
    assert guest.vm.wait(timeout=COMMAND_S).kind == "poweroff"
