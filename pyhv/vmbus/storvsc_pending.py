"""Requests of a storage controller whose answer waits until the disk has its data on the medium."""

from __future__ import annotations

from . import scsi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .channel import Channel
    from .scsi_disk import Lun

    #: (channel, transaction, (path, target, lun, CDB length, direction), bytes moved, sense)
    Answer = Callable[[Channel, int, "Where", int, scsi.Sense | None], None]
    Where = tuple[int, int, int, int, int]

MOST = 1024  # then TASK SET FULL: a guest that does not wait must not fill our memory


class Pending:
    """What waits for a flush. On the event loop, except for what a disk's thread calls.

    :param answer: sends a completion; with a sense it is a CHECK CONDITION.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._waiting: dict[int, tuple[Channel, object, int, Where, int]] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(
        self, lun: Lun, channel: Channel, transaction: int, where: Where, moved: int
    ) -> None:
        """Flush *lun*'s disk, then answer; not if the channel was closed meanwhile."""
        number = self._next
        self._next += 1
        # a channel that was opened again is the same object with another token in data
        self._waiting[number] = (channel, channel.data, transaction, where, moved)
        call = channel.server.events.call
        lun.disk.flush_soon(lambda error: call(lambda: self._done(number, error)))

    def _done(self, number: int, error: OSError | None) -> None:
        channel, opening, transaction, where, moved = self._waiting.pop(number)
        if channel.data is opening and opening is not None:
            sense = None if error is None else scsi.sense_of(error, True)
            self._answer(channel, transaction, where, moved, sense)

    def save(self) -> list[list[Any]]:
        """Return what waits, for a snapshot."""
        return [
            [channel.sub_index, transaction, list(where), moved]
            for channel, opening, transaction, where, moved in self._waiting.values()
            if channel.data is opening
        ]

    def load(
        self, rows: list[list[Any]], channels: dict[int, Channel], luns: dict[int, Lun]
    ) -> None:
        """Undo :meth:`save`: ask for the flushes again."""
        for sub_index, transaction, where, moved in rows:
            if sub_index in channels and where[2] in luns:
                self.add(luns[where[2]], channels[sub_index], transaction, tuple(where), moved)
