"""The bus as a ladder: the guest on the left, the host on the right, an arrow a message."""

from __future__ import annotations

from collections import Counter

from .html import duration, esc, number, seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .story import Step, Story

FOLD = 4  # ring packets in a row of one channel from which on they are one row
RUNGS = 1500


def folded(steps: list[Step]) -> list[list[Step]]:
    """Return the steps in groups: ring packets that follow each other on a channel are one."""
    groups: list[list[Step]] = []
    for step in steps:
        if step.ring and groups and groups[-1][0].ring and groups[-1][0].relid == step.relid:
            groups[-1].append(step)
        else:
            groups.append([step])
    found = []
    for group in groups:
        found += [group] if len(group) >= FOLD else [[step] for step in group]
    return found


def _who(story: Story, relid: int) -> str:
    if not relid:
        return ""
    return f'<span class="ch">{esc(story.channels.get(relid, "channel")[:12])} {relid}</span>'


def _rung(story: Story, step: Step) -> str:
    way = "up" if step.guest else "down"
    said = "guest to host" if step.guest else "host to guest"
    name = esc(step.name.removeprefix("CHANNELMSG_").removeprefix("VM_PKT_"))
    kind = " ring" if step.ring else ""
    return (
        f'<li class="rung {way}{kind}" data-c="{step.relid}"><span class="t">'
        f'{seconds(step.time_ns)}</span><span class="msg"><span class="hidden">{said}: </span>'
        f'{_who(story, step.relid)}<b>{name}</b> <span class="f">{esc(step.text)}</span></span>'
        "</li>"
    )


def _group(story: Story, group: list[Step]) -> str:
    first, last = group[0], group[-1]
    out = sum(step.guest for step in group)
    kinds = Counter(_said(step) for step in group if step.guest)
    most = ", ".join(f"{esc(name)} × {count}" for name, count in kinds.most_common(4))
    inner = "".join(_rung(story, step) for step in group[:200])
    more = f'<li class="more">and {len(group) - 200} more</li>' if len(group) > 200 else ""
    return (
        f'<li class="fold ring" data-c="{first.relid}"><details><summary><span class="t">'
        f"{seconds(first.time_ns)}</span><span>{_who(story, first.relid)}<b>{number(out)} packets "
        f"from the guest, {number(len(group) - out)} back</b> in "
        f'{duration(last.time_ns - first.time_ns)} <span class="f">{most}</span></span></summary>'
        f'<ol class="ladder">{inner}{more}</ol></details></li>'
    )


def _said(step: Step) -> str:
    """Return what a packet is, for counting: its command, message, or type."""
    words = dict(part.partition("=")[::2] for part in step.text.split(", "))
    return words.get("cdb") or words.get("message") or step.name


def ladder(story: Story) -> str:
    """Return the ladder with its filters."""
    if not story.steps:
        return '<p class="none">The trace has nothing of VMBus: add --trace vmbus,ring.</p>'
    groups = folded(story.steps)
    rungs = "".join(
        _group(story, group) if len(group) > 1 else _rung(story, group[0])
        for group in groups[:RUNGS]
    )
    if len(groups) > RUNGS:
        rungs += f'<li class="more">and {number(len(groups) - RUNGS)} more rows</li>'
    options = "".join(
        f'<option value="{relid}">{esc(name)} {relid}</option>'
        for relid, name in sorted(story.channels.items())
    )
    return (
        '<div class="tools"><label>Channel <select id="chan"><option value="">all</option>'
        f'{options}</select></label><label><input type="checkbox" id="rings" checked> packets in '
        'the rings</label><label>Find <input type="search" id="find" data-list="bus-list" '
        'placeholder="OPENCHANNEL"></label></div>'
        '<div class="ends" aria-hidden="true"><span>time, s</span><b>guest</b><b>host</b></div>'
        '<div class="scroll tall" tabindex="0" role="region" aria-label="Messages on VMBus">'
        f'<ol class="ladder" id="bus-list">{rungs}</ol></div>'
    )
