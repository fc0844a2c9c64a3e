"""Drawings: the boot's phases and milestones, exits over time as stacked bars, the memory map."""

from __future__ import annotations

import json
import math

from .html import duration, esc, number, seconds
from .milestones import PHASES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .story import Story

SERIES = 7  # and "others"
WIDTH, HEIGHT, LEFT, TOP, BASE = 1000, 280, 56, 12, 246
DOTS = 400  # milestones with a dot; all are in the list


def phases(story: Story) -> list[tuple[int, str]]:
    """Return (begin, name), ascending: each phase ends where the next begins."""
    found, order = [(0, "start")], list(PHASES)
    at = -1
    for mark in story.milestones:
        if mark.kind in PHASES and order.index(mark.kind) > at:
            at = order.index(mark.kind)
            found.append((mark.time_ns, PHASES[mark.kind]))
    return found


def boot(story: Story) -> str:
    """Return the phases as a bar, dots on it, and the list of milestones."""
    total = max(story.last_ns, 1)
    steps = phases(story)
    ends = [begin for begin, _ in steps[1:]] + [total]
    bar, legend = [], []
    for number_, ((begin, name), end) in enumerate(zip(steps, ends, strict=True)):
        x, width = LEFT + begin / total * (WIDTH - LEFT), (end - begin) / total * (WIDTH - LEFT)
        title = f"{name}: {duration(end - begin)}"
        bar.append(f'<rect class="p{number_}" x="{x:.1f}" y="58" width="{max(width, 1):.1f}" '
                   f'height="26"><title>{title}</title></rect>')  # fmt: skip
        if width > 9 * len(title):
            bar.append(f'<text class="in" x="{x + 8:.1f}" y="76">{title}</text>')
        legend.append(f'<li><span class="sw p{number_}"></span>{name} '
                      f"<b>{duration(end - begin)}</b></li>")  # fmt: skip
    dots, last = [], [-99.0] * 4
    for at, mark in enumerate(story.milestones[:DOTS], 1):
        x = LEFT + mark.time_ns / total * (WIDTH - LEFT - 10)
        row = next((row for row, end in enumerate(last) if x - end > 17), 3)
        last[row] = x
        y = 46 - 13 * row
        dots.append(
            f'<g class="m {mark.kind}"><line x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="58"/>'
            f'<circle cx="{x:.1f}" cy="{y}" r="6"/><text x="{x:.1f}" y="{y + 2.8}">{at}</text>'
            f"<title>{seconds(mark.time_ns)} s: {esc(mark.text)}</title></g>"
        )
    axis = "".join(
        f'<text class="ax" x="{LEFT + part * (WIDTH - LEFT):.0f}" y="100" '
        f'text-anchor="{"end" if part == 1 else "middle" if part else "start"}">'
        f"{duration(part * total) if part else '0'}</text>"
        for part in (0, 0.25, 0.5, 0.75, 1)
    )
    shown = "".join(
        f'<li class="{mark.kind}"><span class="t">{seconds(mark.time_ns)}</span> '
        f"<span>{esc(mark.text)}</span></li>"
        for mark in story.milestones
    )
    return (
        f'<figure><svg viewBox="40 0 {WIDTH - 40} 106" role="img" aria-label="Phases of the boot">'
        f"{''.join(bar)}{''.join(dots)}{axis}</svg></figure>"
        f'<ul class="legend">{"".join(legend)}</ul><ol class="miles">{shown}</ol>'
    )


def series(story: Story) -> list[tuple[str, list[int]]]:
    """Return (reason, counts a bin), the most frequent first; what is left is one row."""
    used = max(story.exits.used(), 1)
    ranked = sorted(story.exits.counts.items(), key=lambda item: -sum(item[1]))
    found = [(name, row[:used]) for name, row in ranked[:SERIES]]
    rest = [row[:used] for _, row in ranked[SERIES:]]
    if rest:
        found.append(("others", [sum(column) for column in zip(*rest, strict=True)]))
    return found


