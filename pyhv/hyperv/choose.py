"""From the flags a user gave to those the guest gets: dependencies, the host's limits, passthrough.

All problems are reported at once, in QEMU's words and order, with the corrected ``-cpu``.
Sources: qemu target/i386/kvm/kvm.c, kvm_hyperv_expand_features, hyperv_enabled.
"""

from __future__ import annotations

from ..errors import ConfigError
from ..record import Record
from .flags import ALIASES, FLAGS, LEAF_HINTS, ROWS, SPINLOCKS_NEVER, Flag, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

REGISTERS = ("eax", "ebx", "ecx", "edx")
Leaf = tuple[int, int, int, int]  # eax ebx ecx edx

#: What pyhv's own core answers, in the form of KVM_GET_SUPPORTED_HV_CPUID (leaf, index, flags,
#: eax, ebx, ecx, edx): the table of Linux 6.12's KVM on AMD, so that one -cpu shows the same
#: leaves under both drivers. The nested bits (leaf A) are in it for the same reason; their rows
#: in flags.py refuse. 0x40000004.EAX[18] is a promise about the host: see in_user_table.
#: 0x40000005.EAX is KVM_MAX_VCPUS there; only hv-passthrough shows it.
IN_USER: tuple[tuple[int, ...], ...] = (
    (0x40000000, 0, 0, 0x40000082, 0x756E694C, 0x564B2078, 0x7648204D),  # Linux KVM Hv
    (0x40000001, 0, 0, 0x31237648, 0, 0, 0),  # Hv#1
    (0x40000002, 0, 0, 0x00003839, 0x000A0000, 0, 0),
    (0x40000003, 0, 0, 0x0000AAFF, 0x00100830, 0, 0x00084D12),
    (0x40000004, 0, 0, 0x00000E2C, 0x00000FFF, 0, 0),
    (0x40000005, 0, 0, 0x00001000, 0x00000040, 0, 0),
    (0x40000080, 0, 0, 0, 0x756E694C, 0x564B2078, 0x7648204D),
    (0x40000081, 0, 0, 0x31235356, 0, 0, 0),
    (0x40000082, 0, 0, 0x00000002, 0, 0, 0),
    (0x4000000A, 0, 0, 0x000A0000, 0x00000001, 0, 0),
)


def in_user_table(*, smt_possible: bool = True) -> tuple[tuple[int, ...], ...]:
    """Return IN_USER for a host; without SMT no two VPs can share a core unknown to the guest."""
    if smt_possible:
        return IN_USER
    promise = FLAGS["hv-no-nonarch-coresharing"].bits[0].mask
    return tuple(
        (*row[:3], row[3] | promise, *row[4:]) if row[0] == LEAF_HINTS else row for row in IN_USER
    )


class Chosen(Record):
    """The flags as the guest gets them.

    ``values`` has every row of flags.py; ``on`` the names of the feature flags that are on.
    ``host`` is the driver's table by leaf; ``given`` what the user wrote.
    """

    enabled: bool
    on: frozenset[str]
    values: Mapping[str, Value]
    host: Mapping[int, Leaf]
    given: Mapping[str, Value]


class FlagError(ConfigError):
    """Flags that do not go together: ``problems``, a text each, and ``corrected``, a good -cpu."""

    def __init__(self, problems: Sequence[str], corrected: str) -> None:
        super().__init__("; ".join(problems) + (f"; use -cpu {corrected}" if corrected else ""))
        self.problems, self.corrected = tuple(problems), corrected


def described(row: Flag) -> str:
    """Return the flag as QEMU's messages call it: ``Hyper-V relaxed timing (hv-relaxed)``."""
    return f"Hyper-V {row.desc} ({'/'.join((row.name, *row.aliases))})"


def host_has(row: Flag, host: Mapping[int, Leaf]) -> bool:
    """Tell whether every CPUID bit of the flag is in the host's table."""
    none = (0, 0, 0, 0)
    return all(
        bits.mask & ~host.get(bits.leaf, none)[REGISTERS.index(bits.register)] == 0
        for bits in row.bits
    )


def _needs(row: Flag, values: Mapping[str, Value]) -> tuple[str, ...]:
    if row.name == "hv-synic" and values["x-hv-synic-kvm-only"]:
        return ()
    return row.requires


