"""The command line: which subcommand, what it says on stderr, and the exit status it ends with.

stdout belongs to the guest. What is not needed before the guest's first instruction is imported
after it.
"""

from __future__ import annotations

import gc
import os
import sys

from .errors import ConfigError, Exit, HostError, PyhvError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from .config import MachineConfig
    from .console import Console
    from .machine import Machine
    from .options import Parsed
    from .snapshot import Snapshot

#: options for which watching.py is imported
WATCHING = ("trace", "trace-file", "top", "audit", "gdb", "s", "S", "qmp", "display")
#: control characters -> ``?``
UNPRINTABLE = dict.fromkeys([*range(32), *range(127, 160)], "?")
HELP = """\
pyhv runs a virtual machine on KVM and gives its guest the Hyper-V interface.

  pyhv run                  a small demo guest that shows what Hyper-V gives it
  pyhv run disk.img         boot a disk image; its console is this terminal
  pyhv run -m 1G -smp 2 -cpu host,kvm=off,hv_time,hv_vpindex disk.img
  pyhv run -kernel bzImage -initrd initrd.img -append console=ttyS0
  pyhv shell disk.img       a prompt: step, look into a paused guest, break in
  pyhv connect PATH         stdin and stdout to a port of the guest (--vsock)
  pyhv run --help           every option, and what the exit status means

and looks things up (each has --help):

  pyhv explain host,hv_time,hv_stimer   what Hyper-V flags mean, need and do
  pyhv caps                             which of them this host can give
  pyhv doctor                           why /dev/kvm does not work
  pyhv cpuid dump.txt                   a CPUID dump in names and as flags
  pyhv audit trace.jsonl                what of it a guest used, why not more
  pyhv report trace.jsonl -o out.html   a trace as a page to look at
  pyhv replay trace.jsonl               its guest again, on the bus of today

On a terminal, Ctrl-A x quits. Not installed? Write python3 -m pyhv for pyhv."""


