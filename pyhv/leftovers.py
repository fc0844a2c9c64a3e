"""What a test's machine leaves when the test has failed: as text for the report, and as files.

The files are made in memory: a pytest-xdist worker hands them to the controller, wherever it runs.
"""

from __future__ import annotations

import shlex
from _collections import deque

from .errors import PyhvError
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .config import MachineConfig
    from .machine import Machine
    from .net.config import Nic
    from .stop import Stop
    from .trace.event import Event

SHOWN_LINES = 20
KEPT_EVENTS = 10_000
REGISTERS_S = 5.0


def _smp(config: MachineConfig) -> list[str]:
    smp = config.smp
    text = f"cpus={smp.cpus},sockets={smp.sockets},cores={smp.cores},threads={smp.threads}"
    return ["-smp", text]


def _memory(config: MachineConfig) -> str:
    text, most = f"{config.memory_bytes >> 10}K", config.max_memory_bytes
    return text if most is None else f"{text},maxmem={most >> 10}K"


def _drives(config: MachineConfig) -> list[str]:
    words = []
    for drive in config.drives:
        text = "file=" + drive.path.replace(",", ",,")
        if drive.sector_size == 2048:
            words += ["-drive", text + ",media=cdrom"]
            continue
        text += f",format={drive.format}" * (drive.format is not None)
        text += ",readonly=on" * drive.readonly + ",snapshot=on" * drive.snapshot
        text += f",cache={drive.cache}" * (drive.cache != "writeback")
        text += f",logical_block_size={drive.sector_size}" * (drive.sector_size != 512)
        words += ["-drive", text]
    return words


def _nics(config: MachineConfig) -> list[str]:
    return [word for nic in config.nics for word in ("-nic", _nic(nic))]


def _nic(nic: Nic) -> str:
    items = [nic.kind]
    if nic.mac:
        items.append("mac=" + nic.mac.to_bytes(6, "big").hex(":"))
    items += [f"{key}={value}".replace(",", ",,")
              for key, value in (("ifname", nic.ifname), ("path", nic.path)) if value]  # fmt: skip
    if nic.server is not None:
        items.append(f"server={'on' if nic.server else 'off'}")
    items += [f"hostfwd={one.protocol}:{one.host}:{one.host_port}-:{one.guest_port}"
              for one in nic.forwards]  # fmt: skip
    return ",".join(items)


def _text(option: str, name: str) -> Callable[[MachineConfig], list[str]]:
    def words(config: MachineConfig) -> list[str]:
        value = getattr(config, name)
        return [option, value] if value else []

    return words


#: field of MachineConfig -> the words that ask for its value
SPELLED: dict[str, Callable[[MachineConfig], list[str]]] = {
    "memory_bytes": lambda config: ["-m", _memory(config)],
    "max_memory_bytes": lambda config: [],  # -m has both
    "smp": _smp,
    "drives": _drives,
    "cpu": _text("-cpu", "cpu"),
    "hv": _text("--hv", "hv"),
    "machine": _text("-M", "machine"),
    "kernel": _text("-kernel", "kernel"),
    "initrd": _text("-initrd", "initrd"),
    "append": _text("-append", "append"),
    "firmware": _text("-bios", "firmware"),
    "hyperv": _text("--hyperv", "hyperv"),
    "testdev": lambda config: ["-device", "hyperv-testdev"] * config.testdev,
    "nics": _nics,
    "agent": lambda config: ["--agent"] * config.agent,
    "vga": lambda config: ["-vga", config.vga],
    "vmbus_version": _text("--vmbus-version", "vmbus_version"),
    "no_reboot": lambda config: ["-no-reboot"] * config.no_reboot,
    "free_page_reporting": lambda config: ["--free-page-reporting"] * config.free_page_reporting,
    "time_limit": lambda config: (
        [] if config.time_limit is None else ["--time-limit", f"{config.time_limit:g}"]
    ),
}


def command(config: MachineConfig) -> str:
    """Return the command line that runs the same guest."""
    words = ["pyhv", "run"]
    for spell in SPELLED.values():
        words += spell(config)
    return shlex.join(words)


class Recorder:
    """Keeps a machine's last KEPT_EVENTS events; before it is started.

    :param wanted: categories as for ``--trace``.
    :raises ConfigError: a category that there is not.
    """

    def __init__(self, machine: Machine, wanted: str) -> None:
        self.events: deque[Event] = deque(maxlen=KEPT_EVENTS)
        machine.trace(wanted, self.events.append)

    def text(self) -> str:
        """Return the events as ``--trace`` shows them, 0 is the first one."""
        from .trace.writers import line

        events = list(self.events)
        zero = events[0].time_ns if events else 0
        return "".join(f"{line(event, zero)}\n" for event in events)


def registers(machine: Machine) -> str:
    """Return the registers of every vCPU of a machine that runs or is paused; "" if it does not."""
    from .report import register_lines

    lines: list[str] = []
    if not machine.started or machine.ended is not None:
        return ""
    for vcpu in machine.vcpus:
        try:
            from .cpustate import snapshot

            found = register_lines(vcpu.ask(snapshot, REGISTERS_S))
        except PyhvError as error:  # it ended this moment, or hangs in the kernel
            found = [f"  {error}"]
        lines += [f"registers of vcpu {vcpu.index}:", *found]
    return "".join(f"{line}\n" for line in lines)


def screen(machine: Machine) -> bytes:
    """Return what its screen shows, as a PNG; nothing if it has none, or shows nothing."""
    try:
        return machine.screenshot().png() if machine.config.vga != "none" else b""
    except PyhvError:
        return b""


class Left(Record):
    """*text* for people, *files* by name: console.log, report.txt, command.sh, ..."""

    text: str
    files: dict[str, bytes]


def left(
    machine: Machine, stop: Stop | None, live: str, recorder: Recorder | None, picture: bytes
) -> Left:
    """Return what *machine*, which has stopped, leaves.

    :param live: what :func:`registers` said before it was stopped; *picture*: :func:`screen`.
    """
    from .report import printable, register_lines, report

    again = command(machine.config)
    lines = [f"command: {again}"]
    if stop is not None:
        lines.append(report(stop, full=True))
        values = stop.details.get("registers")
        if not live and values:
            number = stop.details.get("vcpu", 0)
            live = "\n".join([f"registers of vcpu {number}:", *register_lines(values), ""])
    tail = machine.console.last_lines(SHOWN_LINES)
    lines += ["the console's last lines:", *(f"  | {printable(line)}" for line in tail)]
    text = "\n".join(lines)
    files = {
        "console.log": machine.console.data(),
        "report.txt": f"{text}\n".encode(errors="backslashreplace"),
        "command.sh": f"#!/bin/sh\n{again}\n".encode(errors="surrogateescape"),
    }
    if live:
        files["registers.txt"] = live.encode()
    if picture:
        files["screen.png"] = picture
    if recorder is not None:
        files["trace.txt"] = recorder.text().encode(errors="backslashreplace")
    return Left(text, files)
