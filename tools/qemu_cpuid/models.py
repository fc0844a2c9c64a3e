"""Print pyhv/cpu_models.txt: the named CPU models of QEMU as KVM guests get them.

    python3 tools/qemu_cpuid/models.py QEMU... > pyhv/cpu_models.txt

Needs /dev/kvm (QEMU's defaults for KVM differ from those for TCG): run it in the nested host. The
features come from QMP, the caches from a guest that reads its CPUID under TCG with both vendors.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

from pyhv.cpu_features import ALIASES, names  # noqa: E402
from qemu_cpuid import guest, qmp  # noqa: E402

HEAD = """\
# The named CPU models of QEMU 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1) as it describes them under
# KVM: query-cpu-model-expansion, made by tools/qemu_cpuid/models.py. CPUID flags only: what a
# model has in MSRs (arch-capabilities' bits, VMX) is the host's. The vendor is the host's, too.
#   alias NAME MODEL
#   model NAME family model stepping level xlevel caches TEXT
#    +feature ... | = MODEL -feature +feature ...
#   caches NAME (as one CPU has them; i: for an Intel vendor, a: for AMD)
#    i|a leaf.index eax ebx ecx edx
"""
VENDORS = {"i": "GenuineIntel", "a": "AuthenticAMD"}
CACHE_LEAVES = (2, 4, 0x80000005, 0x80000006, 0x8000001D)


def features(properties: dict[str, object]) -> set[str]:
    """Return the CPUID flags that are on, each by its first name."""
    on = {name for name, value in properties.items() if value is True}
    return {ALIASES.get(name, name) for name in on} & set(names())


def caches(program: list[str], model: str, image: pathlib.Path) -> list[str]:
    """Return the cache leaves of a model, for each vendor."""
    found = []
    for letter, vendor in VENDORS.items():
        cpu = f"{model},vendor={vendor},level=0xd,xlevel=0x8000001e,+topoext,x-force-features=on"
        rows = guest.dump(program, "tcg", cpu, image, "-M", "pc", "-m", "32")
        rows = {key: value for key, value in rows.items() if key[0] in CACHE_LEAVES}
        found += [f" {letter} {line}" for line in guest.lines(rows)]
    return found


def lines(found: dict[str, dict], cache_lines: dict[str, list[str]]) -> list[str]:
    """Return the file's lines for what QEMU said."""
    text = HEAD.splitlines()
    known: dict[tuple[str, ...], str] = {}
    for model in sorted(cache_lines):
        key = tuple(cache_lines[model])
        if key not in known:
            # the oldest CPUs have what all Intel models have: QEMU's legacy caches
            known[key] = "legacy" if not known else model
            text += [f"caches {known[key]}", *key]
    text += [f"alias {name} {model}" for name, model in sorted(found["aliases"].items())]
    before: dict[str, set[str]] = {}
    for name in sorted(cache_lines):
        p = found[name]
        text.append(
            f"model {name} {p['family']} {p['model']} {p['stepping']} {p['level']:x} "
            f"{p['xlevel']:x} {known[tuple(cache_lines[name])]} {p['model-id']}".rstrip()
        )
        mine = features(p)
        like = min(before, key=lambda one: len(before[one] ^ mine), default=None)
        if like is not None and len(before[like] ^ mine) < len(mine) // 2:
            words = [f"-{x}" for x in sorted(before[like] - mine)]
            words += [f"+{x}" for x in sorted(mine - before[like])]
            text.append(" ".join([f" = {like}", *words]))
        else:
            text.append(" " + " ".join(f"+{x}" for x in sorted(mine)))
        before[name] = mine
    return text


def main(program: list[str]) -> None:
    """Ask QEMU for everything and print it."""
    found = qmp.models(program, "kvm")
    wanted = [name for name in found if name not in ("aliases", "base")]
    with tempfile.TemporaryDirectory() as folder:
        image = guest.build(pathlib.Path(folder))
        cache_lines = {name: caches(program, name, image) for name in wanted}
    print("\n".join(lines(found, cache_lines)))


if __name__ == "__main__":
    main(sys.argv[1:])
