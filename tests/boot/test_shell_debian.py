"""pyhv shell on Debian's kernel: what it shows of a real guest, from a pipe."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from conftest import BOOT_S, ROOT, drivers, image, run_option

pytestmark = [pytest.mark.boot, pytest.mark.kvm]

#: a line each, and what its answer must have
SESSION = (
    (f"until PYHV-USERSPACE {BOOT_S:g}", "the console shows 'PYHV-USERSPACE'"),
    ("vcpu", r"\* vcpu 0: (runnable|halted), rip 0x"),
    ("registers cr0 efer", r"cr0 0x80\w+\nefer 0x[0-9a-f]*[d5]01"),
    ("disassemble rip 3", r"^0x[0-9a-f]+: .*\n0x"),
    ("walk idt.base", r"^gpa 0x[0-9a-f]+, page of 0x"),
    ("gdt", r"code, 64-bit, readable, .* DPL 0\n(.*\n)*.*code, 64-bit, readable, .* DPL 3"),
    ("idt", r"0x0e #PF  0x10:0xffffffff[89a-f]\w+, interrupt, DPL 0"),
    ("lapic", r"(xAPIC|x2APIC), on, id 0"),
    ("sints", r"SynIC on\n(.*\n)*SINT2  vector 0xf\w"),
    ("timers", r"STIMER0 enable=[01]"),
    ("hyperv", r"guest OS id 0x8100\w+ .*Linux"),
    ("python len(vm.disks), vm.features.user_synic", r"\(0, True\)"),
    ("continue 600", "the guest powered off"),
)


@pytest.mark.parametrize("hyperv", drivers())
def test_a_session(hyperv: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyhv", "shell", "-kernel", image("kernel", "trixie")[0],
         "-initrd", image("initramfs", "trixie")[0], "-append", run_option("sleep 1") + " nokaslr",
         "-m", "512M", "--hyperv", hyperv],
        input="".join(f"{line}\n" for line, _ in SESSION), cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=3 * BOOT_S,
    )  # fmt: skip
    print(done.stdout)
    parts = re.split(r"^\(pyhv\) .*\n", done.stdout, flags=re.MULTILINE)[1:]
    assert len(parts) == len(SESSION), done.stdout
    for (line, wanted), answer in zip(SESSION, parts, strict=True):
        assert re.search(wanted, answer, re.MULTILINE), f"{line}: {answer}"
    assert done.returncode == 0
