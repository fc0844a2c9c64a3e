"""Builds the differential guest, runs one set of cases in a machine, and returns the transcript."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from elftools.elf.elffile import ELFFile

from pyhv import Machine

from . import cases, operations

HERE = Path(__file__).parent
HOST_PORT = 0x5150
LIMIT_S = 60
ECHO, FULL, EVENT = 0x100, 0x101, 0x200  # connections
ECHO_SINT, EVENT_SINT, EVENT_FLAG = 5, 6, 0x123
DONE = 1  # the debug-exit port makes 2 * 0 + 1 of the guest's 0


class Line(NamedTuple):
    """What one operation saw."""

    case: str
    op: str
    seen: str


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="pyhv-diff-")


@functools.cache
def kernel() -> tuple[str, dict[str, int]]:
    """Return the guest's path and its symbols."""
    folder = Path(_folder().name)
    image, objects = folder / "guest.elf", folder / "guest.o"
    for command in (
        ("as", "--64", "-I", HERE, "-o", objects, HERE / "guest.S"),
        ("ld", "-m", "elf_x86_64", "-N", "--no-warn-rwx-segments", "-Ttext=0x100000",
         "-e", "_start", "-o", image, objects),
    ):  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr}")
    with image.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        symbols = {symbol.name: symbol["st_value"] for symbol in table.iter_symbols()}
    names = ("OPS", "LOG", "STUB", "EOI", "SLOT", "KHZ", "XMM", "X2APIC")
    return str(image), {name: symbols[name] for name in names}


@functools.cache
def suite() -> cases.Suite:
    """Return all cases."""
    return cases.Suite(kernel()[1])


class Host:
    """What a device model does with a SynicPort; the guest asks for it by an OUT."""

    def __init__(self, vm: Machine) -> None:
        self._vm, self._driver, self._events = vm, vm.board.driver, vm.events
        self._signallers: dict[tuple[int, int, int], Callable[[], None]] = {}
        self.posted: list[tuple[int, bytes]] = []
        vm.board.bus.claim_pio(HOST_PORT, 4, self)
        self._doorbell = -1
        if vm.features.synic:
            self._driver.connect_messages(ECHO, self._echo)
            self._driver.connect_messages(FULL, lambda kind, payload: 19)
            self._doorbell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._driver.bind_event(EVENT, self._doorbell)
            self._events.add(self._doorbell, self._rung)

    def pio_in(self, offset: int, size: int) -> int:
        """Nothing is read here."""
        return 0

    def pio_out(self, offset: int, size: int, value: int) -> None:
        """Do the operation at *value*."""
        code = self._vm.memory.read(value, 32)
        command = operations.HOST_COMMANDS[int.from_bytes(code[4:8], "little")]
        sint = int.from_bytes(code[8:16], "little")
        first, count, size = (int.from_bytes(code[16 + i : 18 + i], "little") for i in (0, 2, 4))
        vp = int(command.endswith("1"))
        if command.startswith("post"):
            for i in range(count):
                self._driver.post_message(vp, sint, first, bytes((0xA0 + i,)) * size)
        elif command == "raise":
            self._driver.raise_sint(vp, sint)
        else:
            self._events.call(lambda: self._signal(vp, sint, first))

    def _signal(self, vp: int, sint: int, flag: int) -> None:
        """Set an event flag; on the event loop, as a device does."""
        key = vp, sint, flag
        if key not in self._signallers:
            self._signallers[key] = self._driver.event_signaller(*key)
        self._signallers[key]()

    def _echo(self, message_type: int, payload: bytes) -> int:
        self._driver.post_message(0, ECHO_SINT, message_type, payload)
        return 0

    def _rung(self) -> None:
        os.eventfd_read(self._doorbell)
        self._signal(0, EVENT_SINT, EVENT_FLAG)

    def close(self) -> None:
        """Close the doorbell; the machine must have stopped."""
        if self._doorbell >= 0:
            os.close(self._doorbell)


def run(driver: str, name: str) -> list[Line]:
    """Run the set *name* under *driver* (``kernel``, ``user``); the last line is how it ended."""
    image, symbols = kernel()
    cpu, smp = suite().cpus[name]
    todo = suite().cases[name]
    ops = [op for case in todo for part in (case.before, case.ops, case.after) for op in part]
    code = b"".join(op.code for op in ops) + operations.record(operations.END)
    with Machine(
        kernel=image,
        cpu=cpu,
        smp=smp,
        hyperv=driver,
        memory=f"{operations.RAM_MIB}M",
        no_reboot=True,
    ) as vm:
        vm.memory.write(symbols["OPS"], code)
        vm.memory.write_u64(symbols["KHZ"], vm.board.vcpus[0].tsc_khz())
        host = Host(vm)
        try:
            vm.start()
            try:
                stop = vm.wait(LIMIT_S)
            except TimeoutError:
                vm.kill()
                stop = vm.wait()
            end = vm.memory.read_u64(symbols["LOG"]) or symbols["LOG"] + 8
            log = vm.memory.read(symbols["LOG"] + 8, end - symbols["LOG"] - 8)
        finally:
            vm.kill()
            if vm._thread is not None:
                vm.wait()
            host.close()
    lines, at, case_name = [], 0, ""
    for case in todo:
        for op in case.ops:
            if op.seen is None:
                continue
            if at >= len(log):
                break
            case_name = case.name
            seen, at = op.seen(log, at)
            lines.append(Line(case.name, op.text, seen))
    text = f"{stop.kind} {stop.status}"
    if "parameters" in stop.details:
        text += " " + " ".join(f"{value:x}" for value in stop.details["parameters"])
    if stop.kind == "exit" and stop.status != DONE or at != len(log):
        text += f", behind {case_name!r}; the guest wrote {log[at:].hex()}"
    elif stop.kind not in ("exit", "hv-crash", "reset"):
        text += f": {stop.text}, behind {case_name!r}"
    return [*lines, Line("end", "stop", text)]