def entry() -> NoReturn:
    """Run the process's command line; the installed command and ``python -m pyhv`` call this."""
    status = main(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # None or closed; nobody there to read it
            pass
    # The interpreter would take itself apart now, a fifth of what it costs to start pyhv; the
    # kernel takes back the same memory at once. Machine, Console and terminal are closed already.
    os._exit(status)


def main(arguments: list[str]) -> int:
    """Run one command line and return its exit status."""
    _open_standard_descriptors()
    debug = "--debug" in arguments or "-debug" in arguments
    try:
        name, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
        command = COMMANDS.get(name)
        if command is None:
            raise ConfigError(_no_command(name))
        return command(rest)
    except KeyboardInterrupt:
        return Exit.QUIT
    except PyhvError as error:
        if debug:
            _traceback()
        say(str(error).translate(UNPRINTABLE))  # one line, whatever the user's words have in them
        return Exit.USAGE if isinstance(error, ConfigError) else Exit.ERROR
    except BrokenPipeError:
        return Exit.ERROR  # who read our help went away; nothing to say to nobody
    except Exception as error:  # a bug of ours: one line for the user, all of it for --debug
        if debug:
            _traceback()
        say(f"internal error: {error!r}" + ("" if debug else "; --debug shows where"))
        return Exit.ERROR


def say(text: str) -> None:
    """Print *text* on stderr, ``pyhv:`` before its first line; never fails."""
    try:
        os.write(2, f"pyhv: {text}\n".encode(errors="surrogateescape"))
    except (OSError, UnicodeEncodeError):
        pass


def _print(text: str) -> None:
    data = memoryview(f"{text}\n".encode())
    while data:
        data = data[os.write(1, data) :]


def _traceback() -> None:
    import traceback

    traceback.print_exc()


def _open_standard_descriptors() -> None:
    """Put /dev/null where 0, 1 or 2 is closed: else /dev/kvm would be our stdout."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open("/dev/null", os.O_RDWR)  # the lowest free one: fd


def _no_command(name: str) -> str:
    if name.startswith("-") or "." in name or "/" in name or os.path.exists(name):
        return f"{name}: no such command; did you mean pyhv run {name}?"
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, 1)
    return f"{name}: no such command; " + (
        f"did you mean pyhv {near[0]}?" if near else f"there is {', '.join(COMMANDS_SHOWN)}"
    )


def help_command(arguments: list[str]) -> int:
    """Print the short help."""
    _print(HELP)
    return Exit.POWER_OFF


def version_command(arguments: list[str]) -> int:
    """Print the version."""
    from . import __version__

    _print(f"pyhv {__version__}")
    return Exit.POWER_OFF


def run_command(arguments: list[str]) -> int:
    """Boot what *arguments* say and return the guest's status."""
    from . import options

    parsed = options.parse(arguments)
    if "h" in parsed:
        _print(options.help_text())
        return Exit.POWER_OFF
    if "version" in parsed:
        return version_command([])
    for key in ("cpu", "hv", "M"):
        if parsed.get(key) == "help":
            from . import listings

            _print(listings.LISTS[key]())
            return Exit.POWER_OFF
    snapshot = None
    if "restore" in parsed:
        from . import savedrun

        snapshot = savedrun.load(parsed)
        config = snapshot.config
    else:
        config = options.config_of(parsed, demo_disk)
    kind, path = options.serial(parsed.get("serial") or "stdio")
    from .console import Console

    output = _serial_output(kind, path)
    console = Console(output)
    gc.disable()  # the modules to come are no garbage: it would look through them again and again
    try:
        return _run(config, console, kind, parsed, snapshot)
    finally:
        if snapshot is not None:
            snapshot.close()
        gc.enable()
        console.close()
        if console.dropped:
            say(f"{console.dropped} bytes of console output were lost: nobody took them")
        if kind == "file" and output is not None:
            os.close(output)


def demo_disk() -> str:
    """Return the path of the embedded demo disk."""
    from .boot.bios import firmware_file

    return firmware_file("demo.img")


def _serial_output(kind: str, path: str) -> int | None:
    if kind != "file":
        return 1 if kind == "stdio" else None
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise HostError(f"-serial file:{path}: {error.strerror}") from error


def _run(
    config: MachineConfig, console: Console, serial: str, parsed: Parsed, snapshot: Snapshot | None
) -> int:
    from .progress import Progress

    ports = []
    if "vsock" in parsed:
        from .vsock.proxy import parse_ports

        ports = parse_ports(parsed.values["vsock"])
    with Progress(f"loading {parsed.get('restore') or config.kernel or config.drives[0].path}"):
        if snapshot is None:
            machine = make_machine(config, console)
        else:
            from . import savedrun

            machine = savedrun.machine(snapshot, parsed, console)
    abandoned, watch = False, None
    try:
        for warning in machine.warnings:
            say(f"warning: {warning}")
        for note in machine.notes:
            say(note)
        begin = "booting"
        if snapshot is not None:
            begin = f"from {parsed.get('restore')} of {savedrun.taken(snapshot)}:"
        say(announcement(machine, config, begin))
        machine.notice = say
        if any(key in parsed for key in WATCHING):
            from .watching import Watch

            watch = Watch(machine, parsed, say)
        machine.start()
        for port, path in ports:
            machine.vsock.publish(port, path)
        if watch is not None:
            watch.begin()
        gc.freeze()  # a collection would hold up every vCPU for the 2 ms it walks the modules
        gc.enable()
        from .report import report
        from .running import Session

        stdin = 0 if serial == "stdio" else None
        stop = Session(machine, console, stdin, say, machine.config.time_limit).run()
        abandoned = "abandoned" in stop.details
    finally:
        if not abandoned:
            machine.close()
        if watch is not None:
            watch.close()
    console.close()  # the guest's last words come before ours
    if serial == "stdio" and console.data()[-1:] not in (b"", b"\n", b"\r"):
        say_end_of_line()
    say(report(stop, console.last_lines() if serial != "stdio" else (), "debug" in parsed))
    if abandoned:
        os._exit(
            stop.status
        )  # threads that hang in the kernel would keep us; nothing is left to do
    return stop.status


def make_machine(config: MachineConfig, console: Console) -> Machine:
    """Return the machine, not started; tests put another one here."""
    from .machine import Machine

    return Machine(config, console=console)


def say_end_of_line() -> None:
    """End the guest's unfinished line before ours, where both are on one terminal."""
    if os.isatty(1) and os.isatty(2):
        os.write(2, b"\n")


def announcement(machine: Machine, config: MachineConfig, begin: str = "booting") -> str:
    """Return the line about what is booted, and who serves Hyper-V."""
    if config.kernel is not None:
        what = f"the kernel {config.kernel}"
    else:
        disk = config.drives[0]
        what = disk.path + (" (writes vanish)" if disk.snapshot else "")
        if disk.cache == "unsafe" and not (disk.snapshot or disk.readonly):
            what += " (cache=unsafe: a crash of this host may lose what the guest has flushed)"
        if os.path.basename(disk.path) == "demo.img" and disk.path == demo_disk():
            what = f"the demo disk {what}"
    who = {"none": "no Hyper-V"}.get(machine.driver_name, f"Hyper-V by {machine.driver_name}")
    cpus = config.smp.cpus
    size = config.memory_bytes >> 20
    return f"{begin} {what}; {who}; {cpus} CPU{'s' if cpus > 1 else ''}, {size} MiB"


def shell_command(arguments: list[str]) -> int:
    """Open the prompt of pyhv/shell."""
    from .shell.prompt import main

    return main(arguments)


def connect_command(arguments: list[str]) -> int:
    """Be a stream to a guest's port, for ssh."""
    from .vsock import proxy

    return proxy.connect(arguments)


def lookup_command(name: str, arguments: list[str]) -> int:
    """Run a command of pyhv/lookup, print its text, and return its status."""
    from .lookup import commands

    text, status = commands.run(name, arguments)
    _print(text)
    return status


def _lookup(name: str) -> Callable[[list[str]], int]:
    return lambda arguments: lookup_command(name, arguments)


#: the commands of pyhv/lookup, which only they import
LOOKUP = ("explain", "caps", "doctor", "cpuid", "audit", "report", "replay", "completion")

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": run_command,
    "shell": shell_command,
    "connect": connect_command,
    "help": help_command,
    "--help": help_command,
    "-h": help_command,
    "-help": help_command,
    "--version": version_command,
    "-version": version_command,
}
COMMANDS |= {name: _lookup(name) for name in LOOKUP}
COMMANDS_SHOWN = ("run", "shell", "connect", "help", *LOOKUP)
