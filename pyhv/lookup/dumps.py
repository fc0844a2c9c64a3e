"""CPUID dumps in the forms people have them, as (leaf, subleaf) -> register -> value.

Forms: ``cpuid -r`` of Debian's cpuid package; ``CPUID 40000003:00 = w w w w``, also with the < and
> of diff(1); the golden dumps' ``40000003.00000000 w w w w``; ``leaf w w w w``; what Linux prints
at boot (linux arch/x86/kernel/cpu/mshyperv.c); QMP's feature-words and query-cpu-model-expansion;
``pyhv explain --json`` and ``pyhv caps --json``. A register that a form does not have is not there.
"""

from __future__ import annotations

import json
import re

from ..errors import ConfigError
from ..hyperv.flags import ALIASES, FLAGS, LEAF_FEATURES, LEAF_HINTS, LEAF_NESTED
from .text import printable

REGISTERS = ("eax", "ebx", "ecx", "edx")
Dump = dict[tuple[int, int], dict[str, int]]

_W = r"(?:0x)?([0-9a-f]{1,8})"
_FOUR = rf"{_W}\s+{_W}\s+{_W}\s+{_W}"
_CPUID_R = re.compile(
    r"\s*0x([0-9a-f]{8}) 0x([0-9a-f]{1,8}): "
    r"eax=0x([0-9a-f]{8}) ebx=0x([0-9a-f]{8}) ecx=0x([0-9a-f]{8}) edx=0x([0-9a-f]{8})\s*$"
)
_SEED = re.compile(
    rf"\s*CPUID ([0-9a-f]{{8}}):([0-9a-f]{{1,8}})\s*=\s*{_FOUR}(?:\s*\|.*)?\s*$", re.I
)
_DOTTED = re.compile(rf"\s*([0-9a-f]{{8}})[.:]([0-9a-f]{{1,8}})\s+(?:\d\s+)?{_FOUR}\s*$", re.I)
_RAW = re.compile(rf"\s*(?:0x)?([0-9a-f]{{1,8}})[:\s]\s*{_FOUR}\s*$", re.I)
_WORDS = re.compile(rf"\s*{_FOUR}\s*$", re.I)
#: the begin of a line of a dump: what goes on otherwise is damaged
_BEGIN = re.compile(r"\s*(?:CPUID [0-9a-f]|0x[0-9a-f]{8}\s|[0-9a-f]{8}[.:\s]\s*[0-9a-f])", re.I)
_JSON = re.compile(r"\s*(?:\{|\[\s*[\[{\]])")  # not the time of a line of dmesg
_CPU = re.compile(r"CPU(?: (\d{1,6}))?:\s*$")
_BOOT = re.compile(r"hyper-?v: (?:privilege flags|features) .*$", re.I)
_BOOT_WORDS = {
    "low": (LEAF_FEATURES, "eax"), "features": (LEAF_FEATURES, "eax"),
    "high": (LEAF_FEATURES, "ebx"), "ext": (LEAF_FEATURES, "ecx"), "misc": (LEAF_FEATURES, "edx"),
    "hints": (LEAF_HINTS, "eax"),
}  # fmt: skip
_NESTED = re.compile(r"Hyper-V: Nested features: 0x([0-9a-f]{1,8})\b")
#: major, minor, build, service number, service pack, service branch
_BUILD = re.compile(
    r"Hyper-V: (?:Host|Hypervisor) Build "
    r"(\d{1,5})\.(\d{1,5})\.(\d{1,10})\.(\d{1,10})-(\d{1,10})-(\d{1,10})"
)


def parse(text: str, name: str, *, cpu: int = 0, leaf: int | None = None) -> list[tuple[str, Dump]]:
    """Return (name, dump) for each dump in *text*: one, or two where diff(1) marked the lines.

    :param cpu: of ``cpuid -r``, which CPU's leaves.
    :param leaf: the leaf of a line of four bare words.
    :raises ConfigError: it is no dump, or a line of it is damaged; one line with the line's number.
    """
    if _JSON.match(text):
        return [(name, _json(text, name))]
    dumps: dict[str, Dump] = {}
    at = 0
    for number, line in enumerate(text.splitlines(), 1):
        mark = line[:1] if line[:2] in ("< ", "> ", "- ", "+ ") else ""
        body = line[2:] if mark else line
        header = _CPU.match(body)
        if header:
            at = int(header[1] or 0)
            continue
        found = _line(body, leaf)
        if found is None:
            if _BEGIN.match(body):
                raise ConfigError(
                    f"{name}: line {number}: {printable(body.strip(), 50)}: "
                    "not a whole line of a CPUID dump; was it cut short?"
                )
            continue
        if at != cpu:
            continue
        dump = dumps.setdefault({"-": "<", "+": ">"}.get(mark, mark), {})
        for key, registers in found.items():
            dump.setdefault(key, {}).update(registers)
    if not dumps:
        raise ConfigError(
            f"{name}: no CPUID dump in it; pyhv cpuid takes the output of cpuid -r, lines "
            "'40000003 eax ebx ecx edx', Linux's boot messages, and QMP's JSON"
        )
    names = {"": name, "<": f"{name} (<)", ">": f"{name} (>)"}
    return [(names[mark], dumps[mark]) for mark in sorted(dumps)]