def missing(values: Mapping[str, Value]) -> list[tuple[str, str]]:
    """Return (flag, flag that it requires and does not have), in the order of QEMU's checks.

    What a missing flag requires in its turn follows; *values* has every row.
    """
    on = {row.name for row in ROWS if row.bit >= 0 and values[row.name]}
    pairs: list[tuple[str, str]] = []
    while True:
        new = [
            (row.name, need)
            # QEMU has hv-synic's need outside its table, checked after all others
            for row in sorted(ROWS, key=lambda row: row.name == "hv-synic")
            if row.name in on
            for need in _needs(row, values)
            if need not in on and (row.name, need) not in pairs
        ]
        if not new:
            return pairs
        pairs += new
        on.update(need for _, need in new)


def corrected(cpu: str, add: Sequence[str], drop: Sequence[str]) -> str:
    """Return the ``-cpu`` text *cpu* with flags added at the end and flags taken out.

    Keeps the user's spelling: underscores for what is added if any hv flag has them.
    """
    model, *items = cpu.split(",")
    gone = set(drop)
    kept = []
    for item in items:
        name = item.partition("=")[0].lstrip("+-").replace("_", "-")
        name = ALIASES.get(name, name)
        if name in gone or (name in add and (item[0] == "-" or "=" in item)):
            continue  # refused by the host, or switched off although another flag needs it
        kept.append(item)
    under = any(item.startswith("hv_") for item in items)
    kept += [name.replace("-", "_") if under else name for name in add]
    return ",".join([model, *kept])


def choose(
    given: Mapping[str, Value],
    host: Iterable[Sequence[int]],
    *,
    user: bool,
    cpu: str = "",
    defaults: Mapping[str, Value] | None = None,
) -> Chosen:
    """Return what the guest gets for the flags *given*.

    :param given: name -> value, as ``parse_cpu(...).hv`` has them.
    :param host: rows (leaf, index, flags, eax, ebx, ecx, edx) of KVM_GET_SUPPORTED_HV_CPUID, or
        of :func:`in_user_table`.
    :param user: the in_user driver is to run it: hv-passthrough leaves out what that refuses.
    :param cpu: the user's text, for the corrected one in the error.
    :param defaults: those of an older machine type, of ``machine_types.hyperv_defaults``.
    :raises FlagError: a flag needs another one, or the host lacks it.
    """
    table: dict[int, Leaf] = {row[0]: tuple(row[3:7]) for row in host}  # type: ignore[misc]
    values: dict[str, Value] = {row.name: row.default for row in ROWS}
    values |= {**(defaults or {}), **given}
    rows = [row for row in ROWS if row.bit >= 0]
    if values["hv-passthrough"]:
        for row in rows:
            if row.name == "hv-syndbg" or (user and row.in_user):
                continue
            if host_has(row, table):
                values[row.name] = True
    enabled = bool(
        values["hv-passthrough"]
        or values["hv-spinlocks"] != SPINLOCKS_NEVER
        or any(values[row.name] for row in rows)
    )
    lacks = [row for row in rows if values[row.name] and not host_has(row, table)]
    pairs = missing(values)
    if lacks or pairs:
        raise _error(rows, lacks, pairs, values, cpu)
    on = frozenset(row.name for row in rows if values[row.name])
    return Chosen(enabled, on, values, table, dict(given))


def _error(
    rows: Sequence[Flag],
    lacks: Sequence[Flag],
    pairs: Sequence[tuple[str, str]],
    values: Mapping[str, Value],
    cpu: str,
) -> FlagError:
    lost = {row.name for row in lacks}
    while True:  # what needs a flag that the host lacks cannot stay either
        more = {row.name for row in rows if set(_needs(row, values)) & lost} - lost
        if not more:
            break
        lost |= more
    # QEMU's order: per feature first the host, then what it requires; what is implied comes last
    texts = [(row.bit, f"{described(row)} is not supported by kernel") for row in lacks]
    implied = []
    for name, need in pairs:
        text = f"{described(FLAGS[name])} requires {described(FLAGS[need])}"
        if values[name]:
            texts.append((99 if name == "hv-synic" else FLAGS[name].bit, text))
        else:
            implied.append(text)
    texts.sort(key=lambda pair: pair[0])  # stable
    add: list[str] = []
    for name, need in pairs:
        if need not in add and need not in lost and name not in lost:
            add.append(need)
    fixed = corrected(cpu, add, sorted(lost)) if cpu else ""
    return FlagError([text for _, text in texts] + implied, fixed)


def refusals(chosen: Chosen, *, user: bool) -> list[str]:
    """Return a text for each flag that is on and that the driver does not provide."""
    if not chosen.enabled:
        return []
    driver = "in_user" if user else "in_kernel"
    return [
        f"{row.name}: not provided by pyhv's {driver} driver: {getattr(row, driver)}"
        for row in ROWS
        if chosen.values[row.name] and getattr(row, driver)
        if not row.only_with or chosen.values[row.only_with]
    ]
