"""A raw disk image: scattered reads and writes, flush, discard; locked against second use.

I/O is buffered and done by the calling thread, which measured faster than handing it over for
what the page cache has (1.6 us against 32 for 4 KiB); a flush, which waits for the medium, has a
thread of the disk's own (syncer.py). Any error of the host is an OSError of the
call that met it; nothing is turned into success, and a flush that failed once fails for good.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from struct import pack, unpack

from .errors import ConfigError, HostError
from .syncer import Syncer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .diskoverlay import Clusters, Overlay
    from .iovec import IoVec

    Buffers = list[memoryview] | IoVec

IOV_MAX = 1024
SECTOR_SIZES = (512, 2048, 4096)
# fallocate(2) modes, linux/falloc.h
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE = 0x01, 0x02, 0x10
NOT_SUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV)
ZEROS = memoryview(bytes(1 << 20))
#: what other image formats begin with: their names, and format= of those that imagedisk.py opens
FORMATS = {
    b"QFI\xfb": ("qcow2", "qcow2"), b"vhdxfile": ("VHDX", "vhdx"), b"conectix": ("VHD", "vpc"),
    b"KDMV": ("VMDK", ""), b"<<< ": ("VDI", ""), b"QED\0": ("QED", ""),
}  # fmt: skip
QEMU_WRITER = 101  # the byte of which a QEMU that writes has a lock (block/file-posix.c)
FOOTER = 512  # a fixed VHD has its magic only in the last 512 bytes


class Disk:
    """An open image file or block device.

    :param readonly: never written; shared with other readers.
    :param snapshot: writes go to an unlinked temporary file (TMPDIR) and end with it.
    :param sector_size: 512 or 4096 bytes, 2048 for an ISO image in a DVD drive.
    :param cache: a key of config.CACHE: what a flush does. It never fails to be one for want of
        support in the file system: "none" is buffered, too.
    :param surely_raw: raw whatever it looks like. Else what looks like an image of another format
        is refused, and never opened as one: a guest can write such a header into a raw disk, which
        could name any file of the host as its backing file.
    :raises ConfigError: it is not there or no raw image. HostError: not permitted, or in use.

    Offsets and lengths are bytes inside the disk, which the caller checks.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        readonly: bool = False,
        snapshot: bool = False,
        sector_size: int = 512,
        cache: str = "writeback",
        surely_raw: bool = False,
    ) -> None:
        if sector_size not in SECTOR_SIZES:
            raise ConfigError(f"sector size {sector_size}: 512 or 4096, 2048 of a DVD")
        self.path, self.readonly, self.sector_size = os.fspath(path), readonly, sector_size
        self.snapshot = snapshot and not readonly
        self.cache, self.writethrough = cache, cache == "writethrough"
        self.size_bytes = 0
        self._overlay: Overlay | None = None
        self._flush_error = 0
        self._syncer = Syncer(self.flush)
        self._identity = b""
        self._surely_raw = surely_raw
        self._fd = -1
        try:
            self._attach(not (readonly or snapshot))
            self.update_size()
            if self.snapshot:
                from .diskoverlay import Overlay

                self._overlay = Overlay(self)
        except BaseException:
            self.close()
            raise

    def _attach(self, writable: bool) -> None:
        """Open the image and keep others out."""
        self._fd = open_image(self.path, writable)
        _lock(self._fd, self.path, exclusive=writable)
        if not self._surely_raw:
            self._check_format()

    def _check_format(self) -> None:
        head = os.pread(self._fd, 8, 0)
        tail = os.pread(self._fd, 8, max(0, self._size() - FOOTER))
        for magic, (name, format) in FORMATS.items():
            if head.startswith(magic) or format == "vpc" and tail == magic:
                how = f"open it as one: format={format}" if format else (
                    "make it raw: qemu-img convert -O raw"
                )  # fmt: skip
                raise ConfigError(
                    f"disk {self.path}: it looks like a {name} image; {how} (or format=raw if that "
                    "is what a guest wrote into a raw disk)"
                )

    def _size(self) -> int:
        return os.lseek(self._fd, 0, os.SEEK_END)

    def update_size(self) -> bool:
        """Look at the file's size again; True if it changed (the guest has then to be told).

        :raises ConfigError: it is empty now, or not a whole number of sectors.
        """
        size = self._size()
        if not size:
            raise ConfigError(f"disk {self.path}: empty; make one: truncate -s 4G FILE")
        if size % self.sector_size:
            raise ConfigError(
                f"disk {self.path}: {size} bytes, not a multiple of {self.sector_size}: a copy cut "
                f"short? copy it again, or pad it: truncate -s %{self.sector_size} FILE"
            )
        before, self.size_bytes = self.size_bytes, size
        self.sectors = size // self.sector_size
        return size != before

    @property
    def identity(self) -> bytes:
        """16 bytes, the same for the same path in every run."""
        if not self._identity:
            from hashlib import blake2b

            path = os.fsencode(os.path.realpath(self.path))
            self._identity = blake2b(path, digest_size=16, person=b"pyhv disk").digest()
        return self._identity

    # snapshots of a machine

    def stamp(self) -> list[int]:
        """Return what tells whether the image file was changed: bytes, time of the last change."""
        status = os.fstat(self._fd)
        return [self.size_bytes, status.st_mtime_ns]

    def check(self, stamp: list[int]) -> None:
        """Refuse an image that is not what it was at *stamp*.

        :raises ConfigError: it was changed: the guest's caches would not fit it.
        """
        if self.stamp() != stamp:
            hint = "" if self.readonly or self.snapshot else (
                "; a machine that goes back needs snapshot=on or readonly=on"
            )  # fmt: skip
            raise ConfigError(f"disk {self.path}: changed since the snapshot was taken{hint}")

    def freeze(self) -> Clusters | None:
        """Return what ``snapshot=on`` has written until now, which stays as it is; None without."""
        return self._overlay.freeze() if self._overlay is not None else None

    def go_back(self, clusters: Clusters | None) -> None:
        """Let the writes of now be those that :meth:`freeze` returned."""
        if self._overlay is not None and clusters is not None:
            self._overlay.go_back(clusters)

    # data

    def readv(self, offset: int, views: Buffers) -> None:
        """Fill *views* from *offset* on."""
        if self._overlay is not None:
            self._overlay.readv(offset, views)
        else:
            self.read_image(offset, views)

    def read_image(self, offset: int, views: Buffers) -> None:
        """Fill *views* from the image file itself, below a snapshot."""
        # nearly always all of it comes at once; what is short is read again
        if type(views) is list:
            done = len(views) == 1 and os.preadv(self._fd, views, offset) == len(views[0])
        else:
            done = views.preadv(self._fd, offset)
        if not done:
            transfer(os.preadv, self._fd, offset, views)

    def writev(self, offset: int, views: Buffers, sync: bool = False) -> None:
        """Write *views* from *offset* on; with *sync* they are on the medium at return.

        That is a flush of its own, not RWF_DSYNC: the kernel would tell of a page it lost to the
        writer of this one only, and the next flush would succeed.
        """
        if self.readonly:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), self.path)
        if self._overlay is not None:
            self._overlay.writev(offset, views)
        else:
            self.write_image(offset, views)
            if sync:
                self.flush()

    def write_image(self, offset: int, views: Buffers) -> None:
        """Write *views* to the image file itself, which has no snapshot over it."""
        # as in read_image; a short write is written again
        if type(views) is list:
            done = len(views) == 1 and os.pwritev(self._fd, views, offset) == len(views[0])
        else:
            done = views.pwritev(self._fd, offset)
        if not done:
            transfer(os.pwritev, self._fd, offset, views)

    def flush(self) -> None:
        """Return when all that was written is on the medium.

        Once it failed it always fails: the kernel tells of a lost page only once, and a retry
        would turn the loss into success.
        """
        if self._flush_error:
            raise OSError(self._flush_error, os.strerror(self._flush_error), self.path)
        if self._overlay is not None or self.cache == "unsafe":
            return
        try:
            self._sync()
        except OSError as error:
            self._flush_error = error.errno or errno.EIO
            raise
        if self.cache == "none":
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def _sync(self) -> None:
        os.fdatasync(self._fd)

    def flush_soon(self, told: Callable[[OSError | None], None]) -> None:
        """Flush on the disk's own thread, which then calls *told* with the error or None.

        What was written before this call is covered.
        """
        self._syncer.request(told)

    @property
    def volatile(self) -> bool:
        """Whether a write is not on the medium before a flush that takes time."""
        return not self.readonly and self._overlay is None and self.cache != "unsafe"

    @property
    def thin(self) -> bool:
        """Whether the guest is told that it can discard, and reads zeros then."""
        return not self.readonly

    def discard(self, offset: int, length: int) -> None:
        """Give the blocks back to the host where it can do that; a hint, no promise."""
        self._zero(offset, length, (FALLOC_FL_PUNCH_HOLE,))

    def write_zeroes(self, offset: int, length: int, unmap: bool = False) -> None:
        """Make the range read as zeros; with *unmap* preferably without blocks of the host."""
        modes = (FALLOC_FL_ZERO_RANGE, FALLOC_FL_PUNCH_HOLE)
        if not self._zero(offset, length, modes[::-1] if unmap else modes[:1]):
            for at in range(0, length, len(ZEROS)):
                self.writev(offset + at, [ZEROS[: length - at]])

    def _zero(self, offset: int, length: int, modes: tuple[int, ...]) -> bool:
        if self.readonly:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), self.path)
        if self._overlay is not None:
            self._overlay.zero(offset, length)
            return True
        return self._zero_image(offset, length, modes)

    def _zero_image(self, offset: int, length: int, modes: tuple[int, ...]) -> bool:
        for mode in modes:
            code = fallocate(self._fd, mode | FALLOC_FL_KEEP_SIZE, offset, length)
            if not code:
                return True
            if code not in NOT_SUPPORTED:
                raise OSError(code, os.strerror(code), self.path)
        return False

    def close(self) -> None:
        """Close the file, which unlocks it, when the flushes that were asked for are done.

        Idempotent.
        """
        self._syncer.close()
        if self._fd >= 0 and self.cache == "none" and not self.snapshot:
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._overlay is not None:
            self._overlay.close()


