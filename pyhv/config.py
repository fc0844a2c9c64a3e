"""What a machine is made of, and how ``-m``, ``-smp`` and ``-drive`` say it; touches no file.

Grammar and checks are QEMU's (hw/core/machine-smp.c, system/vl.c); keys that pyhv does not
provide are refused by name.
"""

from __future__ import annotations

from os import fspath

from .errors import ConfigError
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .net.config import Nic

MIB = 1 << 20
_UNITS = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}
MAX_CPUS = 254  # 8-bit APIC ids below 0xff, and one for the I/O APIC

HYPERV_DRIVERS = ("auto", "kernel", "user")
VGAS = ("none", "hyperv")
HV_PRESETS = ("none", "linux", "windows", "nested", "max")  # hyperv/presets.py


class Smp(Record):
    """``-smp``: *cpus* run from the start, of sockets * cores * threads."""

    cpus: int
    sockets: int
    cores: int
    threads: int


class Drive(Record):
    """``-drive``: a disk image.

    *snapshot*: writes vanish at the end. *cache*: a key of CACHE. *sector_size*: the logical block
    size, 512 or 4096; 2048 makes it the medium of a DVD drive (:func:`cdrom`). *format*: one of
    FORMATS; None is raw too, but refuses what looks like another one.
    """

    path: str
    readonly: bool = False
    snapshot: bool = False
    cache: str = "writeback"
    sector_size: int = 512
    format: str | None = None


class MachineConfig(Record):
    """Everything a Machine is built from. Sizes in bytes, times in seconds.

    ``max_memory_bytes``: what RAM may become by ``Machine.balloon``, None for no more than it is.
    ``cpu`` is the text of ``-cpu`` (cpu_options.DEFAULT_CPU if None); ``firmware`` a file
    instead of pyhv's own BIOS; ``hyperv`` one of HYPERV_DRIVERS; ``hv`` one of HV_PRESETS, put
    before ``cpu``'s own flags; ``machine`` the text of ``-M``; ``kernel`` boots directly;
    ``testdev`` adds the hyperv-testdev; ``nics`` are the network cards; ``agent`` adds COM2 for
    ``Machine.run``, and a shell on it to the initrd; ``free_page_reporting``
    lets the guest tell which pages hold nothing, which the host then takes; ``vga``, one of
    VGAS, gives it a screen and a mouse; ``vmbus_version`` is the highest that the bus takes,
    "4.1", None for pyhv's own.
    """

    cpu: str | None = None
    memory_bytes: int = 256 * MIB
    max_memory_bytes: int | None = None
    smp: Smp = Smp(1, 1, 1, 1)
    drives: tuple[Drive, ...] = ()
    kernel: str | None = None
    initrd: str | None = None
    append: str = ""
    firmware: str | None = None
    hyperv: str = "auto"
    hv: str | None = None
    machine: str | None = None
    no_reboot: bool = False
    time_limit: float | None = None
    testdev: bool = False
    nics: tuple[Nic, ...] = ()
    agent: bool = False
    free_page_reporting: bool = False
    vga: str = "none"
    vmbus_version: str | None = None


def cdrom(path: str) -> Drive:
    """Return a DVD drive with the ISO image *path* in it."""
    return Drive(path, readonly=True, sector_size=2048)


def machine_config(
    *,
    memory: str | int = 256 * MIB,
    smp: str | int | Smp = 1,
    disk: str | Drive | None = None,
    drives: tuple[str | Drive, ...] | list[str | Drive] = (),
    nics: tuple[str | Nic, ...] | list[str | Nic] = (),
    **options: object,
) -> MachineConfig:
    """Return a MachineConfig from keywords as a test writes them.

    :param memory: bytes, or text as for ``-m``, such as "512M,maxmem=2G".
    :param smp: a number, or text as for ``-smp``.
    :param disk: a path or a Drive, the first drive. *drives*: more, paths or Drives.
    :param nics: network cards, text as for ``-nic`` or a Nic each.
    :param options: the other fields of MachineConfig.
    :raises ConfigError: an unknown keyword, or a value that cannot be.
    """
    for name in options:
        if name not in MachineConfig._fields:
            raise ConfigError(f"Machine({name}=...): no such option; {_nearest(name)}")
    most = None
    if not isinstance(memory, int):
        memory, most = parse_memory(memory)
    every = [disk, *drives] if disk is not None else [*drives]
    config = MachineConfig(
        memory_bytes=options.pop("memory_bytes", memory),  # type: ignore[arg-type]
        max_memory_bytes=options.pop("max_memory_bytes", most),  # type: ignore[arg-type]
        smp=smp if isinstance(smp, Smp) else parse_smp(str(smp)),
        drives=tuple(one if isinstance(one, Drive) else Drive(fspath(one)) for one in every),
        nics=_parse_nics(nics) if nics else (),
        **options,  # type: ignore[arg-type]
    )
    return checked(config)


def _parse_nics(nics: tuple[str | Nic, ...] | list[str | Nic]) -> tuple[Nic, ...]:
    from .net.config import parse_nic

    return tuple(parse_nic(one) if isinstance(one, str) else one for one in nics)


