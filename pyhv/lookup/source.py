"""What the user gave - a -cpu, a command line, XML, a preset - as a -cpu and its Hyper-V flags."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping

from ..cpu_options import parse_cpu
from ..errors import ConfigError
from ..hyperv.choose import IN_USER
from ..hyperv.flags import ALIASES, FLAGS, Value
from ..hyperv.machine_types import hyperv_defaults
from ..hyperv.presets import PRESETS, expand
from ..record import Record
from .arguments import read_input
from .text import printable


class Source(Record):
    """*cpu* as QEMU would get it. ``hv``: flag -> value; ``others``: items that are no hv flag.

    ``notes`` are warnings about where it came from; ``words`` the whole command line if it was one.
    """

    what: str
    cpu: str
    hv: dict[str, Value]
    others: tuple[str, ...]
    kvm: bool
    notes: tuple[str, ...]
    words: tuple[str, ...] = ()
    defaults: Mapping[str, Value] = {}  # what an old machine type has others of


def read(words: list[str], preset: str | None = None) -> Source:
    """Return what *words* (the command's arguments) mean.

    One word may be a ``-cpu`` text, the name of a file, ``-`` for standard input, XML, or a
    command line in one string; several words are a command line.

    :raises ConfigError: nothing of these, or an unknown flag; one line.
    """
    if preset is not None:
        if words:
            raise ConfigError("--hv and a -cpu: one of them")
        return of_cpu("preset " + preset, preset_cpu(preset), [])
    if not words:
        raise ConfigError(
            "nothing to explain; give a -cpu text, a QEMU command line, libvirt XML or a preset"
        )
    if len(words) > 1:
        return of_command(words)
    text, what = words[0], "-cpu"
    if text == "-" or os.path.isfile(text) or (os.sep in text and not re.search("[<, ]", text)):
        what = "standard input" if text == "-" else text
        text = read_input(text)
    text = text.strip()
    if not text:
        raise ConfigError(f"{what}: empty")
    if text.startswith("<"):
        from .libvirt import cpu_of, parse_xml

        cpu, notes = cpu_of(parse_xml(text))
        return of_cpu("libvirt XML", cpu, notes)
    if re.search(r"(^|\s)-{1,2}cpu([\s=]|$)", text) or re.match(r"\S*(qemu|kvm)\S*\s", text):
        return of_command(split(text))
    if text in PRESETS and text != "max":
        return of_cpu("preset " + text, preset_cpu(text), [])
    if re.match(r"[^,]*\s", text):  # a value may have spaces: hv-vendor-id=Microsoft Hv
        shown = printable(text, 60) if what == "-cpu" else what
        raise ConfigError(f"{shown}: no -cpu in it; give the text after -cpu")
    return of_cpu("-cpu", text, [])


def preset_cpu(name: str, cpu: str | None = None) -> str:
    """Return the -cpu of a preset, with the nested flags that a KVM of Linux 6.12 has.

    :param cpu: a -cpu beside it, whose model and items count.

    :raises ConfigError: there is none of this name.
    """
    if name not in PRESETS:
        known = ", ".join(PRESETS)
        raise ConfigError(f"--hv {printable(name, 40)}: no such preset; pyhv has {known}")
    return expand(name, cpu, IN_USER, user=False)[0]


def split(text: str) -> list[str]:
    """Return the words of a shell command line, backslash-newlines joined."""
    try:
        return shlex.split(text.replace("\\\n", " "), comments=False)
    except ValueError as error:
        raise ConfigError(f"command line: {str(error).lower()}; was it cut short?") from error


def of_command(words: list[str]) -> Source:
    """Return the -cpu of a QEMU (or pyhv) command line.

    :raises ConfigError: no -cpu, or nothing after it.
    """
    cpu, preset, notes = None, None, []
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in ("-cpu", "--cpu"):
            if not equals and number + 1 == len(words):
                raise ConfigError("command line: it ends after -cpu; was it cut short?")
            if cpu is not None:
                notes.append("several -cpu: the last one counts")
            cpu = value if equals else words[number + 1]
        if name in ("-hv", "--hv") and number + 1 < len(words):
            preset = value if equals else words[number + 1]
    if preset is not None:
        cpu = preset_cpu(preset, cpu)
    if cpu is None:
        raise ConfigError("command line: there is no -cpu in it; QEMU then shows no Hyper-V")
    machine = _after(words, "-machine", "-M")
    old = re.search(r"pc-(?:i440fx|q35)-[0-9.]{1,9}", machine)
    defaults: Mapping[str, Value] = {}
    if old:
        try:
            defaults = hyperv_defaults(old[0])
        except ConfigError:
            notes.append(f"machine {old[0]}: not one of QEMU 10.0; its defaults are not known here")
    if defaults:
        shown = ", ".join(f"{name}={_shown(value)}" for name, value in defaults.items())
        notes.append(f"machine {old[0]}: it has other defaults: {shown}")  # type: ignore[index]
    accelerator = _after(words, "-accel") + machine
    if not ("kvm" in accelerator or "-enable-kvm" in words) and any("qemu" in w for w in words[:1]):
        notes.append("no KVM on this command line: under TCG QEMU ignores every hv flag")
    devices = _after(words, "-device")
    source = of_cpu("command line", cpu, notes)
    on = {name for name, value in source.hv.items() if value}
    extra = []
    if "vmbus-bridge" in devices and "hv-synic" not in on:
        extra.append("vmbus-bridge needs hv-synic; QEMU starts, and the guest has no VMBus")
    elif "vmbus-bridge" in devices and not {"hv-stimer", "hv-vapic", "hv-runtime"} <= on:
        extra.append("vmbus-bridge: Windows may not boot without hv-stimer, hv-vapic, hv-runtime")
    if "hv-syndbg" in on and "vmbus-bridge" not in devices:
        extra.append("hv-syndbg needs -device vmbus-bridge and -device hv-syndbg")
    return source._replace(notes=(*source.notes, *extra), words=tuple(words), defaults=defaults)


def _shown(value: Value) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return hex(value) if isinstance(value, int) and value > 9 else str(value)


def _after(words: list[str], *names: str) -> str:
    return "".join(word for before, word in zip(words, words[1:], strict=False) if before in names)


def is_hv(item: str) -> bool:
    """Tell whether an item of -cpu is about Hyper-V, known or not."""
    name = item.lstrip("+-").partition("=")[0].replace("_", "-")
    return name.startswith(("hv-", "x-hv-")) or name in ALIASES


def known(cpu: str) -> tuple[str, list[str]]:
    """Return a -cpu without what pyhv has not, and a line for what QEMU 10 would not take either.

    :return: the model is "" if there is none of that name.
    """
    model, *items = cpu.split(",")
    taken, lines = [], []
    for item in (model, *items):
        try:
            parse_cpu(item if item is model else f"host,{item}")
            taken.append(item)
        except ConfigError as error:
            if "not provided by pyhv" not in str(error):
                lines.append(str(error))
            taken += [""] if item is model else []
    return ",".join(taken), lines


def of_cpu(what: str, cpu: str, notes: list[str]) -> Source:
    """Return a -cpu text taken apart; of what is not Hyper-V, only the unknown is noted.

    :raises ConfigError: unknown flags or wrong values, all of them in one line.
    """
    model, *items = [item for item in cpu.split(",") if item] or [""]
    if is_hv(model):  # the flags alone
        model, items = "host", [model, *items]
    if not re.fullmatch(r"[A-Za-z0-9_.+-]{1,60}", model):
        raise ConfigError(f"-cpu {printable(cpu, 60)!r}: no CPU model at its begin; host,hv_time")
    if len(items) > 500:
        raise ConfigError(f"-cpu with {len(items)} flags: there are {len(FLAGS)}")
    hv_items = [item for item in items if is_hv(item)]
    problems = []
    for item in hv_items:
        try:
            parse_cpu(f"host,{item}")
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("; ".join(dict.fromkeys(problems)))
    spec = parse_cpu(",".join(["host", *hv_items]))
    others = tuple(item for item in items if not is_hv(item))
    notes = [*notes, *known(",".join([model, *others]))[1]]
    kvm = not any(item.replace("_", "-") in ("kvm=off", "kvm=no", "-kvm") for item in others)
    return Source(
        what, ",".join([model, *items]), spec.hv, (model, *others), kvm, (*notes, *spec.warnings)
    )
