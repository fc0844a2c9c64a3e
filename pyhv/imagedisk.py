"""A disk image that is not raw (qcow2, VHD, VHDX): qemu-nbd reads and writes it, we ask qemu-nbd.

To everybody else it is a Disk: the snapshot over it, the flush thread and the errors are Disk's.
"""

from __future__ import annotations

import errno
import os

from .disk import FALLOC_FL_PUNCH_HOLE, Disk, open_image
from .errors import ConfigError, HostError
from .nbd import FLAG_READ_ONLY, FLAG_SEND_FLUSH, FLAG_SEND_WRITE_ZEROES, Client
from .qemunbd import PATIENCE_S, QemuNbd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .disk import Buffers

#: -drive format= -> whether unmapping is a change of tables there; elsewhere it writes zeros,
#: which would fill a sparse image when the guest trims it
FORMATS = {"qcow2": True, "vpc": False, "vhdx": False}
NEEDED = FLAG_SEND_FLUSH | FLAG_SEND_WRITE_ZEROES


class ImageDisk(Disk):
    """An open image of *format*, a key of FORMATS; the other parameters are Disk's.

    :param notice: told in one line when qemu-nbd is lost; from then on every request is an EIO.
    :raises ConfigError: it is not there or no such image. HostError: not permitted, in use, or
        qemu-nbd is not installed or would not open it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        format: str,
        readonly: bool = False,
        snapshot: bool = False,
        sector_size: int = 512,
        cache: str = "writeback",
        notice: Callable[[str], None] | None = None,
    ) -> None:
        if format not in FORMATS:
            raise ConfigError(f"disk {path}: format {format}: pyhv has raw, {', '.join(FORMATS)}")
        self.format = format
        self._notice = notice
        self._server: QemuNbd | None = None
        self._client: Client | None = None
        super().__init__(path, readonly, snapshot, sector_size, cache)

    def _attach(self, writable: bool) -> None:
        # only to look at: errors as of a raw image, times, the page cache; qemu-nbd has the lock
        self._fd = open_image(self.path, False)
        server = self._server = QemuNbd(self.path, self.format, not writable, self.cache)
        try:
            client = self._client = Client(server.sockets, PATIENCE_S, self._lost)
        except HostError as error:
            raise HostError(f"disk {self.path}: {server.close() or error}") from error
        if writable and (client.flags & FLAG_READ_ONLY or client.flags & NEEDED != NEEDED):
            raise HostError(f"disk {self.path}: qemu-nbd serves it without writes, flush or zeroes")

    def _lost(self, why: str) -> None:
        if self._notice is not None:
            said = self._server.why() if self._server is not None else ""
            self._notice(
                f"disk {self.path}: qemu-nbd is lost: {said or why}; the guest gets errors from it"
            )

    def _size(self) -> int:
        """The size inside; nobody resizes it while qemu-nbd has it."""
        return self._client.size

    def stamp(self) -> list[int]:
        """Return Disk's; what qemu-nbd still has in mind of the image's tables is in the file."""
        if not (self.readonly or self.snapshot):
            self._client.flush()
        return super().stamp()

    @property
    def thin(self) -> bool:
        """Whether a discard gives blocks back."""
        return not self.readonly and (self.snapshot or FORMATS[self.format])

    def read_image(self, offset: int, views: Buffers) -> None:
        """Fill *views* from *offset* of what is inside the image."""
        self._client.read(offset, views)

    def write_image(self, offset: int, views: Buffers) -> None:
        """Write *views* at *offset* of what is inside the image."""
        self._client.write(offset, views)

    def _zero_image(self, offset: int, length: int, modes: tuple[int, ...]) -> bool:
        self._client.write_zeroes(offset, length, modes[0] == FALLOC_FL_PUNCH_HOLE)
        return True

    def discard(self, offset: int, length: int) -> None:
        """Make the range zeros without blocks where the format can; else nothing."""
        if self.thin:
            super().discard(offset, length)
        elif self.readonly:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), self.path)

    def _sync(self) -> None:
        self._client.flush()

    def close(self) -> None:
        """End qemu-nbd, which brings all into the image, when the flushes are done. Idempotent."""
        self._syncer.close()
        if self._client is not None:
            self._client.close()
        if self._server is not None:
            self._server.close()
        super().close()
