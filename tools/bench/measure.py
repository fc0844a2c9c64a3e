"""The measurements, to be made inside the nested host; each function gives values for some rows."""

from __future__ import annotations

import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import quote

from . import guests, meter
from .machines import DEBUG_EXIT, LINUX_CPU, LINUX_MB, PLAIN_CPU, SMALL_MB, Setup

Value = tuple[str, str, float]  # row, column, value

C_OPERATIONS = ("out", "in", "mmio", "byte", "wrmsr", "rdmsr")
ALL_OPERATIONS = (*C_OPERATIONS, "rdmsr35", "hypercall")
PYHV_OPERATIONS = (*C_OPERATIONS, "hypercall")
SCRATCH = pathlib.Path("/dev/shm")
OUTPUT = SCRATCH / "output"

MEGA, KILO = 1e6, 1e3
STARTS = 3
DISK_MB = 64
QUIET = "2>/dev/null"
USERSPACE, DONE = b"PYHV-USERSPACE", b"PYHV-DONE 0"


def run(command: list[object], status: int = 0) -> float:
    """Run to the end; return CPU seconds."""
    return meter.Process(command, OUTPUT, status).finish()


def exits(setup: Setup) -> Iterator[Value]:
    """The exit rows: the guest itself takes the TSC around its loops."""

    def ticks(command: list[object], operations: tuple[str, ...], status: int) -> dict[str, float]:
        run(command, status)
        found = guests.parse(OUTPUT.read_bytes(), operations)
        return {name: value / KILO for name, value in found.items()}

    for name, value in ticks(setup.c_loop("c_program", "ring"), C_OPERATIONS, 0).items():
        yield name, "c", value
    rom = ["-bios", setup.files["all_rom"]]
    qemu = ticks(setup.emulator("microvm", PLAIN_CPU, SMALL_MB, *rom), ALL_OPERATIONS, DEBUG_EXIT)
    yield "kernel_rdmsr", "qemu", qemu.pop("rdmsr")
    yield "kernel_hypercall", "qemu", qemu["hypercall"]
    qemu["rdmsr"] = qemu["wrmsr"] = qemu.pop("rdmsr35")
    for name, value in qemu.items():
        yield name, "qemu", value
    base = ["-m", f"{SMALL_MB}M", "-cpu", PLAIN_CPU, "-kernel", setup.files["pyhv_program"]]
    kernel = ticks(setup.pyhv("--hyperv", "kernel", *base), PYHV_OPERATIONS, DEBUG_EXIT)
    for name in ("out", "in", "mmio", "byte"):
        yield name, "pyhv", kernel[name]
    for name in ("rdmsr", "hypercall"):
        yield f"kernel_{name}", "pyhv", kernel[name]
    user = ticks(setup.pyhv("--hyperv", "user", *base), PYHV_OPERATIONS, DEBUG_EXIT)
    yield "user_out", "pyhv", user["out"]
    for name in ("rdmsr", "wrmsr", "hypercall"):
        yield name, "pyhv", user[name]


def start(setup: Setup) -> Iterator[Value]:
    """Process start, a guest whose first act is to end it, process end. The least of some."""
    program = ["-m", f"{SMALL_MB}M", "-cpu", PLAIN_CPU, "-kernel", setup.files["end"]]
    rom = ["-bios", setup.files["end_rom"]]
    commands = (
        ("start", "pyhv", setup.pyhv(*program), DEBUG_EXIT),
        ("start_plain", "pyhv", setup.pyhv(*program, plain=True), DEBUG_EXIT),
        ("start", "qemu", setup.emulator("microvm", PLAIN_CPU, SMALL_MB, *rom), DEBUG_EXIT),
        ("start", "c", setup.c_loop("end"), 0),
    )
    for row, column, command, status in commands:
        yield row, column, min(run(command, status) for _ in range(STARTS)) * KILO


def memory(setup: Setup) -> Iterator[Value]:
    """Peak memory of a machine whose guest does nothing, some time after its start."""
    program = ["-m", f"{SMALL_MB}M", "-cpu", PLAIN_CPU, "-kernel", setup.files["idle"]]
    rom = ["-bios", setup.files["idle_rom"]]
    for column, command in (
        ("pyhv", setup.pyhv(*program)),
        ("qemu", setup.emulator("microvm", PLAIN_CPU, SMALL_MB, *rom)),
    ):
        process = meter.Process(command, OUTPUT)
        process.expect(b"idle")
        yield "memory", column, process.overhead_kib() / 1024
        process.kill()


def _linux(setup: Setup, machine: str, guest: str, initramfs: str, *more: object) -> list[object]:
    """Return the command for Debian's kernel running the shell command *guest*."""
    append = f"console=ttyS0 quiet panic=-1 pyhv.run={quote(guest)}"
    files = ("-kernel", setup.files["kernel"], "-initrd", setup.files[initramfs], "-append", append)
    if machine == "pyhv":
        return setup.pyhv("-m", f"{LINUX_MB}M", "-cpu", LINUX_CPU, *files, *more)
    return setup.emulator(machine, LINUX_CPU, LINUX_MB, *files, *more)


