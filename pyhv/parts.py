"""The parts of Machine that a guest may never need, each imported when first asked for.

To import them all costs a machine that only boots a tenth of its start (docs/performance.md).
"""

from __future__ import annotations

#: module.Class of a part -> its names that others use; the rest of it comes with the first of them
PARTS = {
    "ballooning.Ballooning": "balloon begin_balloon guest_memory memory_report",
    "commands.Commands": "pull push renew_shells run shell_output",
    "daemons.Daemons": (
        "copy_in freeze frozen heartbeat kvp set_time shutdown thaw"  # Services', too
    ),
    "drives.Drives": "_open_drives add_disk change_medium disks remove_disk",
    "faulting.Faulting": "fault faults",
    "inspection.Inspection": "add_instrument hyperv trace vcpus",
    "offering.Offering": "offer withdraw",
    "restoring.Restoring": "from_snapshot restore snapshot take_up",
    "seat.Seat": "hand keyboard mouse screen_size screenshot serve_display",
    "streams.Streams": "vsock",
}


class Late:
    """Stands in class :class:`Parts` for an attribute, until somebody asks for it."""

    def __init__(self, home: str, name: str) -> None:
        self._home, self._name = home, name

    def __get__(self, machine: object, owner: type) -> object:
        """Put all that the part has into Parts, also this very name; return what it is now."""
        from importlib import import_module

        module, _, kind = self._home.partition(".")
        part = getattr(import_module(f"pyhv.{module}"), kind)
        for ancestor in reversed(part.__mro__[:-1]):  # object is the last
            for name, value in vars(ancestor).items():
                if not name.startswith("__"):
                    setattr(Parts, name, value)
        return getattr(owner if machine is None else machine, self._name)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from .ballooning import Ballooning
    from .commands import Commands
    from .daemons import Daemons
    from .drives import Drives
    from .faulting import Faulting
    from .inspection import Inspection
    from .offering import Offering
    from .restoring import Restoring
    from .seat import Seat
    from .streams import Streams

    class Parts(
        Ballooning, Commands, Daemons, Drives, Faulting, Inspection, Offering, Restoring, Seat,
        Streams,
    ):  # fmt: skip
        """All of them at once: what a reader or an editor may take it for."""
else:

    class Parts:
        """What Machine inherits: the attributes of all parts."""

    for _home, _names in PARTS.items():
        for _name in _names.split():
            setattr(Parts, _name, Late(_home, _name))
