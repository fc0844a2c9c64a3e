"""Debian's gdb at a running Debian kernel, with the symbols that the kernel itself tells."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from conftest import BOOT_S, COMMAND_S, ROOT, image, run_option

from pyhv.gdb.server import GdbServer
from pyhv.machine import Machine

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
WANTED = ("_text", "_etext", "linux_banner", "do_sys_openat2", "__x64_sys_close")
#: the shell opens and closes a file by itself, for ever
GUEST = (
    f"grep -wE '{'|'.join(WANTED)}' /proc/kallsyms; echo SYMBOLS; "
    "while read x </dev/null || :; do :; done"
)
LOOK = """
    info threads
    info symbol $pc
    x/s &linux_banner
    print $cr3 != 0
    stepi
    info symbol $pc
    monitor hyperv
    detach
"""
#: where breakpoints are made of single steps, one round of the guest's takes minutes
BREAK = """
    break do_sys_openat2
    continue
    info symbol $pc
    print $rsp > 0xffff800000000000
    x/i $pc
    delete
    tbreak __x64_sys_close
    continue
    info symbol $pc
    detach
"""


def gdb(socket: pathlib.Path, syms: pathlib.Path, script: str) -> str:
    commands = ["set pagination off", "set confirm off", f"file {syms}", f"target remote {socket}",
                *script.strip().splitlines()]  # fmt: skip
    words = [word for line in commands for word in ("-ex", line.strip())]
    program = shutil.which("gdb")
    assert program is not None, "gdb is not installed: apt install gdb"
    done = subprocess.run(
        [program, "-nx", "-batch", *words], capture_output=True, text=True, timeout=COMMAND_S
    )
    return done.stdout + done.stderr


def test_looks_into_the_kernel_by_name(tmp_path: pathlib.Path) -> None:
    """Its banner, a step, and where KVM can break, two system calls; then the guest runs on."""
    table, syms, socket = (tmp_path / name for name in ("kallsyms", "kernel.syms", "gdb"))
    said: list[str] = []
    with Machine(
        kernel=image("kernel", "trixie")[0], initrd=image("initramfs", "trixie")[0],
        append=run_option(GUEST), memory="256M",
    ) as vm:  # fmt: skip
        server = GdbServer(vm, f"unix:{socket}", said.append)
        server.start()
        try:
            vm.start()
            text = vm.console.expect("SYMBOLS\r\n", timeout=BOOT_S)
            table.write_text(text.replace("\r", ""))
            tool = [sys.executable, ROOT / "tools/kallsyms_elf.py", table, syms]
            subprocess.run(tool, check=True)
            shown = gdb(socket, syms, LOOK)
            stops = "" if any("single-stepped" in line for line in said) else BREAK
            broken = gdb(socket, syms, stops) if stops else ""
            again = gdb(socket, syms, "info threads\nmonitor quit")
            stop = vm.wait(timeout=COMMAND_S)
        finally:
            server.close()
    assert re.search(r'<linux_banner>:\s+"Linux version 6\.12', shown), shown
    assert "$1 = 1" in shown
    assert "Hyper-V by in_" in shown
    assert "Thread 1 (vCPU 0" in shown
    assert "Thread 1" in again, again
    assert stop.kind == "quit", (stop, said)
    if stops:
        inside = re.findall(r"^(\w+) in section", broken, re.MULTILINE)
        assert inside == ["do_sys_openat2", "__x64_sys_close"], broken
        assert "$1 = 1" in broken  # it is on a kernel stack
        assert re.search(r"=> 0x[0-9a-f]+ <do_sys_openat2>:", broken), broken