def _line(line: str, leaf: int | None) -> Dump | None:
    match = _CPUID_R.match(line) or _SEED.match(line) or _DOTTED.match(line)
    if match:
        number, sub, *words = (int(word, 16) for word in match.groups())
        return {(number, sub): dict(zip(REGISTERS, words, strict=True))}
    match = _RAW.match(line)
    if match:
        number, *words = (int(word, 16) for word in match.groups())
        return {(number, 0): dict(zip(REGISTERS, words, strict=True))}
    match = _WORDS.match(line)
    if match:
        if leaf is None:
            raise ConfigError(
                f"{printable(line.strip(), 40)}: four words without a leaf; add --leaf 40000003"
            )
        words = [int(word, 16) for word in match.groups()]
        return {(leaf, 0): dict(zip(REGISTERS, words, strict=True))}
    return _boot_line(line)


def _boot_line(line: str) -> Dump | None:
    found: Dump = {}
    match = _BOOT.search(line)
    if match:
        if "privilege flags" in match[0] and not re.search("misc:? 0x", match[0]):
            raise ConfigError(f"{printable(match[0], 50)}: no misc in it; was it cut short?")
        for word, value in re.findall(r"(\w+):? 0x([0-9a-f]{1,8})\b", match[0]):
            place = _BOOT_WORDS.get(word)
            if place:
                found.setdefault((place[0], 0), {})[place[1]] = int(value, 16)
    match = _NESTED.search(line)
    if match:
        found[LEAF_NESTED, 0] = {"eax": int(match[1], 16)}
    match = _BUILD.search(line)
    if match:
        major, minor, build, service, pack, branch = (int(word) for word in match.groups())
        words = (build, major << 16 | minor, pack, branch << 24 | service)
        if max(words) < 1 << 32:
            found[0x40000002, 0] = dict(zip(REGISTERS, words, strict=True))
    return found or None


def _json(text: str, name: str) -> Dump:
    """Return the dump in a JSON document, or in one of a log with a document per line."""
    whole = False
    for part in (text, *text.splitlines()):
        try:
            found = _document(json.loads(part))
            whole = True
        except (ValueError, RecursionError):
            continue
        except TypeError as error:
            raise ConfigError(f"{name}: JSON with wrong types: {error}") from error
        if found:
            return found
    if not whole:
        raise ConfigError(f"{name}: JSON with an error in it; was it cut short?")
    raise ConfigError(
        f"{name}: no CPUID in this JSON; of QMP it takes qom-get feature-words and "
        "query-cpu-model-expansion with hv- properties"
    )


def _document(document: object) -> Dump:
    if isinstance(document, dict):
        for key in ("return", "model"):
            if isinstance(document.get(key), (dict, list)):
                return _document(document[key])
        for key in ("cpuid", "hyperv_cpuid"):
            if isinstance(document.get(key), list):
                return _rows(document[key])
        if isinstance(document.get("props"), dict):
            return _properties(document["props"])
        return {}
    return _words(document) if isinstance(document, list) else {}


def _u32(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32:
        return value
    raise TypeError(f"{printable(repr(value), 30)} is no 32-bit number")


def _rows(rows: list[object]) -> Dump:
    """Return pyhv's own rows: leaf, index, [flags,] eax, ebx, ecx, edx."""
    found: Dump = {}
    for row in rows:
        if not isinstance(row, list) or len(row) not in (6, 7):
            raise TypeError("a CPUID row has 6 or 7 numbers")
        numbers = [_u32(value) for value in row]
        found[numbers[0], numbers[1]] = dict(zip(REGISTERS, numbers[-4:], strict=True))
    return found


def _words(words: list[object]) -> Dump:
    """Return QMP's feature-words: a register of a leaf each."""
    found: Dump = {}
    for word in words:
        if not isinstance(word, dict) or "cpuid-register" not in word:
            continue
        register = str(word["cpuid-register"]).lower()
        if register not in REGISTERS:
            raise TypeError(f"no register {printable(register, 20)}")
        key = _u32(word.get("cpuid-input-eax")), _u32(word.get("cpuid-input-ecx", 0))
        found.setdefault(key, {})[register] = _u32(word.get("features"))
    return found


def _properties(properties: dict[str, object]) -> Dump:
    """Return the leaves that QEMU would show for the hv- properties of an expanded model."""
    from ..cpu_options import parse_value
    from ..hyperv.choose import choose
    from ..hyperv.cpuid import leaves
    from .explain import KVM_WORDS, any_host

    given = {}
    for raw, value in properties.items():
        name = ALIASES.get(raw, raw)
        row = FLAGS.get(name)
        if row is None or value == row.default or value is None:
            continue
        if row.kind in ("bool", "u8", "u16", "u32", "i32") and not isinstance(value, int):
            raise TypeError(f"{name}: {printable(repr(value), 30)}")
        text = (
            {True: "on", False: "off"}.get(value, str(value)) if row.kind == "bool" else str(value)
        )
        given[name] = parse_value(name, row.kind, text)
    if not given:
        return {}
    chosen = choose(given, any_host(bool(given.get("hv-passthrough"))), user=False)
    shown = leaves(chosen, KVM_WORDS if properties.get("kvm", True) else None)
    return {(row[0], 0): dict(zip(REGISTERS, row[2:], strict=True)) for row in shown}
