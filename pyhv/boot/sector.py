"""A raw boot sector, entered as a BIOS would: real mode, 0000:7c00, DL = the drive.

The file may be longer than a sector; all of it is loaded, so a small program needs no
disk. Interrupts need a BIOS: this loader brings none.
"""

from __future__ import annotations

from . import e820, entry
from .image import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..memory import GuestMemory

ORIGIN = 0x7C00
SECTOR = 512
SIGNATURE, SIGNATURE_AT = b"\x55\xaa", 510
DRIVE = 0x80


def matches(head: bytes) -> bool:
    """Tell whether *head*, a file's beginning, is a boot sector."""
    return head[SIGNATURE_AT:SECTOR] == SIGNATURE


def load(
    memory: GuestMemory,
    image: Image,
    cmdline: str = "",
    initrd: str | None = None,
    rsdp_gpa: int = 0,
) -> entry.EntryState:
    """Load the file at 0x7c00.

    :raises ConfigError: no signature, longer than conventional memory, or a command line or
        initrd, which nothing could hand over.
    """
    if not matches(image.head(SECTOR)):
        raise image.error("not a boot sector: no 55 aa at its end")
    if cmdline or initrd is not None:
        raise image.error("a boot sector takes no -append and no -initrd")
    if image.size > e820.EBDA - ORIGIN:
        raise image.error(
            f"boot sector file of {image.size >> 10} KiB does not fit below 640 KiB; "
            "a disk image goes without -kernel"
        )
    image.load(memory, ORIGIN, 0, image.size, "the boot sector")
    return entry.real(0, ORIGIN, ORIGIN, {"rdx": DRIVE})
