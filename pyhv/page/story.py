"""What a trace tells, collected line by line: bounded whatever the trace's size and contents."""

from __future__ import annotations

import json
from collections import Counter

from ..record import Record
from ..trace.writers import fields_text, value_text
from .milestones import Milestone, of_event, of_line
from .timeline import Timeline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

KEYS = 512  # different names kept per table; a guest chooses some of them
LINES = 5000  # console lines
STEPS = 6000  # messages and packets on the bus
TEXT = 500
LONGEST_NS = 1 << 62
#: category and name of an event -> the reason in the chart; others by their own name
REASONS = {
    ("pio", "in"): "port in", ("pio", "out"): "port out", ("pio", "ins"): "port in",
    ("pio", "outs"): "port out", ("mmio", "mmio_read"): "MMIO read",
    ("mmio", "mmio_write"): "MMIO write", ("msr", "rdmsr"): "MSR read",
    ("msr", "wrmsr"): "MSR write",
}  # fmt: skip


class Cost:
    """How often, and how long pyhv worked on it."""

    def __init__(self) -> None:
        self.count = self.total_ns = self.most_ns = 0
        self.results: Counter[str] = Counter()

    def add(self, duration_ns: int) -> None:
        """Count one."""
        self.count += 1
        self.total_ns += duration_ns
        self.most_ns = max(self.most_ns, duration_ns)


class MsrUse:
    """What was done with one MSR."""

    def __init__(self) -> None:
        self.reads = self.writes = self.faults = 0
        self.value: int | None = None
        self.fields = ""


class Step(Record):
    """One message or packet on the bus; *guest*: from the guest; *relid* 0: of no channel."""

    time_ns: int
    guest: bool
    ring: bool
    name: str
    relid: int
    text: str


