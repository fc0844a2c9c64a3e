"""``pyhv audit``: what is advertised, what the guest enabled, what it really used, and why not."""

from __future__ import annotations

import json

from ..errors import ConfigError
from ..hyperv import tlfs as t
from ..hyperv.flags import FLAGS, ROWS
from . import commands
from .arguments import help_text, parse, read_input
from .cpuid import _of_flags, flags_of
from .dumps import Dump
from .dumps import parse as parse_dump
from .evidence import read_trace
from .rules import COSTLY, RULES, SINTS, STIMERS, Case
from .text import BOLD, YELLOW, coloured, table, wrapped

#: flag -> (MSRs, bit): written there, the guest has enabled it
ENABLES: dict[str, tuple[tuple[int, ...], int]] = {
    "hv-time": ((t.HV_X64_MSR_REFERENCE_TSC,), t.HV_PAGE_ENABLE),
    "hv-vapic": ((t.HV_X64_MSR_VP_ASSIST_PAGE,), t.HV_PAGE_ENABLE),
    "hv-synic": ((t.HV_X64_MSR_SCONTROL,), t.HV_SYNIC_SCONTROL_ENABLE),
    "hv-stimer": (tuple(STIMERS), t.HV_STIMER_ENABLE | t.HV_STIMER_AUTO_ENABLE),
    "hv-stimer-direct": (tuple(STIMERS), t.HV_STIMER_DIRECT),
    "hv-reenlightenment": ((t.HV_X64_MSR_REENLIGHTENMENT_CONTROL,), 1 << 16),
    "hv-tlbflush": ((t.HV_X64_MSR_HYPERCALL,), t.HV_PAGE_ENABLE),
    "hv-ipi": ((t.HV_X64_MSR_HYPERCALL,), t.HV_PAGE_ENABLE),
    "hv-spinlocks": ((t.HV_X64_MSR_HYPERCALL,), t.HV_PAGE_ENABLE),
}
#: what leaves no trace outside the guest
UNSEEN = {"hv-relaxed", "hv-avic", "hv-evmcs", "hv-emsr-bitmap", "hv-xmm-input", "hv-tlbflush-ext",
          "hv-tlbflush-direct", "hv-no-nonarch-coresharing"}  # fmt: skip
#: MSRs whose state at the end is worth reading where KVM keeps them
STATE = (
    t.HV_X64_MSR_GUEST_OS_ID, t.HV_X64_MSR_HYPERCALL, t.HV_X64_MSR_REFERENCE_TSC,
    t.HV_X64_MSR_VP_ASSIST_PAGE, t.HV_X64_MSR_SCONTROL, t.HV_X64_MSR_SIMP, t.HV_X64_MSR_SIEFP,
    t.HV_X64_MSR_REENLIGHTENMENT_CONTROL, *SINTS, *STIMERS, *(number + 1 for number in STIMERS),
)  # fmt: skip


def enabled(name: str, case: Case) -> str:
    """Return ``yes``, ``no``, or "-" where there is nothing to enable.

    Where KVM kept the MSRs they were read at the end: a guest may have enabled and disabled it.
    """
    if name not in ENABLES:
        return "-"
    numbers, mask = ENABLES[name]
    evidence = case.evidence
    if any(case.written(number, mask) for number in numbers):
        return "yes"
    touched = {*numbers, *FLAGS[name].msrs}
    if any(evidence.writes[number] for number in touched if number not in evidence.last):
        return "?"  # a histogram has no values
    if name == "hv-stimer" and not evidence.counted and case.timer_armed():
        return "yes"
    return "no" if evidence.counted else "not at end"


def used(name: str, case: Case) -> str:
    """Return counts of reads, writes and calls, or why there are none to give."""
    row, evidence = FLAGS[name], case.evidence
    if name in UNSEEN:
        return "cannot be seen from outside"
    if name == "hv-stimer-direct" and evidence.counted:  # a bit in the timers' MSRs
        return "counted with hv-stimer" if enabled(name, case) == "yes" else "nothing"
    reads = sum(evidence.reads[number] for number in row.msrs)
    writes = sum(evidence.writes[number] for number in row.msrs)
    calls = sum(evidence.calls[code] for code in row.hypercalls)
    counts = ((reads, "reads"), (writes, "writes"), (calls, "calls"))
    shown = ", ".join(
        f"{count:,} {what if count > 1 else what[:-1]}" for count, what in counts if count
    )
    if not shown and not evidence.counted:
        return "KVM serves it, no count"
    return shown or "nothing"


def rows(case: Case) -> list[list[str]]:
    """Return (flag, advertised, enabled, used) for what is advertised or was used."""
    found = []
    for row in ROWS:
        shown = case.shows(row.name)
        if shown or case.touched(row):
            advertised = "yes" if shown else "no"
            found.append([row.name, advertised, enabled(row.name, case), used(row.name, case)])
    return found


def findings(case: Case) -> list[tuple[str, bool]]:
    """Return (text, whether it costs) for each rule that has something to say."""
    told = [(rule(case), rule in COSTLY) for rule in RULES]
    return [(text, costs) for text, costs in told if text]


def show(case: Case, as_json: bool) -> tuple[str, int]:
    """Return the report and the status: 1 if something costs."""
    told = findings(case)
    status = int(any(costs for _, costs in told))
    items = flags_of(case.dump)[0]
    if as_json:
        names = ("flag", "advertised", "enabled", "used")
        return json.dumps({
            "cpu": items, "guest": case.os, "seconds": case.evidence.seconds,
            "rows": [dict(zip(names, row, strict=True)) for row in rows(case)],
            "findings": [{"text": text, "costs": costs} for text, costs in told],
        }, indent=1), status  # fmt: skip
    who = {"": "the guest never said what it is", "another": "the guest: neither Linux nor Windows"}
    lines = wrapped(who.get(case.os, f"the guest: {case.os}"))
    found = rows(case)
    lines += ["", *table(found, ("flag", "advertised", "enabled", "used")), ""] if found else []
    for text, costs in told:
        paragraph = wrapped(text, "  ", "* " if costs else "- ")
        lines += [coloured(line, BOLD if costs else YELLOW) for line in paragraph]
    if not told:
        lines.append("nothing to complain about" if found else "no Hyper-V flag is advertised")
    return "\n".join(lines), status


def advertised(parsed_values: dict[str, str]) -> Dump:
    """Return the guest's CPUID from --cpuid or --cpu.

    :raises ConfigError: neither, or both.
    """
    if ("cpu" in parsed_values) == ("cpuid" in parsed_values):
        raise ConfigError("what was advertised? give --cpu TEXT, or --cpuid FILE with a dump")
    if "cpu" in parsed_values:
        return _of_flags(parsed_values["cpu"])[1]
    name = parsed_values["cpuid"]
    return parse_dump(read_input(name), name)[-1][1]


def main(arguments: list[str]) -> tuple[str, int]:
    """Return what to print, and the status."""
    command = commands.AUDIT
    parsed = parse(command, arguments)
    if "h" in parsed:
        return help_text(command), 0
    dump = advertised(parsed.values)
    name = parsed.words[0] if parsed.words else "-"
    evidence = read_trace(read_input(name), "standard input" if name == "-" else name)
    return show(Case(dump, evidence), "json" in parsed)
