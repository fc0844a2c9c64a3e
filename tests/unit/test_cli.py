"""The command line: every row of its tables, its errors, its statuses, and what it imports."""

from __future__ import annotations

import math
import os
import pathlib

import pytest
from fake_machine import FakeMachine, ends

from pyhv import cli, options
from pyhv.config import Drive, MachineConfig, Smp, cdrom
from pyhv.errors import ConfigError, Exit, HostError
from pyhv.net.config import Nic
from pyhv.stop import Stop
from pyhv.terminal import keys_help

ROOT = pathlib.Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "running.md").read_text()


def config(line: str) -> MachineConfig:
    return options.config_of(options.parse(line.split()), lambda: "/demo.img")


# the table: what each row does to the configuration

EFFECTS = {
    "disk": ("a.img", {"drives": (Drive("a.img"),)}),
    "drive": ("file=a,readonly=on", {"drives": (Drive("a", readonly=True),)}),
    "hda": ("a,b.img", {"drives": (Drive("a,b.img"),)}),
    "cdrom": ("a.iso", {"drives": (cdrom("a.iso"),)}),
    "snapshot": ("", {"drives": (Drive("/demo.img", snapshot=True),)}),
    "kernel": ("bzImage", {"kernel": "bzImage", "drives": ()}),
    "initrd": ("i", {"initrd": "i"}),
    "append": ("console=ttyS0", {"append": "console=ttyS0"}),
    "bios": ("b.bin", {"firmware": "b.bin"}),
    "m": ("512", {"memory_bytes": 512 << 20}),
    "smp": ("4", {"smp": Smp(4, 1, 4, 1)}),
    "cpu": ("host,hv_time", {"cpu": "host,hv_time"}),
    "hv": ("windows", {"hv": "windows"}),
    "M": ("pc-i440fx-6.1", {"machine": "pc-i440fx-6.1"}),
    "hyperv": ("user", {"hyperv": "user"}),
    "device": ("hyperv-testdev", {"testdev": True}),
    "agent": ("", {"agent": True}),
    "free-page-reporting": ("", {"free_page_reporting": True}),
    "vmbus-version": ("4.1", {"vmbus_version": "4.1"}),
    "nic": ("user", {"nics": (Nic("user"),)}),
    "netdev": ("tap,id=n0,ifname=tap0", {"nics": (Nic("tap", ifname="tap0"),)}),
    "vga": ("hyperv", {"vga": "hyperv"}),
    "no-reboot": ("", {"no_reboot": True}),
    "time-limit": ("2.5", {"time_limit": 2.5}),
}
#: not part of the configuration; tested below, in test_trace.py, test_savedrun.py,
#: vsock/test_proxy.py and vmbus/test_webscreen.py
ELSEWHERE = {"serial", "debug", "h", "version", "restore"} | {
    "trace", "trace-format", "trace-file", "top", "audit", "gdb", "s", "S", "qmp", "vsock",
    "display",
}  # fmt: skip
NEEDS = {"initrd": "-kernel k ", "append": "-kernel k "}
SPELLINGS = {name: option for option in options.OPTIONS for name in option.names}


def test_devices_that_are_there_anyway_add_none():
    """kvm-unit-tests name two devices; the one does not undo the other."""
    line = "-device hyperv-testdev -device isa-debug-exit,iobase=0xf4,iosize=0x4"
    assert config(line).testdev
    assert not config("-device isa-debug-exit").testdev


def test_every_row_has_a_test():
    assert {option.key for option in options.OPTIONS} == set(EFFECTS) | ELSEWHERE


@pytest.mark.parametrize("name", [n for n, o in SPELLINGS.items() if o.key not in ELSEWHERE])
def test_each_spelling_with_one_dash_two_and_equals(name):
    option = SPELLINGS[name]
    value, effect = EFFECTS[option.key]
    if name == "disk":
        lines = [value]
    else:
        bare = name.lstrip("-")
        lines = [f"{dashes}{bare} {value}" for dashes in ("-", "--")]
        if option.value:
            lines += [f"{dashes}{bare}={value}" for dashes in ("-", "--")]
    expected = config(NEEDS.get(option.key, ""))._replace(**effect)
    for line in lines:
        assert config(NEEDS.get(option.key, "") + line) == expected, line


@pytest.mark.parametrize("name", options.ACCEPTED)
def test_accepted_habits_change_nothing(name):
    for value in options.ACCEPTED[name] or ("",):
        assert config(f"-{name} {value}") == config("")


