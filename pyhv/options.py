"""The options of ``pyhv run`` as one table, and a parser for QEMU's style: one dash or two.

Not argparse: its import takes as long as a whole machine takes to start. docs/running.md is
printed from the same table.
"""

from __future__ import annotations

from .errors import ConfigError, Exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .config import MachineConfig
    from .net.config import Nic

POSITIONAL = "disk"


class Option:
    """A row: *names* as typed (the first one is the key), *value* as the help shows it.

    ``value`` is empty for a switch. ``many``: every use adds a disk or a network card; of other
    rows the last use counts. ``choices``: the only values there are.
    """

    __slots__ = ("names", "value", "help", "many", "choices")

    def __init__(
        self, names: str, value: str, help: str, many: bool = False, choices: tuple[str, ...] = ()
    ) -> None:
        self.names, self.value, self.help = tuple(names.split()), value, help
        self.many, self.choices = many, choices

    @property
    def key(self) -> str:
        """The name without dashes."""
        return self.names[0].lstrip("-")


GROUPS: dict[str, tuple[Option, ...]] = {
    "What to boot": (
        Option("disk", "DISK.IMG", "a raw disk image (others: -drive); its first sector is booted",
               many=True),
        Option("-drive", "file=F[,format=FORMAT][,readonly=on][,snapshot=on][,cache=MODE]...",
               "a disk, or one more; FORMAT: raw, qcow2, vpc (VHD) or vhdx; docs/storage.md",
               many=True),
        Option("-hda", "FILE", "the same as -drive file=FILE", many=True),
        Option("-cdrom", "FILE", "an ISO image in a DVD drive", many=True),
        Option("-snapshot", "", "writes to all disks vanish at the end"),
        Option("-kernel -k", "FILE", "start a bzImage, ELF, multiboot file or boot sector"),
        Option("-initrd -i", "FILE", "initial ramdisk for -kernel"),
        Option("-append", "TEXT", "command line for -kernel, such as console=ttyS0"),
        Option("-bios --firmware", "FILE", "a firmware image instead of pyhv's own BIOS"),
        Option("--restore", "FILE", "go on from a snapshot of Ctrl-A s, QMP or Snapshot.save(); "
               "the machine is the snapshot's"),
    ),
    "The machine": (
        Option("-m --memory", "SIZE", "RAM: 512M, 2G, a plain number is MiB; default 256M. "
               "512M,maxmem=2G: more may be added while it runs; docs/testing.md"),
        Option("-smp", "N", "CPUs, or cpus=4,sockets=1,cores=2,threads=2; default 1"),
        Option(
            "-cpu",
            "MODEL[,FLAG...]",
            "as QEMU spells it, such as host,kvm=off,hv_time; docs/flags.md; default: host with "
            "the Hyper-V flags that Linux uses",
        ),
        Option(
            "--hv",
            "none|linux|windows|nested|max|help",
            "a set of Hyper-V flags for such guests, put before those of -cpu; help lists them",
            choices=("none", "linux", "windows", "nested", "max", "help"),
        ),
        Option(
            "-M -machine",
            "TYPE",
            "a machine type of QEMU, such as pc-i440fx-6.1, for its defaults of Hyper-V flags",
        ),
        Option(
            "--hyperv",
            "auto|kernel|user",
            "who serves Hyper-V: KVM in the kernel, or pyhv; default auto: the kernel if it can",
            choices=("auto", "kernel", "user"),
        ),
        Option(
            "--vmbus-version",
            "VERSION",
            "the highest VMBus version that the guest gets, as of an old host; default 5.3",
            choices=("0.13", "1.1", "2.4", "3.0", "4.0", "4.1", "5.0", "5.1", "5.2", "5.3"),
        ),
        Option(
            "-device",
            "hyperv-testdev",
            "port 0x3000, through which kvm-unit-tests try the SynIC",
            choices=("hyperv-testdev",),
        ),
        Option("--agent", "", "COM2, and a shell on it where -initrd is given; docs/testing.md"),
        Option(
            "--free-page-reporting",
            "",
            "the guest's driver hv_balloon tells of free memory, which goes back to the host",
        ),
    ),
    "Screen": (
        Option(
            "-vga",
            "none|hyperv",
            "hyperv: a screen for hyperv_drm, and a mouse; vm.screenshot() and QMP's screendump "
            "show it; default none. The keyboard is always there",
            choices=("none", "hyperv"),
        ),
        Option(
            "-display",
            "none|web[=PORT]",
            "web: serve that screen to a browser of this host, at the URL that is printed; keys "
            "and mouse of the page are the guest's; default none. docs/screen.md",
        ),
    ),
    "Network": (
        Option(
            "-nic",
            "user|tap|socket|none",
            "a network card, or one more: user[,hostfwd=tcp::2222-:22] (through passt), "
            "tap,ifname=NAME, socket,path=FILE (to another pyhv or QEMU); ,mac=ADDRESS",
            many=True,
        ),
        Option("-netdev", "KIND,id=N,...", "the same as -nic KIND,...", many=True),
    ),
    "Streams": (
        Option(
            "--vsock",
            "PORT:PATH[,...]",
            "who connects to the Unix socket PATH is connected to that port of the guest, over "
            "hv_sock, without a network; docs/streams.md",
        ),
    ),
    "Console and endings": (
        Option("-serial", "stdio|file:PATH|none", "the guest's COM1; default stdio"),
        Option("-no-reboot", "", "end when the guest resets, instead of booting again"),
        Option("--time-limit", "SECONDS", "stop the guest after this time"),
    ),
    "Watching": (
        Option("--trace", "CATEGORY,...", "show what the guest does: exits, msr, hypercall, synic, "
               "stimer, vmbus, ring, console, machine, pio, mmio, all; bytes"),
        Option("--trace-format", "text|jsonl|chrome|ladder",
               "default text; chrome is for Perfetto, too; ladder shows VMBus alone",
               choices=("text", "jsonl", "chrome", "ladder")),
        Option("--trace-file", "FILE", "where the trace goes; default: standard error"),
        Option("-gdb", "tcp::PORT|unix:PATH", "serve gdb there; tcp on this machine only"),
        Option("-s", "", "the same as -gdb tcp::1234"),
        Option("-qmp", "unix:PATH|tcp::PORT", "serve QMP there, for tools that speak to QEMU"),
        Option("-S", "", "stand before the first instruction, until gdb or QMP lets it go"),
        Option("--top", "", "what exits most, every second on standard error"),
        Option("--audit", "", "at the end: what of Hyper-V the guest was offered, enabled, used"),
    ),
    "Other": (
        Option("--debug", "", "a traceback with every error, registers with every ending"),
        Option("-h --help", "", "this text"),
        Option("--version", "", "the version of pyhv"),
    ),
}
OPTIONS = tuple(option for rows in GROUPS.values() for option in rows)

