"""The commands, one row each: what QEMU's manual says it returns, from this machine.

QEMU qapi/run-state.json, control.json, machine.json, machine-target.json.
"""

from __future__ import annotations

import time

from ..errors import PyhvError
from .keys import send_key
from .protocol import VERSION, QmpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..machine import Machine

    Arguments = dict[str, Any]

#: how long query-cpus-fast waits for threads that are being started
THREADS_S = 2.0
PAGE_MASK = ~4095
#: ending of a machine -> RunState
ENDED = {"hv-crash": "guest-panicked", "kvm-error": "internal-error", "error": "internal-error"}


def status(machine: Machine) -> str:
    """Return QMP's RunState."""
    ended = machine.ended
    if ended is not None:
        return ENDED.get(ended.kind, "shutdown")
    if machine.paused:
        return "paused" if machine.control.ran else "prelaunch"
    return "running" if machine.started else "prelaunch"


def _query_status(machine: Machine, arguments: Arguments) -> object:
    now = status(machine)
    return {"status": now, "running": now == "running"}


def _stop(machine: Machine, arguments: Arguments) -> object:
    machine.pause()
    return {}


def _cont(machine: Machine, arguments: Arguments) -> object:
    machine.resume()
    return {}


def _quit(machine: Machine, arguments: Arguments) -> object:
    machine.kill("quit", "quit by QMP")
    return {}


def _reset(machine: Machine, arguments: Arguments) -> object:
    machine.reset()
    return {}


def _powerdown(machine: Machine, arguments: Arguments) -> object:
    """The ACPI power button; a guest that listens powers off."""
    board = machine.board
    if board is not None:
        board.pm.press_power_button()
        machine.control.notify("POWERDOWN")
    return {}


def _balloon(machine: Machine, arguments: Arguments) -> object:
    value = arguments.get("value")
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise QmpError("Parameter 'target' expects a size")  # so says QEMU
    machine.begin_balloon(min(value, machine.memory.capacity) & PAGE_MASK)
    return {}


def _query_balloon(machine: Machine, arguments: Arguments) -> object:
    return {"actual": machine.guest_memory}


def _cpus(machine: Machine, arguments: Arguments) -> object:
    board, smp = machine.board, machine.config.smp
    found = []
    deadline = time.monotonic() + THREADS_S
    for thread in board.threads if board is not None and machine.started else ():
        while thread.thread.native_id is None and time.monotonic() < deadline:
            time.sleep(0.005)  # it begins just now
    for thread in board.threads if board is not None else ():
        core, index = divmod(thread.index, smp.threads)
        socket, core = divmod(core, smp.cores)
        found.append({
            "cpu-index": thread.index,
            "qom-path": f"/machine/unattached/device[{thread.index}]",
            "thread-id": thread.thread.native_id or 0,
            "target": "x86_64",
            "props": {"socket-id": socket, "core-id": core, "thread-id": index},
        })  # fmt: skip
    return found


def _expansion(machine: Machine, arguments: Arguments) -> object:
    """What a CPU model with these properties is here: every hv- flag, as the guest would get it."""
    kind, model = arguments.get("type"), arguments.get("model")
    if kind not in ("full", "static") or not isinstance(model, dict):
        raise QmpError("Parameter 'type' is full or static, and 'model' an object")
    name, given = model.get("name"), model.get("props", {})
    if not isinstance(name, str) or not isinstance(given, dict):
        raise QmpError("Parameter 'model' has a name and, if any, props")
    text = ",".join([name, *(f"{key}={_spelled(value)}" for key, value in given.items())])
    from .. import loading
    from ..hyperv.flags import ROWS

    config = machine.config._replace(cpu=text, hv=None)
    try:
        found = loading.guest_cpuid(config, machine.kvm, machine.in_kernel)
    except PyhvError as error:
        raise QmpError(str(error)) from error
    values = found.chosen.values
    props: dict[str, object] = {row.name: values[row.name] for row in ROWS}
    props |= found.spec.features
    props["kvm"] = found.spec.kvm
    return {"model": {"name": name, "props": props}}


def _spelled(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if not isinstance(value, (str, int)):
        raise QmpError("a property is a boolean, a number or a string")
    return str(value)


def _screendump(machine: Machine, arguments: Arguments) -> object:
    """The screen into a file of the host; "ppm" if no format is named, as in QEMU."""
    path, kind = arguments.get("filename"), arguments.get("format", "ppm")
    if not isinstance(path, str) or kind not in ("png", "ppm"):
        raise QmpError("Parameter 'filename' is a string, and 'format' png or ppm")
    machine.screenshot().save(path, kind)
    return {}


def _save(machine: Machine, arguments: Arguments) -> object:
    """The machine into a file of the host. Not QEMU's: its snapshot-save writes into a qcow2."""
    path = arguments.get("filename")
    if not isinstance(path, str) or not path:
        raise QmpError("Parameter 'filename' is a string")
    with machine.snapshot() as snapshot:
        snapshot.save(path)
    return {}


def _version(machine: Machine, arguments: Arguments) -> object:
    return VERSION


def _kvm(machine: Machine, arguments: Arguments) -> object:
    return {"enabled": True, "present": True}


def _name(machine: Machine, arguments: Arguments) -> object:
    return {}


def _commands(machine: Machine, arguments: Arguments) -> object:
    return [{"name": name} for name in COMMANDS]


COMMANDS: dict[str, Callable[[Machine, Arguments], object]] = {
    "query-status": _query_status,
    "stop": _stop,
    "cont": _cont,
    "quit": _quit,
    "system_reset": _reset,
    "system_powerdown": _powerdown,
    "balloon": _balloon,
    "query-balloon": _query_balloon,
    "query-cpus-fast": _cpus,
    "query-cpu-model-expansion": _expansion,
    "screendump": _screendump,
    "send-key": send_key,
    "x-snapshot-to-file": _save,
    "query-version": _version,
    "query-kvm": _kvm,
    "query-name": _name,
    "query-commands": _commands,
    "qmp_capabilities": lambda machine, arguments: {},
}
#: the arguments a command takes; others take none
ARGUMENTS = {
    "balloon": {"value"},
    "query-cpu-model-expansion": {"type", "model"},
    "screendump": {"filename", "format"},
    "send-key": {"keys", "hold-time"},
    "x-snapshot-to-file": {"filename"},
    "qmp_capabilities": {"enable"},
}
EVENTS = ("STOP", "RESUME", "RESET", "SHUTDOWN", "POWERDOWN", "GUEST_PANICKED")
