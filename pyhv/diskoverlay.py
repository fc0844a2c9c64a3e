"""What ``snapshot=on`` writes: files over an image, which a snapshot of the machine freezes."""

from __future__ import annotations

import os

from .disk import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, ZEROS, fallocate, transfer
from .errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .disk import Buffers, Disk

    Clusters = dict[int, "tuple[Layer, int]"]  # cluster -> a file, and where in it


class Layer:
    """A file that nobody writes any more; it is closed with the last reference."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Overlay:
    """What ``snapshot=on`` writes: an unlinked temporary file over *disk*'s image.

    In clusters of 64 KiB; each is wholly here, or wholly in a layer that a snapshot of the machine
    holds still, or wholly in the image.
    """

    CLUSTER = 1 << 16

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._here: set[int] = set()
        self._below: Clusters = {}
        self._fd = self._file()

    def _file(self) -> int:
        try:
            import tempfile

            with tempfile.TemporaryFile(prefix="pyhv-snapshot-", buffering=0) as file:
                return os.dup(file.fileno())
        except OSError as error:
            raise HostError(
                f"disk {self._disk.path}: snapshot=on needs a temporary file: {error.strerror}; "
                "set TMPDIR to where one can be"
            ) from error

    def freeze(self) -> Clusters:
        """Return the clusters that differ from the image; what comes goes into a new file."""
        if self._here:
            size = self.CLUSTER
            fd = self._file()
            layer, self._fd = Layer(self._fd), fd
            if os.fstat(layer.fd).st_size < (end := (max(self._here) + 1) * size):
                os.ftruncate(layer.fd, end)
            self._below = self._below | {one: (layer, one * size) for one in self._here}
            self._here = set()
        return self._below

    def go_back(self, clusters: Clusters) -> None:
        """Undo all that was written since :meth:`freeze` returned *clusters*."""
        fd = self._file()
        os.close(self._fd)
        self._fd, self._here, self._below = fd, set(), clusters

    def readv(self, offset: int, views: Buffers) -> None:
        """Fill *views*, run by run of neighbours in the same file."""
        runs: list[tuple[int, int, list[memoryview]]] = []
        image, size, next_at = -1, self.CLUSTER, -1
        for view in views:
            at, length = 0, len(view)
            while at < length:
                cluster = offset // size
                n = min(length - at, (cluster + 1) * size - offset)
                fd, place = image, offset
                if cluster in self._here:
                    fd = self._fd
                elif cluster in self._below:
                    layer, base = self._below[cluster]
                    fd, place = layer.fd, base + offset % size
                if not runs or runs[-1][0] != fd or place != next_at:
                    runs.append((fd, place, []))
                runs[-1][2].append(view[at : at + n])
                at, offset, next_at = at + n, offset + n, place + n
        for fd, start, parts in runs:
            if fd == image:
                self._disk.read_image(start, parts)
            else:
                transfer(os.preadv, fd, start, parts)

    def writev(self, offset: int, views: Buffers) -> None:
        """Write *views*."""
        clusters = self._prepare(offset, sum(len(view) for view in views))
        transfer(os.pwritev, self._fd, offset, views)
        self._here.update(clusters)  # only now: a failed write leaves the old contents

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeros; whole clusters as holes."""
        clusters = self._prepare(offset, length)
        if fallocate(self._fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length):
            for at in range(0, length, len(ZEROS)):
                transfer(os.pwritev, self._fd, offset + at, [ZEROS[: length - at]])
        elif os.fstat(self._fd).st_size < offset + length:
            os.ftruncate(self._fd, offset + length)
        self._here.update(clusters)

    def _prepare(self, offset: int, length: int) -> range:
        """Copy up the clusters that a range covers in part; return all that it touches."""
        end, size = offset + length, self.CLUSTER
        clusters = range(offset // size, (end - 1) // size + 1)
        for cluster in {clusters[0], clusters[-1]} - self._here:
            start = cluster * size
            if offset > start or end < start + size:
                data = memoryview(bytearray(size))
                there = min(size, self._disk.size_bytes - start)
                self.readv(start, [data[:there]])
                transfer(os.pwritev, self._fd, start, [data])
                self._here.add(cluster)
        return clusters

    def close(self) -> None:
        """Let the file go, and with it all that was written since the last snapshot."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._below = -1, {}
