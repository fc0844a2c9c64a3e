"""gdb at a Debian kernel: its symbols, its memory by guest-virtual address, its Hyper-V state."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess

import pytest
from conftest import BOOT_S, COMMAND_S, Guest, drivers, image
from elftools.elf.elffile import ELFFile

from pyhv.gdb.server import GdbServer
from pyhv.machine import Machine

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
SYMBOLS = ("linux_banner", "start_kernel", "panic")
GDB_S = 240


def with_symbols(vmlinux: str, addresses: dict[str, int], folder: pathlib.Path) -> str:
    """Return an ELF file with the sections of *vmlinux*, without content, and these symbols.

    Debian ships the kernel's own symbols in a package of a gigabyte; the running one has them too.
    """
    with open(vmlinux, "rb") as file:
        sections = [(s.name, s["sh_addr"], s["sh_size"]) for s in ELFFile(file).iter_sections()]
    options = []
    for name, address in addresses.items():
        place = [(s, at) for s, at, size in sections if at and at <= address < at + size]
        assert place, f"{name} at {address:#x} is in no section"
        options += ["--add-symbol", f"{name}={place[0][0]}:{address - place[0][1]:#x},global"]
    path = str(folder / "symbols")
    subprocess.run(["objcopy", "--only-keep-debug", *options, vmlinux, path], check=True)
    return path


def ask(script: str, symbols: str, socket: pathlib.Path) -> str:
    gdb = shutil.which("gdb")
    assert gdb is not None, "gdb is not installed: apt install gdb"
    commands = ["set pagination off", "set confirm off", f"symbol-file {symbols}",
                f"target remote {socket}", *script.strip().splitlines()]  # fmt: skip
    words = [word for line in commands for word in ("-ex", line.strip())]
    done = subprocess.run(
        [gdb, "-nx", "-batch", *words], capture_output=True, text=True, timeout=GDB_S
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("hyperv", drivers())
def test_a_session(tmp_path: pathlib.Path, hyperv: str) -> None:
    """The kernel is looked at in the middle of its life, and lives on."""
    socket = tmp_path / "gdb"
    with Machine(
        kernel=image("vmlinux", "trixie")[0], initrd=image("initramfs", "trixie")[0],
        append="console=ttyS0 quiet nokaslr", memory="512M", smp=2, hyperv=hyperv,
    ) as vm:  # fmt: skip
        server = GdbServer(vm, f"unix:{socket}", lambda text: None)
        server.start()
        try:
            vm.start()
            guest = Guest(vm)
            guest.console.expect("PYHV-USERSPACE", timeout=BOOT_S)
            guest.console.expect("# ", timeout=COMMAND_S)
            wanted = "\\|".join(f" {name}$" for name in SYMBOLS)
            guest.run("stty -echo; PS1=; echo")
            lines = guest.run(f"grep '{wanted}' /proc/kallsyms")
            found = re.findall(r"^([0-9a-f]{16}) \w (\S+)$", lines, re.MULTILINE)
            addresses = {name: int(address, 16) for address, name in found}
            assert set(addresses) == set(SYMBOLS), lines
            symbols = with_symbols(image("vmlinux", "trixie")[0], addresses, tmp_path)
            shown = ask(
                """
                x/s (char*)&linux_banner
                info threads
                print/x $cs
                print/x $cr0 & 0x80000001
                x/2i panic
                stepi
                monitor hyperv
                monitor walk 0xffffffff81000000
                """,
                symbols,
                socket,
            )
            assert "Linux version 6.12" in shown, shown
            assert "vCPU 1" in shown
            assert re.search(r"= 0x80000001$", shown, re.MULTILINE), shown
            assert "<panic>:" in shown, shown
            assert re.search(r"guest OS id 0x8100\w+ Linux 6\.12\.\d+", shown), shown
            assert re.search(r"SINT2 0x\w+ vector=\d+ masked=0", shown), shown
            assert "PML4E" in shown
            assert "gpa 0x1000000," in shown, shown
            assert guest.run("echo $((6*7))") == "42\n"
            vm.kill()
        finally:
            server.close()