class Story:
    """Everything the document shows. Feed it with :meth:`read`."""

    def __init__(self) -> None:
        self.board: dict[str, Any] = {}
        self.end: dict[str, Any] = {}
        self.lives = self.events = self.bad = self.lost = 0
        self.last_ns = 0
        self.categories: Counter[str] = Counter()
        self.memory: list[tuple[int, int, str]] = []
        self.cpuid: dict[tuple[int, int], dict[str, int]] = {}
        self.exits = Timeline()
        self.reasons: dict[str, Cost] = {}
        self.whats: dict[str, Cost] = {}
        self.msrs: dict[str, MsrUse] = {}
        self.calls: dict[str, Cost] = {}
        self.console: list[tuple[int, str]] = []
        self.milestones: list[Milestone] = []
        self.steps: list[Step] = []
        self.channels: dict[int, str] = {}
        self.pages: dict[str, int] = {}

    def read(self, lines: Iterable[str]) -> Story:
        """Take the lines of a trace in JSON Lines; return self. What is no event is counted."""
        for line in lines:
            try:
                event = json.loads(line)
                good = isinstance(event["fields"], dict) and int(event["time_ns"]) < LONGEST_NS
            except (ValueError, RecursionError, TypeError, KeyError, OverflowError):
                good = False
            if good:
                self._event(event)
            elif line.strip() and line[0] != "#":
                self.bad += 1
        self.steps.sort(key=lambda step: step.time_ns)
        self.milestones.sort(key=lambda one: one.time_ns)
        return self

    def _event(self, event: dict[str, Any]) -> None:
        fields = event["fields"]
        when, took = _whole(event["time_ns"]), _whole(event.get("duration_ns"))
        name, category = str(event.get("name"))[:TEXT], str(event.get("category"))
        self.events += 1
        self.last_ns = max(self.last_ns, min(when + took, LONGEST_NS))
        if category in self.categories or len(self.categories) < KEYS:
            self.categories[category] += 1
        handle = HANDLERS.get(category)
        if handle is not None:
            handle(self, when, took, name, fields, event.get("result"))
        mark = of_event(when, name, fields) if category in ("msr", "vmbus") else None
        if mark is not None and not any(one.text == mark.text for one in self.milestones):
            self._milestone(mark)

    def _milestone(self, mark: Milestone) -> None:
        if len(self.milestones) < KEYS:
            self.milestones.append(mark)

    def _exit(
        self, when: int, took: int, reason: str, what: str, table: dict[str, Cost] | None = None
    ) -> None:
        for costs, key in ((self.reasons, reason), (self.whats, what), (table, what)):
            if costs is not None and (key in costs or len(costs) < KEYS):
                costs.setdefault(key, Cost()).add(took)
        if reason in self.reasons:
            self.exits.add(reason, when)

    def port(self, when: int, took: int, name: str, fields: dict, result: object) -> None:
        """A port or MMIO access, or another exit."""
        kind = "pio" if "port" in fields else "mmio" if "gpa" in fields else "exits"
        device = str(fields.get("device", ""))[:TEXT].replace("-", "")
        where = device or value_text(fields.get("port", fields.get("gpa", "")))
        self._exit(when, took, REASONS.get((kind, name), name), f"{name} {where}".strip())

    def msr(self, when: int, took: int, name: str, fields: dict, result: object) -> None:
        """An MSR access."""
        msr = str(fields.get("msr"))[:TEXT]
        self._exit(when, took, REASONS.get(("msr", name), name), f"{name} {msr}")
        if msr not in self.msrs and len(self.msrs) >= KEYS:
            return
        use = self.msrs.setdefault(msr, MsrUse())
        if result == "#GP":
            use.faults += 1
            return
        write = name == "wrmsr"
        use.writes += write
        use.reads += not write
        value = fields.get("value") if write else result
        if isinstance(value, int):
            use.value = value
            decoded = fields.get("decoded")
            use.fields = fields_text(decoded)[:TEXT] if isinstance(decoded, dict) else ""
            if write and isinstance(decoded, dict) and "gpa" in decoded:
                self.pages.pop(msr, None)
                if decoded.get("enable"):
                    self.pages[msr] = _whole(decoded["gpa"])

    def call(self, when: int, took: int, name: str, fields: dict, result: object) -> None:
        """A hypercall."""
        self._exit(when, took, "hypercall", name, self.calls)
        cost = self.calls.get(name)
        said = str(result)[:TEXT]
        if cost is not None and (said in cost.results or len(cost.results) < 16):
            cost.results[said] += 1

    def bus(self, when: int, took: int, name: str, fields: dict, result: object) -> None:
        """A channel message or a ring packet."""
        relid = _whole(fields.get("relid"))
        if "class" in fields and relid and len(self.channels) < KEYS:
            self.channels[relid] = str(fields["class"])[:TEXT]
        if len(self.steps) >= STEPS:
            self.lost += 1
            return
        ring = name.startswith(("VM_PKT_", "packet "))
        hidden = {"from", "to", "data", "before", "after"}
        hidden |= {"relid", "class", "transaction"} if ring else set()
        shown = {key: value for key, value in fields.items() if key not in hidden}
        text = fields_text(shown)
        if result not in (None, "HV_STATUS_SUCCESS"):
            text += f" = {value_text(result)}"
        self.steps.append(Step(when, "from" in fields, ring, name, relid, text[:TEXT]))

    def line(self, when: int, took: int, name: str, fields: dict, result: object) -> None:
        """A line of the console."""
        text = str(fields.get("text"))[:TEXT]
        mark = of_line(when, text)
        if mark is not None:
            self._milestone(mark)
        if len(self.console) < LINES:
            self.console.append((when, text))
        else:
            self.lost += 1

    def machine(self, when: int, took: int, name: str, fields: dict, result: object) -> None:
        """What the machine is, or how it ended."""
        if name == "board":
            self.lives += 1
            self.board = fields
            self.memory.clear()
        elif name == "end":
            self.end = fields
            kind = "shutdown" if fields.get("status") == 0 else "trouble"
            self._milestone(Milestone(when, str(fields.get("text"))[:TEXT], kind))
        elif name == "memory" and len(self.memory) < KEYS:
            base, size = _whole(fields.get("gpa")), _whole(fields.get("bytes"))
            self.memory.append((base, size, str(fields.get("kind"))[:TEXT]))
        elif name == "cpuid" and len(self.cpuid) < KEYS:
            key = _whole(fields.get("leaf")) & 0xFFFFFFFF, _whole(fields.get("subleaf"))
            self.cpuid[key] = {
                register: _whole(fields.get(register)) & 0xFFFFFFFF
                for register in ("eax", "ebx", "ecx", "edx")
            }


HANDLERS = {
    "pio": Story.port, "mmio": Story.port, "exits": Story.port, "msr": Story.msr,
    "hypercall": Story.call, "vmbus": Story.bus, "ring": Story.bus, "console": Story.line,
    "machine": Story.machine,
}  # fmt: skip


def _whole(value: object) -> int:
    """Return a number of the trace that should be one: 0 if it is not, or below 0."""
    return max(0, min(value, (1 << 64) - 1)) if isinstance(value, int) else 0
