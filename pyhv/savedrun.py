"""Snapshots of ``pyhv run``: Ctrl-A s and z write one, QMP too, ``--restore`` goes on from one."""

from __future__ import annotations

import os
import time

from .errors import ConfigError, PyhvError
from .options import GROUPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .console import Console
    from .machine import Machine
    from .options import Parsed
    from .snapshot import Snapshot

#: groups of options that describe the machine, which with --restore the snapshot does
MACHINE_GROUPS = ("What to boot", "The machine", "Screen", "Network")


def load(parsed: Parsed) -> Snapshot:
    """Open the file of ``--restore``.

    :raises ConfigError: no whole snapshot, or an option that is the snapshot's.
    """
    described = {option.key: option for name in MACHINE_GROUPS for option in GROUPS[name]}
    given = [key for key, _ in parsed.disks + parsed.nics] + list(parsed.values)
    for key in given:
        if key in described and key != "restore":
            name = next((path for one, path in parsed.disks if one == key == "disk"), "")
            raise ConfigError(
                f"{name or described[key].names[0]}: with --restore the machine is the snapshot's"
            )
    from .snapshot import Snapshot

    return Snapshot.load(parsed.get("restore") or "")


def machine(snapshot: Snapshot, parsed: Parsed, console: Console) -> Machine:
    """Return the machine that goes on from *snapshot*, not started."""
    from .machine import Machine
    from .options import seconds

    limit = parsed.get("time-limit")
    return Machine(
        console=console, snapshot=snapshot, no_reboot="no-reboot" in parsed,
        time_limit=None if limit is None else seconds(limit),
    )  # fmt: skip


def taken(snapshot: Snapshot) -> str:
    """Return when it was taken, in this host's time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(snapshot.taken))


def write(machine: Machine, path: str) -> None:
    """Write *machine* as it is now to the file *path*; it goes on as it was, running or not.

    :raises ConfigError: it cannot be saved. HostError: the file cannot be written.
    """
    with machine.snapshot() as snapshot:
        snapshot.save(path)


def by_key(machine: Machine, end: bool, say: Callable[[str], None]) -> None:
    """Do what Ctrl-A s and, with *end*, Ctrl-A z ask for: a new file in the current folder.

    What goes wrong is said, and the guest goes on.
    """
    path = time.strftime("pyhv-%Y%m%d-%H%M%S.snap")
    stood = machine.paused
    try:
        if os.path.exists(path):
            raise ConfigError(f"snapshot {path}: it is there already; wait a second")
        if end:
            machine.pause()  # nothing gets to a disk after it
        try:
            write(machine, path)
        except BaseException:
            if end and not stood:
                machine.resume()
            raise
    except PyhvError as error:
        say(str(error))
        return
    if end:
        machine.kill("quit", f"saved by Ctrl-A z; pyhv run --restore {path} goes on")
        return
    say(f"saved; pyhv run --restore {path} goes on from here")
    for drive in machine.config.drives:
        if not (drive.readonly or drive.snapshot):
            say(f"{drive.path} is not in it: once the guest writes there it cannot be restored; "
                "Ctrl-A z saves and ends, -snapshot keeps writes in the snapshot")  # fmt: skip