def checked(config: MachineConfig) -> MachineConfig:
    """Return *config*, or raise ConfigError for fields that do not go together."""
    if config.hyperv not in HYPERV_DRIVERS:
        raise ConfigError(f"hyperv {config.hyperv!r}: one of {', '.join(HYPERV_DRIVERS)}")
    if config.hv is not None and config.hv not in HV_PRESETS:
        raise ConfigError(f"hv {config.hv!r}: one of {', '.join(HV_PRESETS)}")
    if config.vga not in VGAS:
        raise ConfigError(f"vga {config.vga!r}: one of {', '.join(VGAS)}")
    if config.kernel is None and (config.initrd is not None or config.append):
        raise ConfigError("-initrd and -append need -kernel; a disk's boot loader has its own")
    if config.kernel is not None and config.firmware is not None:
        raise ConfigError("-kernel and -firmware: one of them; a kernel starts without firmware")
    if config.nics:
        from .net.config import MAX_NICS

        if len(config.nics) > MAX_NICS:
            raise ConfigError(f"{len(config.nics)} network cards: pyhv has at most {MAX_NICS}")
    if config.vmbus_version is not None:
        from .vmbus.protocol import VERSIONS

        if config.vmbus_version not in VERSIONS:
            known = ", ".join(VERSIONS)
            raise ConfigError(f"VMBus version {config.vmbus_version}: pyhv has {known}")
    if config.time_limit is not None and not config.time_limit > 0:
        raise ConfigError(f"time limit {config.time_limit}: more than 0 seconds")
    return config


def _nearest(name: str) -> str:
    import difflib

    known = [*MachineConfig._fields, "memory", "disk"]
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isalnum()) or len(text) > 20:
        return None
    try:
        return int(text, 16) if text[:2].lower() == "0x" else int(text)
    except ValueError:
        return None


def _items(option: str, text: str, first: str) -> dict[str, str]:
    """Return key -> value of ``a=b,c=d``; ``,,`` is a comma; *first* is the key of a bare value."""
    found: dict[str, str] = {}
    for number, item in enumerate(text.replace(",,", "\0").split(",")):
        item = item.replace("\0", ",")
        key, equals, value = item.partition("=")
        if number == 0 and not equals:
            key, value = first, item
        elif not equals:
            raise ConfigError(f"{option} {text}: {item!r} has no '='; write key=value")
        found[key] = value
    return found


def _refuse_others(option: str, text: str, given: dict[str, str], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{option} {text}: {key!r} is not provided by pyhv; known: {', '.join(known)}"
            )


def _on_off(option: str, key: str, value: str) -> bool:
    if value in ("on", "yes", "true", "y"):
        return True
    if value in ("off", "no", "false", "n"):
        return False
    raise ConfigError(f"{option} {key}={value}: Parameter '{key}' expects 'on' or 'off'")


def parse_size(text: str, *, unit: str = "m", option: str = "-m") -> int:
    """Return bytes for ``256M``, ``1.5G``, ``size=1G``; a plain number counts in *unit* (MiB).

    :raises ConfigError: no size, or not a whole number of 4 KiB pages.
    """
    given = _items(option, text, "size")
    _refuse_others(option, text, given, ("size",))
    value = given["size"]
    number, suffix = (value[:-1], value[-1]) if value[-1:].isalpha() else (value, unit)
    shift = _UNITS.get(suffix.lower())
    if value[:2].lower() == "0x":  # QEMU: hexadecimal takes no suffix
        number, shift = value, _UNITS[unit]
    whole, point, part = number.partition(".")
    digits = _number(whole) if not point else _decimal(whole, part)
    if shift is None or digits is None:
        raise ConfigError(f"{option} {text}: no size; write 256M or 1G, a plain number is MiB")
    scale = 10 ** len(part)
    if (digits << shift) % scale:
        raise ConfigError(f"{option} {text}: not a whole number of bytes")
    size: int = (digits << shift) // scale
    if not 0 < size < 1 << 52 or size % 4096:
        raise ConfigError(f"{option} {text}: {size} bytes; a multiple of 4 KiB is needed")
    return size


def parse_memory(text: str) -> tuple[int, int | None]:
    """Return what ``-m`` says: RAM at the start, and at most (None: the same), in bytes.

    :raises ConfigError: no size. ``slots`` is QEMU's number of DIMMs; here memory comes without.
    """
    given = _items("-m", text, "size")
    _refuse_others("-m", text, given, ("size", "slots", "maxmem"))
    if "slots" in given and _number(given["slots"]) is None:
        raise ConfigError(f"-m {text}: Parameter 'slots' expects a number")
    if "size" not in given:
        raise ConfigError(f"-m {text}: no size; write 512M,maxmem=2G")
    size = parse_size(given["size"])
    return size, parse_size(given["maxmem"]) if "maxmem" in given else None


def _decimal(whole: str, part: str) -> int | None:
    if (whole + part).isdecimal() and (whole + part).isascii() and len(whole + part) < 20:
        return int(whole + part)
    return None


