"""What a guest was seen to do with the Hyper-V interface: counts, last values; from any trace.

Traces: pyhv's own ``--trace msr,hypercall --trace-format jsonl``; text of the kernel's trace
points kvm:kvm_msr and kvm:kvm_hv_hypercall as trace-cmd, perf script and tracefs print it; the
kernel's histograms of them (``hist:keys=ecx,write``).
"""

from __future__ import annotations

import json
import re
from collections import Counter

from ..errors import ConfigError
from ..trace.names import MSR_NAMES
from .names import CALL_NAMES
from .text import printable

NUMBERS = {name: number for number, name in MSR_NAMES.items()}
CODES = {name: code for code, name in CALL_NAMES.items()}
SYNTHETIC = range(0x40000000, 0x40001000)

_MSR = re.compile(r"kvm_msr: +msr_(read|write) ([0-9a-f]+) = 0x([0-9a-f]+)( \(#GP\))?")
_CALL = re.compile(r"kvm_hv_hypercall: +code (0x[0-9a-f]+)")
_TIME = re.compile(r"\s(\d+\.\d+): +(?:kvm:)?kvm_")
_HIST = re.compile(r"\{(.*)\} +hitcount: +(\d+)")
_KEY = re.compile(r"(\w+): +(0x[0-9a-f]+|[0-9a-f]+)")


class Evidence:
    """Counts by MSR number and hypercall code.

    ``faults``: accesses that got #GP, by MSR. ``last``: the last value written. ``ever``: all bits
    ever written. ``seconds``: how long it was looked at, 0 if not known. ``counted``: False where
    KVM served the MSRs and only their state at the end was read.
    """

    def __init__(self) -> None:
        self.reads: Counter[int] = Counter()
        self.writes: Counter[int] = Counter()
        self.faults: Counter[int] = Counter()
        self.calls: Counter[int] = Counter()
        self.last: dict[int, int] = {}
        self.ever: dict[int, int] = {}
        self.seconds = 0.0
        self.counted = True
        self.events = 0

    def msr(self, number: int, write: bool, value: int | None, fault: bool, times: int = 1) -> None:
        """Note *times* accesses of an MSR; others than synthetic ones are not kept."""
        self.events += 1
        if number not in SYNTHETIC:
            return
        if fault:
            self.faults[number] += times
            return
        (self.writes if write else self.reads)[number] += times
        if write and value is not None:
            self.last[number] = value
            self.ever[number] = self.ever.get(number, 0) | value

    def call(self, code: int, times: int = 1) -> None:
        """Note *times* hypercalls."""
        self.events += 1
        self.calls[code & 0xFFFF] += times

    def state(self, number: int, value: int) -> None:
        """Note the value that an MSR was found with at the end."""
        self.last[number] = value
        self.ever[number] = self.ever.get(number, 0) | value

    def used(self, number: int) -> int:
        """Return how often an MSR was read or written."""
        return self.reads[number] + self.writes[number]


def _u64(value: object) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value & (1 << 64) - 1 if whole else None  # type: ignore[operator]


def take_event(
    evidence: Evidence, name: str, category: str, fields: object, result: object
) -> None:
    """Note one event of pyhv's tracer: an MSR access or a hypercall."""
    if not isinstance(fields, dict):
        return
    if category == "hypercall":
        code = CODES.get(name)
        if code is None:
            match = re.fullmatch(r"hypercall 0x([0-9a-f]{1,4})", name)
            code = int(match[1], 16) if match else None
        if code is not None:
            evidence.call(code)
    elif category == "msr" and name in ("rdmsr", "wrmsr"):
        shown = str(fields.get("msr"))
        number = NUMBERS.get(shown)
        if number is None and re.fullmatch(r"0x[0-9a-f]{1,8}", shown):
            number = int(shown, 16)
        if number is not None:
            evidence.msr(number, name == "wrmsr", _u64(fields.get("value")), result == "#GP")


def _json_line(evidence: Evidence, line: str) -> bool:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return False
    if not isinstance(event, dict) or "category" not in event or "name" not in event:
        return False
    name, category = str(event["name"]), str(event["category"])
    take_event(evidence, name, category, event.get("fields"), event.get("result"))
    when = _u64(event.get("time_ns"))
    if when is not None and when < 1 << 62:
        evidence.seconds = max(evidence.seconds, when / 1e9)
    return True


def _number(text: str) -> int:
    """Return a key of a histogram: hexadecimal with ecx.hex, decimal else (then 10 digits)."""
    return int(text, 16) if text.startswith("0x") or len(text) == 8 else int(text, 10)


def _histogram(evidence: Evidence, line: str) -> bool:
    match = _HIST.search(line)
    if not match:
        return False
    keys = dict(_KEY.findall(match[1]))
    times = min(int(match[2][:18]), 1 << 60)
    try:
        if "ecx" in keys:
            write = keys.get("write", "0") not in ("0", "0x0")
            evidence.msr(_number(keys["ecx"]), write, None, False, times)
        elif "code" in keys:
            evidence.call(int(keys["code"], 16 if keys["code"].startswith("0x") else 10), times)
        else:
            return False
    except ValueError:
        return False
    return True


def read_trace(text: str, name: str) -> Evidence:
    """Return what a trace shows.

    :raises ConfigError: no line of it is of a form that is known.
    """
    evidence, first, last, known = Evidence(), 0.0, 0.0, 0
    for line in text.splitlines():
        if line.startswith("{") and "hitcount" not in line:
            known += _json_line(evidence, line)
            continue
        match = _MSR.search(line)
        call = None if match else _CALL.search(line)
        if match:
            write = match[1] == "write"
            value = int(match[3][:16], 16)
            evidence.msr(int(match[2][:16], 16), write, value, bool(match[4]))
        elif call:
            evidence.call(int(call[1][:18], 16))
        elif not _histogram(evidence, line):
            continue
        known += 1
        when = _TIME.search(line)
        if when:
            last = min(float(when[1][:20]), 1e12)
            first = first or last
    if not known:
        raise ConfigError(
            f"{printable(name)}: no trace in it; pyhv audit takes --trace msr,hypercall "
            "--trace-format jsonl of pyhv run, and text or histograms of the kernel's kvm:kvm_msr "
            "and kvm:kvm_hv_hypercall"
        )
    evidence.seconds = max(evidence.seconds, last - first)
    return evidence