#: what QEMU users type out of habit and what is so here anyway: name -> values, () for a switch
ACCEPTED: dict[str, tuple[str, ...]] = {
    "nographic": (),
    "enable-kvm": (),
    "nodefaults": (),
    "accel": ("kvm",),
    "monitor": ("none",),
    "device": ("isa-debug-exit", "isa-debug-exit,iobase=0xf4,iosize=4",
               "isa-debug-exit,iobase=0xf4,iosize=0x4"),
}  # fmt: skip

#: QEMU's, not here: refused with what to do instead of "did you mean"
NOT_HERE = {
    "disk": "name the image without an option, or write -drive file=F",
    "hdb": "write -drive file=F for every further disk",
    "daemonize": "pyhv stays in the foreground; let the shell or systemd put it away",
}

STATUSES = (
    (Exit.POWER_OFF, "the guest powered off, or reset under -no-reboot"),
    (Exit.ERROR, "this host cannot do what was asked, or pyhv failed"),
    (Exit.USAGE, "the command line is wrong, or names a file that cannot be used"),
    (Exit.TRIPLE_FAULT, "triple fault of a CPU"),
    (Exit.KVM_ERROR, "KVM could not go on"),
    (Exit.HV_CRASH, "the guest reported a crash through the Hyper-V crash registers"),
    (Exit.STUCK, "every CPU halted with interrupts off"),
    (Exit.TIME_LIMIT, "--time-limit ran out"),
    (Exit.QUIT, "quit: Ctrl-A x or z, SIGINT, SIGTERM, SIGHUP"),
)

