"""The page: head with style and script, the numbers at a glance, and a section for each view.

It asks the network for nothing, and a policy in it says so: what a guest wrote into a trace is
text, whatever it looks like.
"""

from __future__ import annotations

import base64
import hashlib
import os

from ..lookup.cpuid import fields as leaf_fields
from ..lookup.cpuid import kvm_leaves, owner, set_bits
from ..lookup.names import LEAVES
from ..trace.names import MSR_NAMES
from . import busview, charts
from .html import duration, esc, number, seconds, section, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .story import Cost, Story

HERE = os.path.dirname(os.path.abspath(__file__))
NUMBERS = {name: value for value, name in MSR_NAMES.items()}
ROWS = 60
REGISTERS = ("eax", "ebx", "ecx", "edx")
SECTIONS = (
    ("boot", "Boot"), ("exits", "Exits"), ("cpuid", "CPUID"), ("msrs", "MSRs"),
    ("calls", "Hypercalls"), ("bus", "VMBus"), ("memory", "Memory"),
)  # fmt: skip


def _file(name: str) -> str:
    with open(os.path.join(HERE, name), encoding="utf-8") as file:
        return file.read()


def _tiles(story: Story) -> str:
    spent = sum(cost.total_ns for cost in story.reasons.values())
    total = max(story.last_ns, 1)
    top = max(story.whats.items(), key=lambda item: item[1].count, default=None)
    tiles = [
        ("time", duration(story.last_ns), f"{number(story.events)} events"),
        ("exits", number(sum(cost.count for cost in story.reasons.values())),
         f"most: {top[0]}" if top else "none in the trace"),
        ("in pyhv", f"{spent / total * 100:.1f} %", f"{duration(spent)} of all vCPUs' exits"),
        ("on VMBus", number(len(story.steps)), f"{len(story.channels)} channels"),
    ]  # fmt: skip
    return "".join(
        f'<div class="tile"><dt>{esc(name)}</dt><dd>{esc(value)}</dd><dd class="sub">{esc(sub)}'
        "</dd></div>"
        for name, value, sub in tiles
    )


def _facts(story: Story) -> str:
    board, end = story.board, story.end
    driver = str(board.get("driver", ""))
    words = []
    if board:
        memory = board.get("memory")
        cpus = board.get("cpus")
        words = [
            f"Hyper-V by {driver}" if driver != "none" else "no Hyper-V",
            f"{cpus} CPU{'s' if cpus != 1 else ''}",
            charts.size_text(memory) if isinstance(memory, int) else "",
            f"-cpu {board.get('cpu')}", os.path.basename(str(board.get("boots"))),
        ]  # fmt: skip
    if story.lives > 1:
        words.append(f"{story.lives} lives")
    text = "".join(f"<li>{esc(str(word)[:200])}</li>" for word in words if word)
    if end:
        kind = "good" if end.get("status") == 0 else "bad"
        text += f'<li class="{kind}">{esc(str(end.get("text"))[:300])}</li>'
    return text


