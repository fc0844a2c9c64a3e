"""What ``-cpu help``, ``--hv help`` and ``-M help`` print, from the tables."""

from __future__ import annotations

from . import cpu_features, cpu_named
from .cpu_options import MODELS, PROPERTIES
from .hyperv.choose import in_user_table
from .hyperv.flags import ALIASES, LATER, ROWS
from .hyperv.machine_types import FAMILIES, UNVERSIONED, VERSIONS
from .hyperv.presets import PRESETS, expand

WIDTH = 78


def _wrapped(words: list[str], indent: str = "  ") -> list[str]:
    """Return lines of at most WIDTH characters."""
    import textwrap

    return textwrap.wrap(
        " ".join(words), WIDTH, initial_indent=indent, subsequent_indent=indent,
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip


def cpu() -> str:
    """Return models, Hyper-V flags, CPUID flags and properties of ``-cpu``."""
    lines = ["CPU models:"]
    lines += [f"  {name:25} {text}".rstrip() for name, text in MODELS.items()]
    named = cpu_named.catalogue()
    lines += [
        f"  {name:25} {model.text}".rstrip() for name, model in sorted(named.models.items())
    ]
    lines += ["Other names:"]
    lines += _wrapped([f"{name}={target}" for name, target in sorted(named.aliases.items())])
    lines += ["", "Hyper-V flags (docs/flags.md):"]
    lines += _wrapped([row.name for row in ROWS] + list(ALIASES))
    lines += ["", "Other properties:", *_wrapped(list(PROPERTIES))]
    lines += ["", "CPUID flags:", *_wrapped(sorted(cpu_features.names()))]
    lines += ["", "Of QEMUs after 10, refused:", *_wrapped(list(LATER))]
    return "\n".join(lines)


def hv() -> str:
    """Return every preset with what it stands for; the nested flags are KVM's to give."""
    lines = []
    for name, preset in PRESETS.items():
        text, out = expand(name, None, in_user_table(), user=True)
        lines += [f"{name}: {preset.meaning}", *_wrapped([f"({preset.why})"])]
        lines += ["  -cpu " + text]
        if out:
            lines += [f"  and under --hyperv kernel, where KVM has them: {','.join(out)}"]
    return "\n".join(lines)


def machine() -> str:
    """Return the machine types whose Hyper-V defaults are known."""
    lines = ["Machine types of QEMU 10.0 (pyhv has one machine; -M chooses the defaults of"]
    lines += ["Hyper-V flags, docs/flags.md):", *_wrapped(list(UNVERSIONED))]
    for family in FAMILIES:
        lines += _wrapped([family + version for version in VERSIONS.split()])
    return "\n".join(lines)


LISTS = {"cpu": cpu, "hv": hv, "M": machine}