def exits(story: Story) -> str:
    """Return stacked bars, a legend that switches, and a slider that tells a bar's numbers."""
    rows = series(story)
    if not rows:
        return '<p class="none">The trace has no exits: add --trace exits.</p>'
    used, width_ns = len(rows[0][1]), story.exits.width_ns
    most = max(sum(row[at] for _, row in rows) for at in range(used))
    step = 10 ** math.floor(math.log10(most))
    top = next(n * step for n in (1, 2, 5, 10) if n * step >= most)
    scale, wide = (BASE - TOP) / top, (WIDTH - LEFT) / used
    slim = max(wide - 0.6, 0.6)
    grid = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{BASE - part * top * scale:.1f}" '
        f'y2="{BASE - part * top * scale:.1f}"/><text class="ax" text-anchor="end" '
        f'x="{LEFT - 6}" y="{BASE - part * top * scale + 4:.1f}">{number(int(part * top))}</text>'
        for part in (0, 0.5, 1)
    )
    groups, floor = [], [0] * used
    for at, (_, row) in enumerate(rows):
        bars = ""
        for column, count in enumerate(row):
            if count:
                y = BASE - (floor[column] + count) * scale
                bars += (f'<rect x="{LEFT + column * wide:.2f}" y="{y:.2f}" '
                         f'width="{slim:.2f}" height="{count * scale:.2f}"/>')  # fmt: skip
                floor[column] += count
        groups.append(f'<g class="s{at}">{bars}</g>')
    axis = "".join(
        f'<text class="ax" x="{LEFT + part * (WIDTH - LEFT):.0f}" y="{BASE + 20}" '
        f'text-anchor="{"end" if part == 1 else "middle" if part else "start"}">'
        f"{duration(part * used * width_ns) if part else '0'}</text>"
        for part in (0, 0.25, 0.5, 0.75, 1)
    )
    legend = "".join(
        f'<li><button type="button" class="key" aria-pressed="true" data-s="{at}">'
        f'<span class="sw s{at}"></span>{esc(name)} <b>{number(sum(row))}</b></button></li>'
        for at, (name, row) in enumerate(rows)
    )
    data = json.dumps({"names": [n for n, _ in rows], "rows": [r for _, r in rows],
                       "ns": width_ns, "top": top}).replace("<", "\\u003c")  # fmt: skip
    return (
        f'<figure id="chart"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="Exits by reason, stacked, {used} bars of {duration(width_ns)}">'
        f'{grid}{"".join(groups)}<rect class="cursor" x="{LEFT}" y="{TOP}" width="{wide:.2f}" '
        f'height="{BASE - TOP}"/>{axis}</svg></figure>'
        f'<div class="pick"><label for="bin">Look at</label><input id="bin" type="range" min="0" '
        f'max="{used - 1}" value="0"><output id="told" for="bin" aria-live="polite"></output></div>'
        f'<ul class="legend" aria-label="Reasons; a button hides one">{legend}</ul>'
        f'<script type="application/json" id="bins">{data}</script>'
    )


def memory(story: Story) -> str:
    """Return the ranges as blocks: wider is larger, by powers of two."""
    blocks, last = [], 0
    for base, size, kind in sorted(story.memory):
        if base > last:
            blocks.append(_block(last, base - last, "no RAM", "hole"))
        blocks.append(_block(base, size, kind, "ram" if kind == "RAM" else "rsv"))
        last = max(last, base + size)
    return f'<ol class="map">{"".join(blocks)}</ol>'


def size_text(size: int) -> str:
    """Return bytes in the largest unit that keeps them whole, or nearly."""
    for unit, bits in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >> bits:
            return f"{size / (1 << bits):.4g} {unit}"
    return f"{size} bytes"


def _block(base: int, size: int, what: str, kind: str) -> str:
    grow = max(1.0, math.log2(max(size, 2)) - 9)
    return (
        f'<li class="{kind}" style="flex-grow:{grow:.1f}"><b>{esc(what)}</b>'
        f"<span>{size_text(size)}</span><code>{base:#x}</code></li>"
    )
