"""pyhv report without a browser: what is collected of a trace, and that the page holds it."""

from __future__ import annotations

import html
import json
import pathlib
import re

import pytest

from pyhv.errors import ConfigError, HostError
from pyhv.lookup.commands import run
from pyhv.page import busview, charts, milestones, story
from pyhv.page.document import document
from pyhv.page.html import duration
from pyhv.page.story import Step, Story
from pyhv.page.timeline import BINS, FIRST_NS, Timeline

TRACE = pathlib.Path(__file__).parents[2] / "baseline" / "trace_debian.jsonl"


@pytest.fixture(scope="module")
def debian() -> Story:
    with TRACE.open() as file:
        return Story().read(file)


def event(category: str, name: str, time_ns: int = 0, result: object = None, **fields) -> str:
    return json.dumps({"time_ns": time_ns, "vcpu": 0, "category": category, "name": name,
                       "fields": fields, "result": result, "duration_ns": 5})  # fmt: skip


def test_a_debian_boot(debian: Story) -> None:
    assert debian.bad == debian.lost == 0
    assert debian.board["driver"] == "in_user"
    assert debian.end["kind"] == "poweroff"
    assert debian.memory[0] == (0, 0x9FC00, "RAM")
    assert debian.cpuid[0x40000001, 0]["eax"] == 0x31237648
    assert debian.channels == {1: "scsi", 2: "heartbeat", 3: "shutdown", 4: "timesync", 5: "scsi"}
    assert debian.msrs["HV_X64_MSR_GUEST_OS_ID"].fields == "os=Linux 6.12.117"
    assert set(debian.calls) == {"HvCallPostMessage", "HvCallSignalEvent"}
    texts = [mark.text for mark in debian.milestones]
    assert texts.index("detects Microsoft Hyper-V") < texts.index("VMBus: contact")
    assert [name for _, name in charts.phases(debian)] == [
        "start", "kernel", "user space", "shutdown",
    ]  # fmt: skip
    names = [step.name.removeprefix("CHANNELMSG_") for step in debian.steps if not step.ring]
    assert names[:3] == ["INITIATE_CONTACT", "VERSION_RESPONSE", "REQUESTOFFERS"]
    assert names.count("OPENCHANNEL") == names.count("OPENCHANNEL_RESULT") == 5


def test_the_page_holds_it(debian: Story) -> None:
    page = document(debian, "a <b>boot</b>")
    assert "<title>a &lt;b&gt;boot&lt;/b&gt;" in page
    for text in ("HV_X64_MSR_SIMP", "AccessSynicRegs", "hv-synic", "HvCallSignalEvent",
                 "INITIATE_CONTACT", "Linux 6.12.117", "page of HV_X64_MSR_HYPERCALL"):  # fmt: skip
        assert text in page, text
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", page)
    assert "http:" not in page.replace("http-equiv", "")


@pytest.mark.parametrize("category", ["machine", "console", "pio", "msr", "hypercall", "vmbus"])
def test_a_trace_of_one_category(debian: Story, category: str) -> None:
    """What is missing is said, with the category that would show it."""
    lines = [row for row in TRACE.read_text().splitlines() if f'"category": "{category}"' in row]
    page = document(Story().read(lines), category)
    assert lines
    assert page.count('class="none"') >= 2


def test_hostile_texts_stay_texts() -> None:
    bad = "</script><img src=x onerror=alert(1)>"
    lines = [
        event("console", "line", text=bad), event("pio", bad, port=1, device=bad),
        event("msr", "wrmsr", msr=bad, value=1, decoded={bad: 1}),
        event("hypercall", bad, result=bad), event("vmbus", bad, relid=1, **{"class": bad}),
        event("machine", "board", driver=bad, cpu=bad),
        event("machine", "end", text=bad, status=bad), event(bad, bad),
        event("machine", "memory", gpa=0, bytes=4096, kind=bad), event("exits", bad),
    ]  # fmt: skip
    page = document(Story().read(lines), bad)
    assert "<img" not in page
    assert page.count("</script>") == 2
    assert html.escape(bad) in page


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "1", "null", '{"fields": {}}', '{"time_ns": "x", "fields": {}}', "[" * 9999,
     '{"time_ns": 1e400, "fields": {}}', '{"time_ns": 1, "fields": []}'],
)  # fmt: skip
def test_what_is_no_event_is_counted(line: str) -> None:
    found = Story().read([line, "# a comment", "", event("pio", "in", port=1)])
    assert (found.events, found.bad) == (1, 1)