@pytest.mark.parametrize("name", options.NOT_HERE)
def test_what_qemu_has_and_pyhv_has_not_is_refused_with_advice(name):
    with pytest.raises(ConfigError, match=f"^-{name}: ") as caught:
        options.parse([f"-{name}", "x"])
    assert options.NOT_HERE[name] in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"), [(o.names[-1], o.value) for o in options.OPTIONS if o.value][1:]
)
def test_a_missing_value_shows_what_is_missing(name, value):
    with pytest.raises(ConfigError) as caught:
        options.parse([name])
    assert str(caught.value) == f"{name}: needs a value: {name} {value}"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("-smpp 2", "-smpp: no such option; did you mean -smp?"),
        ("--time-limt 2", "--time-limt: no such option; did you mean --time-limit?"),
        ("-no-rebot", "-no-rebot: no such option; did you mean -no-reboot?"),
        ("-nographics", "-nographics: no such option; did you mean -nographic?"),
        ("-zzzzzz", "-zzzzzz: no such option; pyhv run --help lists them"),
        ("-", "-: no such option; pyhv run --help lists them"),
        ("---m 2", "---m: no such option; did you mean -m?"),
        ("-snapshot=on", "-snapshot=on: this option takes no value"),
        ("--hyperv maybe", "--hyperv maybe: pyhv has auto, kernel, user"),
        ("-display gtk", "-display gtk: pyhv has none, web and web=PORT"),
        ("-display web", "-display web: this machine has no screen; add -vga hyperv"),
        ("-vga std", "-vga std: pyhv has none, hyperv"),
        ("-device virtio-net", "-device virtio-net: pyhv has isa-debug-exit"),
        ("-m 0", "-m 0: "),
        ("-smp 0", "-smp 0: "),
        ("-drive if=none", "-drive if=none: "),
        ("-initrd x", "-initrd and -append need -kernel"),
        ("-kernel k -bios b", "-kernel and -firmware: one of them"),
    ],
)
def test_wrong_lines(line, text):
    with pytest.raises(ConfigError) as caught:
        config(line)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e10", "soon", ""])
def test_time_limits_that_are_none(text):
    with pytest.raises(ConfigError, match="--time-limit"):
        options.seconds(text)
    assert math.isclose(options.seconds("0.1"), 0.1)


def test_disks_are_attached_in_the_order_of_the_line():
    drives = config("-drive file=1 2 -hda 3 --drive=file=4 -snapshot -- -5").drives
    assert [drive.path for drive in drives] == ["1", "2", "3", "4", "-5"]
    assert all(drive.snapshot for drive in drives)


def test_values_may_begin_with_a_dash_and_the_last_one_counts():
    parsed = options.parse(["-kernel", "k", "-append", "-x", "-append", "--y -m 3"])
    assert parsed.get("append") == "--y -m 3"


def test_nothing_named_boots_the_demo_and_its_writes_vanish():
    assert config("").drives == (Drive("/demo.img", snapshot=True),)
    assert config("-kernel k").drives == ()
    assert os.path.basename(cli.demo_disk()) == "demo.img"


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("stdio", ("stdio", "")),
        ("mon:stdio", ("stdio", "")),
        ("none", ("none", "")),
        ("null", ("none", "")),
        ("file:a:b", ("file", "a:b")),
        ("file:", None),
        ("file", None),
        ("pty", None),
        ("", None),
    ],
)
def test_serial(text, result):
    if result is None:
        with pytest.raises(ConfigError, match="^-serial "):
            options.serial(text)
    else:
        assert options.serial(text) == result


# statuses and texts


def test_every_status_is_in_the_help_and_in_the_docs():
    statuses = {value for name, value in vars(Exit).items() if name.isupper()}
    assert {status for status, _ in options.STATUSES} == statuses


@pytest.mark.parametrize(
    ("marker", "text"), [("pyhv run --help", options.help_text()), ("Ctrl-A h", keys_help())]
)
def test_docs_are_printed_from_the_tables(marker, text):
    shown = DOCS.split(f"<!-- {marker} -->\n```\n")[1].split("\n```\n")[0]
    assert shown == text


@pytest.fixture
def machines(monkeypatch):
    """Make cli build fake machines; they are collected, and end at once."""
    made = []

    def make(config, console):
        made.append(
            FakeMachine(
                config, console, lambda machine: machine.end(Stop("exit", 7, "as told", {}))
            )
        )
        return made[-1]

    monkeypatch.setattr(cli, "make_machine", make)
    return made


def test_run_says_what_boots_and_how_it_ended(machines, capfd):
    assert cli.main(["run", "-serial", "none", "-smp", "2", "x.img"]) == 7
    assert capfd.readouterr() == (
        "",
        "pyhv: booting x.img; Hyper-V by in_user; 2 CPUs, 256 MiB\npyhv: as told\n",
    )
    assert machines[0].closed


def test_the_demo_disk_is_named(machines, capfd):
    cli.main(["run", "-serial", "none"])
    path = cli.demo_disk()
    assert f"booting the demo disk {path} (writes vanish); " in capfd.readouterr().err