def debian(setup: Setup) -> Iterator[Value]:
    """Debian's kernel from process start to user space, half a second of sleep, power off."""
    microvm = ("debian_microvm", "debian_microvm_guest")
    pc = ("debian_pc", "debian_pc_guest")
    for machine, rows, column in (
        ("pyhv", (microvm, pc), "pyhv"),
        ("microvm", (microvm,), "qemu"),
        ("pc", (pc,), "qemu"),
    ):
        process = meter.Process(_linux(setup, machine, "sleep 0.5", "initramfs"), OUTPUT)
        process.expect(USERSPACE)
        if machine != "pc":
            yield "debian_memory", column, process.overhead_kib() / 1024
        process.expect(DONE)
        cpu = process.finish() * KILO
        for whole, in_guest in rows:
            yield whole, column, cpu
            yield in_guest, column, process.guest_s * KILO


def grub(setup: Setup) -> Iterator[Value]:
    """GRUB's ``linux`` and ``initrd``: one disk ends the machine after them, the other before."""
    for column in ("pyhv", "qemu"):
        spent, in_guest = [], []
        for disk in ("grub_before", "grub_after"):
            copy = SCRATCH / "disk.img"
            shutil.copyfile(setup.files[disk], copy)
            if column == "pyhv":
                command = setup.pyhv("-m", f"{LINUX_MB}M", "-cpu", LINUX_CPU, copy)
            else:
                drive = f"file={copy},format=raw,if=virtio"
                command = setup.emulator("pc", LINUX_CPU, LINUX_MB, "-drive", drive)
            process = meter.Process(command, OUTPUT, DEBUG_EXIT)
            spent.append(process.finish())
            in_guest.append(process.guest_s)
            copy.unlink()
        yield "grub", column, (spent[1] - spent[0]) * KILO
        yield "grub_guest", column, (in_guest[1] - in_guest[0]) * KILO


class Load(NamedTuple):
    """What the guest's disk is made to do; the row has its cost divided by *count*.

    :param command: of the guest's shell, with the number of requests or blocks as ``$1``.
    :param each: how many of these make one of *count*.
    """

    command: str
    count: int
    each: int = 1


DIRECT = f"dd if=$d of=/dev/null bs=4k iflag=direct count=$1 {QUIET}"
BUFFERED = f"echo 3 >/proc/sys/vm/drop_caches; dd if=$d of=/dev/null bs=4k count=$1 {QUIET}"
#: by row; "_exits" behind it is the row with its user-space exits
LOADS = {
    "direct": Load(DIRECT, 2000),
    "deep": Load("queue $d r 4096 32 37 $1", 2048),
    "large_read": Load("queue $d r 131072 1 1 $1", 256),
    "large_write": Load("queue $d w 131072 1 1 $1", 256),
    "buffered": Load(BUFFERED, 32, 256),
}


def disk_script() -> str:
    """Return the guest's part: for each load a warm-up, then the whole and a quarter of it.

    The guest sleeps after each mark, so that what the VMM has done until then is all counted.
    The kernel may print its command line, which has this: it must not look like a mark.
    """
    text = f"""set -e
while ! test -b /dev/sda -o -b /dev/vda; do sleep 0.1; done
d=/dev/sda; test -b $d || d=/dev/vda
mark() {{ sleep 0.2; echo MA''RK; sleep 0.3; }}
{"".join(f"{row}() {{ {load.command}; }}; " for row, load in LOADS.items())}
"""
    for row, load in LOADS.items():
        whole, quarter = load.count * load.each, load.count * load.each // 4
        text += f"{row} {max(64, whole // 20)}; mark; {row} {whole}; mark; {row} {quarter}; "
        text += "mark; mark\n"
    return text


def disk(setup: Setup) -> Iterator[Value]:
    """Loads in the guest on a file on tmpfs; exits are counted in runs of their own."""
    image = SCRATCH / "disk.img"
    with open(image, "wb") as file:
        for block in range(DISK_MB):
            file.write(bytes([block]) * (1 << 20))
    meter.mount_debug_files()
    with meter.UserExits() as counter:
        run(setup.c_loop("end"))
    if not counter.count:
        raise meter.Failed("the kernel's trace points count no exits")
    for column, machine, drive in (
        ("pyhv", "pyhv", image),
        ("qemu", "pc", f"file={image},format=raw,if=virtio"),
    ):
        more = [drive] if machine == "pyhv" else ["-drive", drive]
        process = meter.Process(
            _linux(setup, machine, disk_script(), "disk_initramfs", *more), OUTPUT
        )
        marks = 0

        def cpu_at_mark(process: meter.Process = process) -> float:
            nonlocal marks
            marks += 1
            process.expect(b"MARK", marks)
            time.sleep(0.1)
            return process.cpu_s()

        for row, load in LOADS.items():
            before, after = cpu_at_mark(), cpu_at_mark()
            yield row, column, (after - before) * MEGA / load.count
            with meter.UserExits() as counter:
                cpu_at_mark()
            with meter.UserExits() as nothing:  # the console's, of the mark itself
                cpu_at_mark()
            yield f"{row}_exits", column, (counter.count - nothing.count) / (load.count // 4)
        process.expect(DONE)
        process.finish()
    image.unlink()


#: what ``--only`` takes; in this order
PARTS: dict[str, Callable[[Setup], Iterator[Value]]] = {
    "exits": exits,
    "start": start,
    "memory": memory,
    "debian": debian,
    "grub": grub,
    "disk": disk,
}
QUICK = ("exits",)
