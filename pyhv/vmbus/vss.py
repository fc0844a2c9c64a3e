"""Volume snapshots: the host has the guest's file systems frozen while it copies a disk.

Operations and layouts: linux include/uapi/linux/hyperv.h, drivers/hv/hv_snapshot.c.
"""

from __future__ import annotations

from . import protocol as p
from .ic import Service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .channel import Channel
    from .ic import Told

VSS_OP_HOT_BACKUP, VSS_OP_FREEZE, VSS_OP_THAW = 2, 5, 6
BODY_BYTES = 12  # 0:1 operation, 1:7 zero, 8:4 flags


class Vss(Service):
    """``frozen``: a freeze was answered well and no thaw has been."""

    class_guid = p.GUID_VSS
    instance_guid = "2450ee40-33bf-4fbd-892e-9fb06e9214cf"
    message_type, versions = 5, ((5, 0), (4, 0))
    guest_side = "hv_utils"
    frozen = False
    _operation = 0
    _unwanted = False

    def check(self, told: Told) -> bool:
        """Ask whether the guest can be frozen at all: Linux refuses where no daemon runs."""
        return self._request(VSS_OP_HOT_BACKUP, told)

    def freeze(self, told: Told) -> bool:
        """Freeze; the answer comes when all file systems are."""
        return self._request(VSS_OP_FREEZE, told)

    def thaw(self, told: Told | None = None) -> bool:
        """Let them go on."""
        return self._request(VSS_OP_THAW, told)

    def give_up(self) -> None:
        """Nobody waits for the freeze any more: when it comes true all the same, thaw at once."""
        self._unwanted = True
        if self.frozen and not self.busy:
            self.thaw()

    def _request(self, operation: int, told: Told | None) -> bool:
        if not self.ask(bytes((operation,)).ljust(BODY_BYTES, b"\0"), told):
            return False
        self._operation = operation
        if operation == VSS_OP_FREEZE:
            self._unwanted = False
        return True

    def answered(self, status: int, data: bytes) -> None:
        """Keep what it means."""
        if status == 0 and self._operation != VSS_OP_HOT_BACKUP:
            self.frozen = self._operation == VSS_OP_FREEZE
            if self.frozen and self._unwanted:
                self.thaw()

    def save(self) -> dict[str, Any]:
        """Frozen file systems are so in a snapshot, too."""
        return {**super().save(), "frozen": self.frozen, "operation": self._operation}

    def load(self, state: dict[str, Any], channels: dict[int, Channel]) -> None:
        """Undo :meth:`save`; nobody waits for a freeze that was under way."""
        super().load(state, channels)
        self.frozen, self._operation, self._unwanted = state["frozen"], state["operation"], True

    def closed(self, channel: Channel) -> None:
        """Linux's driver thaws before it goes, and a reset guest has nothing frozen."""
        super().closed(channel)
        self.frozen = False