def _costs(caption: str, what: str, costs: dict[str, Cost]) -> str:
    ranked = sorted(costs.items(), key=lambda item: -item[1].count)
    rows = (
        (name, (number(c.count), c.count), (duration(c.total_ns), c.total_ns),
         (duration(c.total_ns / c.count), c.total_ns // c.count), (duration(c.most_ns), c.most_ns))
        for name, c in ranked[:ROWS]
    )  # fmt: skip
    return table(caption, (what, "times", "in pyhv", "mean", "longest"), rows, (1, 2, 3, 4))


def _boot(story: Story) -> str:
    lines = "".join(
        f'<li><span class="t">{seconds(when)}</span><span>{esc(text)}</span></li>'
        for when, text in story.console
    )
    if not lines:
        return charts.boot(story) + '<p class="none">No console: add --trace console.</p>'
    return charts.boot(story) + (
        f"<details><summary>Console, {number(len(story.console))} lines</summary>"
        '<div class="tools"><label>Find <input type="search" data-list="console" '
        'placeholder="hv_"></label></div><div class="scroll tall" tabindex="0" role="region" '
        f'aria-label="Console"><ol class="lines" id="console">{lines}</ol></div></details>'
    )


def _leaf(story: Story, key: tuple[int, int]) -> tuple:
    leaf, sub = key
    kvm = kvm_leaves(story.cpuid)
    synthetic = leaf >> 28 == 4
    title = "KVM features" if leaf in kvm else LEAVES.get(leaf, "") if synthetic else ""
    said = [esc(text) for text in leaf_fields(story.cpuid, leaf)] if synthetic else []
    for register, bit, name in set_bits(story.cpuid, leaf, sub):
        flag = owner(leaf, register, bit) if synthetic and leaf not in kvm else ""
        by = f' <span class="f">{esc(flag)}</span>' if flag else ""
        said.append(f'<span class="bit">{register.upper()}[{bit}] <b>{esc(name)}</b>{by}</span>')
    words = " ".join(f"{story.cpuid[key][register]:08x}" for register in REGISTERS)
    name = f"{leaf:08x}" + (f".{sub:x}" if sub else "")
    return ((f"<code>{name}</code>", name), title, (f"<code>{words}</code>", words),
            (" ".join(said), ""))  # fmt: skip


def _cpuid(story: Story) -> str:
    if not story.cpuid:
        return '<p class="none">The trace has no CPUID: add --trace machine.</p>'
    heads = ("leaf", "what", "EAX EBX ECX EDX", "bits and fields")
    hyper = [_leaf(story, key) for key in sorted(story.cpuid) if key[0] >> 28 == 4]
    rest = [_leaf(story, key) for key in sorted(story.cpuid) if key[0] >> 28 != 4]
    return (
        table("CPUID of the hypervisor", heads, hyper, sort=False)
        + f"<details><summary>The other {len(rest)} leaves</summary>"
        + table("Other CPUID leaves", heads, rest, sort=False)
        + "</details>"
    )


def _msrs(story: Story) -> str:
    if not story.msrs:
        return ('<p class="none">No MSR came to pyhv: under in_kernel KVM serves them; '
                "--hyperv user and --trace msr show them.</p>")  # fmt: skip
    ranked = sorted(story.msrs.items(), key=lambda item: -(item[1].reads + item[1].writes))
    rows = (
        ((f"<code>{esc(name)}</code>", name), f"{NUMBERS[name]:08x}" if name in NUMBERS else "",
         (number(use.reads), use.reads), (number(use.writes), use.writes),
         (f'<span class="bad">{use.faults}</span>' if use.faults else "0", use.faults),
         (f"<code>{use.value:#x}</code>" if use.value is not None else "", use.value or 0),
         use.fields)
        for name, use in ranked
    )  # fmt: skip
    heads = ("MSR", "number", "reads", "writes", "#GP", "last value", "which means")
    return table("MSRs by name", heads, rows, (2, 3, 4))


def _calls(story: Story) -> str:
    if not story.calls:
        return '<p class="none">No hypercall came to pyhv: add --trace hypercall.</p>'
    body = _costs("Hypercalls by name", "hypercall", story.calls)
    rows = (
        (name, result, (number(count), count))
        for name, cost in sorted(story.calls.items())
        for result, count in cost.results.most_common()
    )
    return body + table("What they returned", ("hypercall", "result", "times"), rows, (2,))


def _memory(story: Story) -> str:
    if not story.memory:
        return '<p class="none">The trace has no memory map: add --trace machine.</p>'
    rows = [
        ((f"<code>{base:#014x}</code>", base),
         (f"<code>{base + size - 1:#014x}</code>", base + size),
         (charts.size_text(size), size), kind)
        for base, size, kind in sorted(story.memory)
    ]  # fmt: skip
    rows += [
        ((f"<code>{gpa:#014x}</code>", gpa), (f"<code>{gpa + 4095:#014x}</code>", gpa + 4096),
         ("4 KiB", 4096), f"page of {name}")
        for name, gpa in sorted(story.pages.items(), key=lambda item: item[1])
    ]  # fmt: skip
    return charts.memory(story) + table("Memory map", ("from", "to", "size", "what"), rows, (2,))


def document(story: Story, title: str) -> str:
    """Return the page of *story* as one HTML document."""
    style, script = _file("style.css"), _file("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    policy += f"script-src 'sha256-{digest}'"
    width = duration(story.exits.width_ns)
    exits = charts.exits(story)
    if story.reasons:
        exits += _costs("Exits by reason", "reason", story.reasons)
        exits += (f"<details><summary>What exactly: {min(len(story.whats), ROWS)} kinds</summary>"
                  + _costs("Exits by what they did", "what", story.whats)
                  + "</details>")  # fmt: skip
    parts = {
        "boot": ("Boot timeline", "Numbers are milestones in the list; time is the host's.",
                 _boot(story)),
        "exits": ("Exits by reason", f"Each bar is {width}. A reason in the legend hides and comes "
                  "back.", exits),
        "cpuid": ("CPUID", "What vCPU 0 reads; in grey the -cpu flag that gives a bit.",
                  _cpuid(story)),
        "msrs": ("MSRs", "Those that came to pyhv, by official name; the last value seen.",
                 _msrs(story)),
        "calls": ("Hypercalls", "Those that came to pyhv.", _calls(story)),
        "bus": ("VMBus", "Channel messages, and packets in the rings: rows that fold open. Time "
                "goes down.", busview.ladder(story)),
        "memory": ("Memory", "Blocks grow with the power of two of their size.", _memory(story)),
    }  # fmt: skip
    links = "".join(f'<a href="#{name}">{text}</a>' for name, text in SECTIONS)
    body = "".join(section(name, *parts[name]) for name, _ in SECTIONS)
    lost = []
    if story.bad:
        lost.append(f"{number(story.bad)} lines were no events")
    if story.lost:
        lost.append(f"{number(story.lost)} bus and console rows are left out: too many")
    note = f'<p class="lost" role="note">{"; ".join(lost)}.</p>' if lost else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{esc(title)}: pyhv report</title><style>{style}</style></head><body>"
        '<a class="skip" href="#main">Skip to the report</a>'
        f'<header><div class="top"><p class="brand">pyhv report</p>'
        '<button type="button" id="theme">Theme: system</button></div>'
        f'<h1>{esc(title)}</h1><ul class="facts">{_facts(story)}</ul>'
        f'<dl class="tiles">{_tiles(story)}</dl>{note}</header>'
        f'<nav aria-label="Sections">{links}</nav><main id="main">{body}</main>'
        f"<footer>Made by pyhv report of {number(story.events)} events.</footer>"
        f"<script>{script}</script></body></html>\n"
    )
