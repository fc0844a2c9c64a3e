"""How each of the compared machines is started: pyhv, QEMU and the C loop, with the same guest."""

from __future__ import annotations

import os
import pathlib

ROOT = pathlib.Path(
    os.environ.get("PYHV_BENCH_ROOT") or pathlib.Path(__file__).resolve().parents[2]
)
DEBUG_EXIT = 33  # isa-debug-exit: 0x10 << 1 | 1; pyhv's exit port does the same
SMALL_MB, LINUX_MB = 32, 512
PLAIN_CPU = "host,kvm=off,hv_relaxed,hv_vpindex,hv_time,hv_crash"
#: what Debian's kernel is given, the same for pyhv and QEMU
LINUX_CPU = (
    "host,kvm=off,hv_relaxed,hv_vapic,hv_vpindex,hv_runtime,hv_time,hv_synic,hv_stimer,"
    "hv_stimer_direct,hv_frequencies,hv_reset,hv_tlbflush,hv_ipi"
)
#: CPython without site: what pyhv itself costs, not what this machine hooks into every Python
LAUNCH = "import sys; sys.path.insert(0, sys.argv.pop(1)); from pyhv.cli import entry; entry()"


class Setup:
    """What the outer machine has prepared; travels into the nested host as JSON.

    Paths are strings. ``python``, ``qemu``: how to start them. The rest are files.
    """

    def __init__(self, **fields: object) -> None:
        self.python: str = sys_path(fields, "python")
        self.qemu: list[str] = list(fields["qemu"])  # type: ignore[call-overload]
        self.files: dict[str, str] = dict(fields["files"])  # type: ignore[call-overload]

    def pyhv(self, *options: object, plain: bool = False) -> list[object]:
        """Return the command for ``pyhv run``.

        :param plain: ``python3 -m pyhv``, with whatever this machine's site-packages do first.
        """
        if plain:
            return [self.python, "-m", "pyhv", "run", *options]
        return [self.python, "-I", "-S", "-c", LAUNCH, ROOT, "run", *options]

    def emulator(
        self, machine: str, cpu: str, memory_mb: int, *options: object, serial: str = "stdio"
    ) -> list[object]:
        """Return the command for QEMU with KVM: *machine* is "microvm" or "pc"."""
        return [
            *self.qemu,
            *("-M", machine, "-accel", "kvm", "-cpu", cpu, "-m", memory_mb, "-no-reboot"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-serial", serial),
            *("-device", "isa-debug-exit,iobase=0xf4,iosize=4", *options),
        ]

    def c_loop(self, program: str, *options: object) -> list[object]:
        """Return the command for the C loop."""
        return [self.files["cloop"], self.files[program], *options]


def sys_path(fields: dict[str, object], name: str) -> str:
    """Return a path that must be absolute: the nested host starts it without a PATH."""
    path = str(fields[name])
    if not path.startswith("/"):
        raise ValueError(f"{name}: {path} is not absolute")
    return path