_BY_NAME = {name.lstrip("-"): option for option in OPTIONS for name in option.names}
_AS_TYPED = {name.lstrip("-"): name for option in OPTIONS for name in option.names}


class Parsed:
    """A command line: *values* by option key ("" for a switch), *disks*, *nics* as (key, value)."""

    __slots__ = ("values", "disks", "nics")

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.disks: list[tuple[str, str]] = []
        self.nics: list[tuple[str, str]] = []

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def get(self, key: str) -> str | None:
        """Return the value of an option, None when it was not given."""
        return self.values.get(key)


def parse(arguments: list[str]) -> Parsed:
    """Sort *arguments* by the table.

    :raises ConfigError: an option there is not (the nearest one is named), a missing value.
    """
    parsed = Parsed()
    todo = list(reversed(arguments))
    while todo:
        argument = todo.pop()
        if argument == "--":
            parsed.disks += [(POSITIONAL, path) for path in reversed(todo)]
            break
        if not argument.startswith("-"):
            parsed.disks.append((POSITIONAL, argument))
            continue
        name, equals, value = argument.lstrip("-").partition("=")
        option = _BY_NAME.get(name) if name != POSITIONAL else None
        if option is None and name not in ACCEPTED or argument.startswith("---"):
            raise ConfigError(f"{argument}: {_instead(name)}")
        example = option.value if option else "|".join(ACCEPTED[name])
        if equals and not example:
            raise ConfigError(f"{argument}: this option takes no value")
        if example and not equals:
            if not todo:
                raise ConfigError(f"{argument}: needs a value: {argument} {example}")
            value = todo.pop()
        accepted = ACCEPTED.get(name, ())
        choices = accepted + option.choices if option else accepted
        if choices and value not in choices:
            raise ConfigError(f"{argument} {value}: pyhv has {', '.join(choices)}")
        if value in accepted:
            continue
        if option and option in GROUPS["Network"]:
            parsed.nics.append((option.key, value))
        elif option and option.many:
            parsed.disks.append((option.key, value))
        elif option:
            parsed.values[option.key] = value
    return parsed


def _instead(name: str) -> str:
    """Say what to do about an option that is not in the table."""
    if name in NOT_HERE:
        return NOT_HERE[name]
    import difflib

    near = difflib.get_close_matches(name, [*_AS_TYPED, *ACCEPTED], 1, 0.5)
    if near:
        return f"no such option; did you mean {_AS_TYPED.get(near[0], '-' + near[0])}?"
    return "no such option; pyhv run --help lists them"


def serial(text: str) -> tuple[str, str]:
    """Return ("stdio" | "file" | "none", path) for the value of ``-serial``.

    :raises ConfigError: anything else; QEMU's ``mon:stdio`` and ``null`` are understood.
    """
    kind, _, path = text.partition(":")
    if text in ("stdio", "mon:stdio"):
        return "stdio", ""
    if text in ("none", "null"):
        return "none", ""
    if kind == "file" and path:
        return "file", path
    raise ConfigError(f"-serial {text}: pyhv has stdio, file:PATH and none")