def transfer(call: object, fd: int, offset: int, views: Buffers, *flags: int) -> None:
    """Call preadv or pwritev until all is moved: IOV_MAX, short transfers."""
    todo = list(views)
    while todo:
        part = todo[:IOV_MAX]
        done = call(fd, part, offset, *flags)  # type: ignore[operator]
        if not done:  # past the end: the file was cut while it is open
            raise OSError(errno.EIO, "the image file is shorter than it was")
        offset += done
        kept = 0
        while kept < len(part) and done >= len(part[kept]):
            done -= len(part[kept])
            kept += 1
        del todo[:kept]
        if done:
            todo[0] = todo[0][done:]


def fallocate(fd: int, mode: int, offset: int, length: int) -> int:
    """Call fallocate(2), which os has without modes; return the errno, 0 if it worked."""
    call = _libc.get("fallocate")
    if call is None:
        call = ctypes.CDLL(None, use_errno=True).fallocate
        call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        _libc["fallocate"] = call
    return ctypes.get_errno() if call(fd, mode, offset, length) else 0


_libc: dict[str, ctypes._CFuncPtr] = {}  # type: ignore[name-defined]


def open_image(path: str, writable: bool) -> int:
    """Open what *path* names if it can be a disk; blocks on nothing."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise ConfigError(f"disk {path}: no such file; look at the path") from None
    except NotADirectoryError:
        raise ConfigError(f"disk {path}: a part of the path is no directory") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise HostError(f"disk {path}: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(mode):
        raise ConfigError(f"disk {path}: a directory; name the image file in it")
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise ConfigError(f"disk {path}: not a file or block device")
    flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
    if writable and stat.S_ISBLK(mode):
        flags |= os.O_EXCL  # EBUSY when the host has it mounted
    try:
        return os.open(path, flags)
    except PermissionError as error:
        hint = "chmod u+w it, or use readonly=on or snapshot=on" if writable else "chmod u+r it"
        raise HostError(f"disk {path}: {error.strerror}; {hint}") from error
    except OSError as error:
        hint = {
            errno.EBUSY: "; it is mounted on this host: unmount it",
            errno.EROFS: "; use readonly=on or snapshot=on",
            errno.ETXTBSY: "; another program uses it",
        }.get(error.errno or 0, "")
        raise HostError(f"disk {path}: {error.strerror}{hint}") from error


def _lock(fd: int, path: str, *, exclusive: bool) -> None:
    """Take an open-file-description lock of the whole file: it ends with the descriptor.

    QEMU locks single bytes in the same way, all of them shared: a writer has QEMU_WRITER.
    """
    kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))
        if not exclusive:
            probe = pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, QEMU_WRITER, 1, 0)
            found, _, start, *_ = unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_OFD_GETLK, probe))
            if found != fcntl.F_UNLCK and start:  # from byte 0 on: another reader of ours
                raise BlockingIOError(errno.EAGAIN, "QEMU writes it")
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            what = "image in use" if exclusive else "image in use by a writer"
            raise HostError(
                f"disk {path}: {what}; end the other machine or use a copy (several machines may "
                "share an image with readonly=on or snapshot=on)"
            ) from None
        if error.errno not in (*NOT_SUPPORTED, errno.ENOLCK, errno.EINVAL):
            raise HostError(f"disk {path}: lock: {error.strerror}") from error
        # a file system without locks: as safe as the user makes it
