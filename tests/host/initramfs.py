"""Small initramfs archives: a busybox, decompressed kernel modules in load order, an /init."""

import lzma
import re
from pathlib import Path

LINKS = [
    "sh",
    "mount",
    "umount",
    "mkdir",
    "cat",
    "echo",
    "insmod",
    "poweroff",
    "reboot",
    "chroot",
    "sync",
    "ifconfig",
    "hostname",
    "sleep",
    "ls",
    "dmesg",
    "cut",
    "sed",
    "grep",
    "uname",
    "setsid",
    "cttyhack",
    "mknod",
    "head",
    "tail",
    "test",
    "dd",
    "ps",
    "kill",
    "date",
    "od",
    "hexdump",
    "free",
    "stty",
    "vi",
    "lspci",
    "ip",
    "unshare",
    "udhcpc",
    "nslookup",
    "wget",
    "nc",
    "ping",
    "md5sum",
    "tr",
    "wc",
]


def depends(elf: bytes) -> list[str]:
    """Return the names that .modinfo has: no need of depmod, which runs only at installation."""
    found = re.search(rb"\0depends=([^\0]*)\0", elf)
    return found[1].decode().split(",") if found and found[1] else []


def find_modules(root: Path, names: list[str]) -> list[tuple[str, bytes]]:
    """Return (name, ELF) of the modules *names* of the kernel in *root*, dependencies first.

    Names that are not there are taken to be built into the kernel.
    """
    files = {}
    for path in [*root.glob("usr/lib/modules/**/*.ko*"), *root.glob("lib/modules/**/*.ko*")]:
        files[path.name.partition(".ko")[0].replace("-", "_")] = path
    order: dict[str, bytes] = {}

    def add(name: str) -> None:
        name = name.replace("-", "_")
        if name in order or name not in files:
            return
        elf = files[name].read_bytes()
        if files[name].suffix == ".xz":
            elf = lzma.decompress(elf)
        for other in depends(elf):
            add(other)
        order[name] = elf

    for name in names:
        add(name)
    return list(order.items())


def under_test(root: Path, modules: list[str] | tuple) -> tuple[list[str], list[tuple[str, bytes]]]:
    """Return what *modules*, names in *root*'s kernel or files, depend on, and (name, ELF) of each.

    :raises OSError: a file that cannot be read. LookupError: the kernel has no such module.
    """
    needed: list[str] = []
    tested = []
    for module in modules:
        if module.endswith(".ko"):
            elf = Path(module).read_bytes()
            needed += depends(elf)
            tested.append((Path(module).stem, elf))
            continue
        found = find_modules(root, [module])
        if not found:
            raise LookupError(f"{module}: the kernel has none such")
        needed += [name for name, _ in found[:-1]]
        tested.append(found[-1])
    return needed, tested


def _entry(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """One member of a "newc" cpio archive (linux: driver-api/early-userspace/buffer-format)."""
    links = 2 if mode & 0o170000 == 0o040000 else 1
    raw = name.encode() + b"\0"
    fields = (0, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(raw), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def build(
    busybox: Path,
    init: str,
    modules: list[tuple[str, bytes]],
    files: dict[str, bytes] | None = None,
) -> bytes:
    """Return the archive. *init* is a shell script; ``/modules/order`` lists what to insmod.

    *files* are more, executable, by path without the first "/"; their folders come with them.
    """
    folders = ["bin", "dev", "proc", "sys", "run", "tmp", "etc", "root", "modules"]
    parts = [_entry(folder, 0o040755) for folder in folders]
    # Before devtmpfs is mounted, the kernel opens /dev/console for init.
    parts.append(_entry("dev/console", 0o020600, device=(5, 1)))
    parts.append(_entry("bin/busybox", 0o100755, busybox.read_bytes()))
    parts += [_entry(f"bin/{link}", 0o120777, b"busybox") for link in LINKS]
    parts += [_entry(f"modules/{name}.ko", 0o100644, elf) for name, elf in modules]
    order = "".join(f"/modules/{name}.ko\n" for name, _ in modules)
    parts.append(_entry("modules/order", 0o100644, order.encode()))
    more = {str(folder) for name in files or () for folder in Path(name).parents[:-1]}
    parts += [_entry(folder, 0o040755) for folder in sorted(more)]
    parts += [_entry(name, 0o100755, data) for name, data in (files or {}).items()]
    parts.append(_entry("init", 0o100755, init.encode()))
    parts.append(_entry("TRAILER!!!", 0))
    return b"".join(parts)