def display(text: str) -> int | None:
    """Return the port for the value of ``-display``, 0 for a free one; None: no display.

    :raises ConfigError: anything but none, web and web=PORT.
    """
    kind, equals, port = text.partition("=")
    if text in ("none", "web"):
        return {"web": 0}.get(text)
    number = int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else 0
    if kind == "web" and 0 < number < 65536:
        return number
    raise ConfigError(f"-display {text}: pyhv has none, web and web=PORT")


def seconds(text: str) -> float:
    """Return the value of ``--time-limit``.

    :raises ConfigError: not a number above 0 (and below 1e9: 30 years).
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise ConfigError(f"--time-limit {text}: seconds, more than 0")
    return value


def config_of(parsed: Parsed, demo_disk: Callable[[], str]) -> MachineConfig:
    """Return the machine that *parsed* asks for.

    :param demo_disk: gives the disk to boot when neither disk nor kernel is named; the demo
        writes nothing that would stay.
    :raises ConfigError: a value that cannot be, options that do not go together.
    """
    from .config import (
        Drive,
        MachineConfig,
        cdrom,
        checked,
        parse_drive,
        parse_memory,
        parse_smp,
    )

    default, get = MachineConfig(), parsed.get
    kinds = {"drive": parse_drive, "cdrom": cdrom}
    drives = [kinds.get(key, Drive)(text) for key, text in parsed.disks]
    if "snapshot" in parsed:
        drives = [drive._replace(snapshot=True) for drive in drives]
    memory, smp, limit, kernel = get("m"), get("smp"), get("time-limit"), get("kernel")
    size, most = (default.memory_bytes, None) if memory is None else parse_memory(memory)
    if not drives and kernel is None:
        drives = [Drive(demo_disk(), snapshot=True)]
    if display(get("display") or "none") is not None and get("vga") != "hyperv":
        raise ConfigError("-display web: this machine has no screen; add -vga hyperv")
    return checked(
        MachineConfig(
            cpu=get("cpu"),
            memory_bytes=size,
            max_memory_bytes=most,
            smp=default.smp if smp is None else parse_smp(smp),
            drives=tuple(drives),
            kernel=kernel,
            initrd=get("initrd"),
            append=get("append") or "",
            firmware=get("bios"),
            hyperv=get("hyperv") or default.hyperv,
            hv=get("hv"),
            machine=get("M"),
            no_reboot="no-reboot" in parsed,
            time_limit=None if limit is None else seconds(limit),
            testdev="device" in parsed,
            nics=_nics(parsed),
            agent="agent" in parsed,
            free_page_reporting="free-page-reporting" in parsed,
            vga=get("vga") or default.vga,
            vmbus_version=get("vmbus-version"),
        )
    )


def _nics(parsed: Parsed) -> tuple[Nic, ...]:
    wanted = [(key, text) for key, text in parsed.nics if text != "none"]
    if not wanted:
        return ()
    from .net.config import parse_nic

    return tuple(parse_nic(text, f"-{key}") for key, text in wanted)


def spelling(option: Option) -> str:
    """Return ``-m, --memory SIZE``; the positional row has no name."""
    if option.key == POSITIONAL:
        return option.value
    return ", ".join(option.names) + (f" {option.value}" if option.value else "")


def help_text() -> str:
    """Return what ``pyhv run --help`` prints, within 80 columns."""
    from .lookup.text import wrapped

    lines = ["usage: pyhv run [option ...] [DISK.IMG]"]
    for group, rows in GROUPS.items():
        lines += ["", f"{group}:"]
        for option in rows:
            lines += [f"  {spelling(option)}", *wrapped(option.help, "      ")]
    lines += ["", "Accepted, because it is so anyway:"]
    accepted = [(name, value) for name in ACCEPTED for value in ACCEPTED[name] or [""]]
    lines += [f"  -{name} {value}".rstrip() for name, value in accepted]
    lines += ["", "On a terminal, Ctrl-A x quits and Ctrl-A h lists the other keys.", ""]
    lines += ["Exit status:"] + [f"  {status:3}  {text}" for status, text in STATUSES]
    return "\n".join(lines)