@pytest.mark.parametrize("value", [None, -1, 1 << 80, True, "x", [], {}, 1.5])
def test_any_value_in_any_field(value: object) -> None:
    """A trace is a file like any other: its numbers may be anything."""
    keys = ("port", "gpa", "device", "value", "decoded", "relid", "class", "text", "leaf",
            "subleaf", "eax", "bytes", "kind", "memory", "cpus", "driver", "status", "msr",
            "from")  # fmt: skip
    lines = []
    for category in (*story.HANDLERS, "stimer"):
        for name in ("board", "end", "memory", "cpuid", "in", "wrmsr", "rdmsr", "VM_PKT_COMP"):
            made = json.loads(event(category, name, result=value, **dict.fromkeys(keys, value)))
            lines.append(json.dumps(made | {"duration_ns": value}))
    found = Story().read(lines)
    assert found.events == len(lines)
    assert document(found, "x").endswith("</html>\n")


def test_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KEYS", "LINES", "STEPS"):
        monkeypatch.setattr(story, name, 10)
    lines = [event("msr", "rdmsr", n, msr=f"m{n}") for n in range(50)]
    lines += [event("console", "line", text=f"l{n}") for n in range(50)]
    lines += [event("vmbus", "m", n, relid=n, **{"class": "x"}) for n in range(50)]
    lines += [event("hypercall", f"h{n}") for n in range(50)]
    lines += [event(f"c{n}", "x") for n in range(50)]
    found = Story().read(lines)
    sizes = [len(part) for part in (found.msrs, found.console, found.steps, found.calls,
                                    found.categories, found.whats, found.channels)]  # fmt: skip
    assert max(sizes) <= 10
    assert found.lost == 80


def test_bins_double() -> None:
    line = Timeline()
    for at in range(BINS * 5):
        line.add("a", at * FIRST_NS)
    assert line.width_ns == 8 * FIRST_NS
    assert sum(line.counts["a"]) == BINS * 5
    assert line.used() == BINS * 5 // 8
    line.add("b", 1 << 62)
    assert sum(line.counts["a"]) == BINS * 5


@pytest.mark.parametrize(("pattern", "text", "kind"), milestones.LINES)
def test_every_milestone_can_be_found(pattern, text: str, kind: str) -> None:
    said = {
        "pyhv demo disk": "pyhv demo disk, loaded", "pyhv demo guest": "pyhv demo guest: long mode",
        "GRUB loading|Welcome to GRUB": "GRUB loading.", "login: ?$": "debian login: ",
        "powering off": "powering off (ACPI S5)",
    }.get(pattern.pattern)  # fmt: skip
    examples = (
        "Linux version 6.1", "Hypervisor detected: Microsoft Hyper-V", "Welcome to Debian!",
        "clocksource: Switched to clocksource tsc", "[    1.0] Run /init as init process",
        "Kernel panic - not syncing", "BUG: unable to handle", "reboot: Power down",
    )  # fmt: skip
    line = said or next(one for one in examples if pattern.search(one))
    mark = milestones.of_line(7, line)
    assert mark is not None
    assert (mark.time_ns, mark.kind) == (7, kind)


@pytest.mark.parametrize("name", milestones.EVENTS)
def test_every_event_milestone(name: str) -> None:
    fields = {"msr": name, "value": 1}
    mark = milestones.of_event(1, "wrmsr" if name.startswith("HV_") else name, fields)
    assert mark is not None
    assert mark.text == milestones.EVENTS[name][0]
    assert milestones.of_event(1, "rdmsr", fields) is None


def test_packets_fold_by_channel() -> None:
    steps = [Step(n, n % 2 == 0, True, "VM_PKT_COMP", 1, "cdb=READ_10") for n in range(9)]
    other = Step(10, True, False, "CHANNELMSG_UNLOAD", 0, "")
    assert [len(group) for group in busview.folded([*steps, other, *steps[:2]])] == [9, 1, 1, 1]


@pytest.mark.parametrize(
    ("ns", "text"),
    [(5, "5 ns"), (1500, "1.5 µs"), (2e6, "2 ms"), (61.5e9, "61.5 s"), (2e12, "2000 s")],
)
def test_durations(ns: float, text: str) -> None:
    assert duration(ns) == text


def test_command(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "r.html"
    text, status = run("report", [str(TRACE), "-o", str(out), "--title", "mine"])
    assert status == 0
    assert f"KiB in {out}" in text
    assert "<title>mine: pyhv report</title>" in out.read_text()
    assert run("report", [str(TRACE)])[0].startswith("<!doctype html>")
    assert "usage: pyhv report" in run("report", ["--help"])[0]


def test_command_refusals(tmp_path: pathlib.Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("nothing\n")
    with pytest.raises(ConfigError, match="no event in it; pyhv report takes what pyhv run"):
        run("report", [str(empty)])
    with pytest.raises(ConfigError, match="No such file"):
        run("report", [str(tmp_path / "none")])
    with pytest.raises(HostError, match="-o .*: Is a directory"):
        run("report", [str(TRACE), "-o", str(tmp_path)])