def test_a_guest_without_hyperv_is_announced_so(machines, capfd, monkeypatch):
    monkeypatch.setattr(FakeMachine, "driver_name", "none")
    cli.main(["run", "-serial", "none", "-kernel", "vmlinux"])
    assert "booting the kernel vmlinux; no Hyper-V; 1 CPU, " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ConfigError("hv_x: no"), 2, "pyhv: hv_x: no\n"),
        (ConfigError("a\n\x1b[2Jé: no"), 2, "pyhv: a??[2Jé: no\n"),
        (HostError("open /dev/kvm: no"), 1, "pyhv: open /dev/kvm: no\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 1, ""),
        (KeyError("x"), 1, "pyhv: internal error: KeyError('x'); --debug shows where\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_errors_while_the_machine_is_built(error, status, text, monkeypatch, capfd):
    def make(config, console):
        raise error

    monkeypatch.setattr(cli, "make_machine", make)
    assert cli.main(["run", "x.img"]) == status
    assert capfd.readouterr().err == text


def test_debug_adds_the_traceback(monkeypatch, capfd):
    def make(config, console):
        raise HostError("no")

    monkeypatch.setattr(cli, "make_machine", make)
    assert cli.main(["run", "--debug", "x.img"]) == 1
    assert "Traceback" in capfd.readouterr().err


def test_a_machine_that_cannot_start_is_closed(machines, monkeypatch, capfd):
    def start(self):
        raise HostError("no")

    monkeypatch.setattr(FakeMachine, "start", start)
    assert cli.main(["run", "x.img"]) == 1
    assert machines[0].closed


@pytest.mark.parametrize("path", ["/nonexistent/log", "/"])
def test_a_serial_file_that_cannot_be(path, machines, capfd):
    assert cli.main(["run", "-serial", f"file:{path}"]) == 1
    assert capfd.readouterr().err.startswith(f"pyhv: -serial file:{path}: ")
    assert not machines


@pytest.mark.parametrize("line", ["", "help", "--help", "-h"])
def test_the_short_help(line, capfd):
    assert cli.main(line.split()) == 0
    out, err = capfd.readouterr()
    assert out == cli.HELP + "\n"
    assert not err
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("line", ["--help", "-h", "-m 1G --help x.img"])
def test_the_help_of_run(line, capfd):
    assert cli.main(["run", *line.split()]) == 0
    out = capfd.readouterr().out
    assert out == options.help_text() + "\n"
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("line", ["--version", "run --version"])
def test_version(line, capfd):
    from pyhv import __version__

    assert cli.main(line.split()) == 0
    assert capfd.readouterr().out == f"pyhv {__version__}\n"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("disk.img", "did you mean pyhv run disk.img?"),
        ("-kernel", "did you mean pyhv run -kernel?"),
        ("rnu", "did you mean pyhv run?"),
        ("xyzzy", f"there is {', '.join(cli.COMMANDS_SHOWN)}"),
    ],
)
def test_other_commands_do_not_exist(name, hint, capfd):
    assert cli.main([name]) == 2
    assert capfd.readouterr().err == f"pyhv: {name}: no such command; {hint}\n"


def test_warnings_about_cpu_are_said(monkeypatch, capfd) -> None:
    """QEMU warns of a mixed -cpu string and of features the host lacks; so do we."""
    machine = FakeMachine
    monkeypatch.setattr(machine, "warnings", ("mixed +X and X=V",), raising=True)
    monkeypatch.setattr(
        cli,
        "make_machine",
        lambda config, console: machine(
            config, console, lambda m: m.end(Stop("poweroff", 0, "the guest powered off", {}))
        ),
    )
    assert cli.main(["run", "-serial", "none"]) == 0
    assert "pyhv: warning: mixed +X and X=V\n" in capfd.readouterr().err


def test_a_preset_says_what_it_is(monkeypatch, capfd) -> None:
    monkeypatch.setattr(FakeMachine, "notes", ("--hv linux is -cpu host,hv_time",), raising=True)
    off = Stop("poweroff", 0, "the guest powered off", {})
    monkeypatch.setattr(
        cli, "make_machine", lambda config, console: FakeMachine(config, console, ends(off))
    )
    assert cli.main(["run", "--hv", "linux", "-serial", "none"]) == 0
    assert "pyhv: --hv linux is -cpu host,hv_time\n" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-cpu help", ("qemu64", "hv-tlbflush-ext", "hv-boot-zeroed-mem", "avx2", "phys-bits")),
        ("--hv help", ("windows: ", "-cpu host,kvm=off,hv_relaxed", "hv_evmcs")),
        ("-M help", ("pc-q35-6.1", "microvm")),
        ("-machine help", ("pc-i440fx-2.10",)),
    ],
)
def test_lists(line, words, capfd) -> None:
    """Every list comes from its table and needs no KVM."""
    assert cli.main(["run", *line.split()]) == 0
    out = capfd.readouterr().out
    assert all(word in out for word in words)
