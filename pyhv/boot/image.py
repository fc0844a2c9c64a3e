"""A kernel or initrd file that nobody vouches for: each read is checked against its real size."""

from __future__ import annotations

import os
import stat

from ..errors import ConfigError
from ..memory import GuestMemory
from . import e820


class Image:
    """An open file; a context manager.

    :param path: a regular file.
    :param what: how messages call it: "kernel", "initrd".
    :raises ConfigError: it cannot be opened, is not a regular file, or is empty.
    """

    def __init__(self, path: str, what: str = "kernel") -> None:
        self.path, self.what = os.fspath(path), what
        try:
            # O_NONBLOCK: the open of a pipe without a writer would wait for ever
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"{what} {self.path}: {reason}") from error
        try:
            status = os.fstat(self._fd)
            if stat.S_ISDIR(status.st_mode):
                raise ConfigError(f"{what} {self.path}: is a directory")
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{what} {self.path}: not a regular file")
            if not status.st_size:
                raise ConfigError(f"{what} {self.path}: is empty")
        except ConfigError:
            self.close()
            raise
        self.size = status.st_size

    def __enter__(self) -> Image:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def error(self, text: str) -> ConfigError:
        """Return the error "kernel PATH: *text*"."""
        return ConfigError(f"{self.what} {self.path}: {text}")

    def check_has(self, offset: int, length: int, part: str) -> None:
        """Refuse a part that does not lie wholly in the file."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise self.error(
                f"truncated: {part} needs bytes {offset:#x}..{offset + length:#x}, "
                f"the file has {self.size:#x}"
            )

    def head(self, length: int) -> bytes:
        """Return the first *length* bytes, or fewer if the file is shorter."""
        return self.read(0, min(length, self.size), "the header")

    def read(self, offset: int, length: int, part: str) -> bytes:
        """Return a small part of the file; *part* is its name for the message."""
        self.check_has(offset, length, part)
        try:
            data = os.pread(self._fd, length, offset)
        except OSError as error:
            raise self.error(f"{part}: {error.strerror}") from error
        if len(data) != length:
            raise self.error(f"{part}: the file shrank while it was read")
        return data

    def load(self, memory: GuestMemory, gpa: int, offset: int, length: int, part: str) -> None:
        """Read *length* bytes from *offset* straight into guest RAM at *gpa*.

        :raises ConfigError: the file has not so much; there is no such RAM (see check_ram).
        """
        self.check_has(offset, length, part)
        self.check_ram(memory, gpa, length, part)
        at = memory.offset(gpa, length)
        view = memory.bytes[at : at + length]
        while length:
            try:
                count = os.preadv(self._fd, [view], offset)
            except OSError as error:
                raise self.error(f"{part}: {error.strerror}") from error
            if not count:
                raise self.error(f"{part}: the file shrank while it was read")
            view, offset, length = view[count:], offset + count, length - count

    def check_ram(
        self,
        memory: GuestMemory,
        gpa: int,
        length: int,
        part: str,
        taken: tuple[tuple[int, int], ...] = (),
    ) -> None:
        """Refuse a range that is not RAM for loading, or meets one of *taken* (start, end).

        Conventional memory ends at e820.EBDA; the BIOS and ACPI areas are ours.
        """
        end = gpa + length
        for start, stop in ((e820.EBDA, e820.EXTENDED), *taken):
            if gpa < stop and end > start:
                raise self.error(
                    f"{part} at {gpa:#x}..{end:#x} overlaps {start:#x}..{stop:#x}, "
                    "where pyhv puts its own tables"
                )
        if not any(r.gpa <= gpa and end <= r.gpa + r.size for r in memory.regions):
            raise self.error(
                f"{part} needs RAM at {gpa:#x}..{end:#x}: memory is {memory.size >> 20} MiB; "
                "give more with -m"
            )


class InitrdPath(str):
    """An initrd's path, and in ``more`` an archive that the kernel is to unpack after the file."""

    more = b""

    @classmethod
    def joined(cls, path: str, more: bytes) -> InitrdPath:
        """Return *path* with *more* behind it."""
        both = cls(path)
        both.more = more
        return both


def load_initrd(
    memory: GuestMemory, path: str, floor: int, ceiling: int, kernel: Image
) -> tuple[int, int]:
    """Load *path* as high as it goes in [floor, ceiling) of low RAM, page-aligned.

    :return: (guest address, bytes).
    :raises ConfigError: no room there: the machine has too little memory, or the file is too big.
    """
    with Image(path, "initrd") as initrd:
        top = min(ceiling, memory.regions[0].size)
        more = path.more if isinstance(path, InitrdPath) else b""
        if more:  # linux init/initramfs.c: an archive begins at a multiple of 4, after zeros
            more = bytes(-initrd.size % 4) + more
        size = initrd.size + len(more)
        gpa = (top - size) & ~0xFFF
        if gpa < floor:
            raise initrd.error(
                f"{size >> 10} KiB do not fit between {kernel.path} ({floor:#x}) "
                f"and {top:#x}; memory is {memory.size >> 20} MiB, give more with -m"
            )
        initrd.load(memory, gpa, 0, initrd.size, "the file")
        if more:
            memory.write(gpa + initrd.size, more)
        return gpa, size


def command_line(text: str, limit: int, kernel: Image) -> bytes:
    """Return *text* as the guest gets it, with its NUL.

    :param limit: most bytes the kernel takes, without the NUL.
    :raises ConfigError: longer, or a NUL inside.
    """
    data = os.fsencode(text)
    if b"\0" in data:
        raise ConfigError("-append: a NUL byte in the kernel command line; take it out")
    if len(data) > limit:
        raise ConfigError(f"-append: {len(data)} bytes, {kernel.path} takes {limit}; shorten it")
    return data + b"\0"
