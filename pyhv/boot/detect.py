"""Which loader takes a file: one table, tried in order, by what the file begins with."""

from __future__ import annotations

from ..record import Record
from .image import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from ..memory import GuestMemory
    from .entry import EntryState

HEAD_BYTES = 8192  # multiboot's header may lie that deep


class Kind(Record):
    """A row: its name, the module of the loader, and what the module is for."""

    name: str
    module: str
    what: str


#: order matters: a bzImage is also a boot sector, a multiboot kernel is mostly also ELF
KINDS = (
    Kind("bzImage", "linux", "Linux x86 bzImage"),
    Kind("multiboot", "multiboot", "multiboot 1 flat or ELF32 kernel"),
    Kind("elf", "elf", "ELF kernel (PVH, ELF64, ELF32)"),
    Kind("sector", "sector", "raw boot sector"),
)

#: (offset, magic, what to say): files that people give by mistake
HINTS = (
    (0, b"\x1f\x8b", "it is gzip data; unpack it first"),
    (0, b"\xfd7zXZ\0", "it is xz data; unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "it is zstd data; unpack it first"),
    (0, b"QFI\xfb", "it is a qcow2 disk image"),
    (0, b"070701", "it is a cpio archive; that goes with -initrd"),
    (0, b"MZ", "it is an EFI or DOS program without a Linux header"),
    (0x38, b"ARMd", "it is a kernel for arm64"),
    (257, b"ustar", "it is a tar archive"),
    (32769, b"CD001", "it is a CD image"),
)


def _module(kind: Kind) -> ModuleType:
    # what importlib.import_module does, without importlib and warnings, which it imports
    return __import__(f"{__package__}.{kind.module}", fromlist=("matches",))


def _kind(image: Image) -> Kind:
    head = image.head(HEAD_BYTES)
    for kind in KINDS:
        if _module(kind).matches(head):
            return kind
    known = ", ".join(kind.what for kind in KINDS)
    for offset, magic, text in HINTS:
        if image.size >= offset + len(magic) and image.read(offset, len(magic), text) == magic:
            raise image.error(f"is not a kernel I know: {text} (known: {known})")
    raise image.error(f"is not a kernel I know: known are {known}")


def detect(path: str) -> Kind:
    """Return the row that takes the file at *path*.

    :raises ConfigError: none does, or the file cannot be read.
    """
    with Image(path) as image:
        return _kind(image)


def load(
    memory: GuestMemory,
    path: str,
    cmdline: str | None = "",
    initrd: str | None = None,
    rsdp_gpa: int = 0,
) -> EntryState:
    """Load the kernel at *path* with the loader that takes it.

    :param cmdline: for the kernel (``-append``).
    :param initrd: a path; for multiboot a list of modules.
    :param rsdp_gpa: ACPI's root pointer, where the protocol can hand it over.
    :raises ConfigError: one line, whatever is wrong with the files or the memory size.
    """
    with Image(path) as image:
        load: Callable[..., EntryState] = _module(_kind(image)).load
        return load(memory, image, cmdline or "", initrd, rsdp_gpa)
