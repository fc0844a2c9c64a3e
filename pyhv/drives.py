"""A machine's disks and DVD drives: opened at the start, plugged in and out while it runs."""

from __future__ import annotations

import os

from .config import Drive
from .errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from .board import Board
    from .config import MachineConfig
    from .control import Control
    from .disk import Disk
    from .vmbus.storvsc import Scsi

    T = TypeVar("T")

ANSWER_S = 10.0


def opened(drive: Drive, notice: Callable[[str], None] | None = None) -> Disk:
    """Return the open disk. See Disk and ImageDisk for the errors; *notice* is ImageDisk's."""
    if drive.format in (None, "raw"):
        from .disk import Disk

        return Disk(
            drive.path, readonly=drive.readonly, snapshot=drive.snapshot,
            sector_size=drive.sector_size, cache=drive.cache, surely_raw=drive.format == "raw",
        )  # fmt: skip
    from .imagedisk import ImageDisk

    return ImageDisk(
        drive.path, drive.format, readonly=drive.readonly, snapshot=drive.snapshot,
        sector_size=drive.sector_size, cache=drive.cache, notice=notice,
    )  # fmt: skip


class Drives:
    """The part of Machine that has the drives, by LUN; any thread but a vCPU's may call.

    ``luns``: LUN -> open Disk, or None for a DVD drive without a medium. ``plugged``: it is not
    what the configuration says any more.
    """

    board: Board | None
    config: MachineConfig
    control: Control
    luns: dict[int, Disk | None]
    plugged: bool
    notice: Callable[[str], None] | None

    def _open_drives(self) -> None:
        for number, drive in enumerate(self.config.drives):
            self.luns[number] = opened(drive, self._notice_of_disk)

    def _notice_of_disk(self, text: str) -> None:
        if self.notice is not None:
            self.notice(text)

    @property
    def disks(self) -> list[Disk]:
        """The open images, in the order of their LUNs."""
        return [disk for _, disk in sorted(self.luns.items()) if disk is not None]

    def add_disk(self, disk: str | os.PathLike[str] | Drive) -> int:
        """Plug in an image; a Linux guest looks for it by itself. Return its LUN.

        The BIOS finds it after the next reset.

        :param disk: a path, or a Drive for other than the defaults.
        :raises ConfigError, HostError: it cannot be opened, all LUNs are taken, no machine runs.
        """
        drive = disk if isinstance(disk, Drive) else Drive(os.fspath(disk))
        new = opened(drive, self._notice_of_disk)
        try:
            return self._on_loop("add_disk", lambda: self._plug(new))
        except BaseException:
            new.close()
            raise

    def _plug(self, disk: Disk) -> int:
        from .vmbus.storvsc import MAX_LUNS

        free = next((lun for lun in range(MAX_LUNS) if lun not in self.luns), None)
        if free is None:
            raise ConfigError(f"add_disk: all {MAX_LUNS} LUNs are taken; remove one first")
        controller = self._controller("add_disk", wanted=False)
        self.luns[free], self.plugged = disk, True
        if controller is not None:
            controller.add(disk, free)
        else:
            from .offers import offer_controller

            offer_controller(self)
        return free

    def remove_disk(self, lun: int) -> None:
        """Unplug a drive, when its flushes are done; the guest's requests to it fail from then on.

        :raises ConfigError: there is none, or no machine runs.
        """
        old = self._on_loop("remove_disk", lambda: self._unplug(lun))
        if old is not None:
            old.close()

    def _unplug(self, lun: int) -> Disk | None:
        controller = self._controller("remove_disk")
        if lun not in self.luns:
            raise ConfigError(f"remove_disk: no LUN {lun}; there are {self._numbers()}")
        controller.remove(lun)
        self.plugged = True
        return self.luns.pop(lun)

    def change_medium(self, lun: int, path: str | os.PathLike[str] | None) -> None:
        """Put another ISO image into the DVD drive at *lun*; None leaves it empty.

        What the guest locked in comes out, too.

        :raises ConfigError, HostError: it cannot be opened, *lun* is no DVD drive.
        """
        from .vmbus.scsi_cdrom import SECTOR

        drive = None if path is None else Drive(os.fspath(path), True, sector_size=SECTOR)
        new = opened(drive) if drive is not None else None
        try:
            old = self._on_loop("change_medium", lambda: self._change(lun, new))
        except BaseException:
            if new is not None:
                new.close()
            raise
        if old is not None:
            old.close()

    def _change(self, lun: int, new: Disk | None) -> Disk | None:
        from .vmbus.scsi_cdrom import Cdrom

        controller = self._controller("change_medium")
        if not isinstance(controller.luns.get(lun), Cdrom):
            raise ConfigError(f"change_medium: LUN {lun} is no DVD drive")
        controller.change_medium(lun, new)
        old, self.luns[lun] = self.luns[lun], new
        self.plugged = True
        return old

    def _numbers(self) -> str:
        return ", ".join(map(str, sorted(self.luns))) or "none"

    def _controller(self, what: str, wanted: bool = True) -> Scsi | None:
        board = self.board
        if board is None or board.vmbus is None:
            raise ConfigError(f"{what}: the guest has no VMBus; -cpu needs hv_synic for it")
        controller = board.offered.get("storage")
        if controller is None and wanted:
            raise ConfigError(f"{what}: this machine has no drive")
        return controller  # type: ignore[return-value]

    def _on_loop(self, what: str, function: Callable[[], T]) -> T:
        """Do *function* on the event loop, which owns the controller; return what it returns."""
        results: list[T] = []
        self.control.on_loop(lambda: results.append(function()), ANSWER_S, what)
        return results[0]