#: levels of QEMU's topology that pyhv has one of; libvirt writes dies=1,clusters=1
ONE_OF = ("dies", "modules", "clusters", "books", "drawers")


def parse_smp(text: str) -> Smp:
    """Return the topology for ``2`` or ``cpus=4,sockets=1,cores=2,threads=2,maxcpus=4``.

    What is left out follows as in QEMU since 6.2: cores before sockets, threads 1.

    :raises ConfigError: a number that is none, a product that is not maxcpus, CPU hot-plug.
    """
    known = ("cpus", "maxcpus", "sockets", "cores", "threads")
    given = _items("-smp", text, "cpus")
    given = {key: value for key, value in given.items() if key not in ONE_OF or value != "1"}
    _refuse_others("-smp", text, given, known)
    number: dict[str, int] = {}
    for key, value in given.items():
        found = _number(value)
        if found is None:
            raise ConfigError(f"-smp {text}: Parameter '{key}' expects a number")
        if found == 0:
            raise ConfigError(
                f"-smp {text}: Invalid CPU topology: CPU topology parameters must be greater "
                "than zero"
            )
        number[key] = found
    cpus, most = number.get("cpus", 0), number.get("maxcpus", 0)
    sockets, cores = number.get("sockets", 0), number.get("cores", 0)
    threads = number.get("threads", 0)
    if not cpus and not most:
        sockets, cores, threads = sockets or 1, cores or 1, threads or 1
    else:
        most = most or cpus
        if not cores:
            sockets, threads = sockets or 1, threads or 1
            cores = most // (sockets * threads)
        elif not sockets:
            threads = threads or 1
            sockets = most // (cores * threads)
        threads = threads or most // (sockets * cores) or 1
    total = sockets * cores * threads
    most = most or total
    cpus = cpus or most
    if total != most:
        raise ConfigError(
            f"-smp {text}: Invalid CPU topology: product of the hierarchy must match maxcpus: "
            f"sockets ({sockets}) * cores ({cores}) * threads ({threads}) != maxcpus ({most})"
        )
    if most != cpus:
        raise ConfigError(
            f"-smp {text}: maxcpus ({most}) is not cpus ({cpus}): pyhv cannot add a CPU while the "
            "machine runs; make them equal"
        )
    if cpus > MAX_CPUS:
        raise ConfigError(f"-smp {text}: {cpus} CPUs, pyhv's machine has at most {MAX_CPUS}")
    return Smp(cpus, sockets, cores, threads)


#: what a write and a guest's flush mean (pyhv/disk.py, docs/storage.md)
CACHE = {
    "writeback": "a write is in the host's page cache; a flush brings it to the medium",
    "none": "the same, and a flush drops the image from the page cache",
    "writethrough": "a write is answered when it is on the medium",
    "unsafe": "a flush does nothing: what the host has not written by itself, a crash of it loses",
}
#: -drive format=; qemu-nbd has the last three (pyhv/imagedisk.py)
FORMATS = ("raw", "qcow2", "vpc", "vhdx")
DRIVE_KEYS = (
    "file", "format", "readonly", "snapshot", "cache", "logical_block_size", "if", "media", "id",
)  # fmt: skip


def parse_drive(text: str) -> Drive:
    """Return the drive for ``disk.img`` or ``file=disk.img,format=raw,readonly=on,snapshot=on``.

    ``cache`` and ``logical_block_size`` are Drive's, and change nothing for ``media=cdrom``; ``id``
    never does. What would be a lie is refused, such as ``if=virtio``.

    :raises ConfigError: no file, another format, a key that pyhv does not provide.
    """
    given = _items("-drive", text, "file")
    _refuse_others("-drive", text, given, DRIVE_KEYS)
    if not given.get("file"):
        raise ConfigError(f"-drive {text}: no file; write file=disk.img")
    format = given.get("format")
    if format not in (None, *FORMATS):
        raise ConfigError(
            f"-drive {text}: format {format}: pyhv has {', '.join(FORMATS)}; convert it with "
            f"qemu-img convert -O qcow2 {given['file']} disk.qcow2"
        )
    allowed = {
        "cache": tuple(CACHE),
        "logical_block_size": ("512", "4096"),
        "if": ("none", "scsi"),
        "media": ("disk", "cdrom"),
    }
    for key, values in allowed.items():
        if given.get(key, values[0]) not in values:
            raise ConfigError(f"-drive {text}: {key}={given[key]}: pyhv has {', '.join(values)}")
    if given.get("media") == "cdrom":
        if format not in (None, "raw"):
            raise ConfigError(f"-drive {text}: format {format} of a CD: an ISO image is raw")
        return cdrom(given["file"])
    return Drive(
        given["file"],
        _on_off("-drive", "readonly", given.get("readonly", "off")),
        _on_off("-drive", "snapshot", given.get("snapshot", "off")),
        given.get("cache", "writeback"),
        int(given.get("logical_block_size", "512")),
        format,
    )
