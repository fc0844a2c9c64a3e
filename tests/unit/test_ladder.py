"""The bus as a ladder in text: in a file's order of time, in a live trace, of any lines at all."""

from __future__ import annotations

import json
import os
import pathlib
import random

import pytest

from pyhv import options
from pyhv.errors import ConfigError
from pyhv.lookup import webpage
from pyhv.trace.event import Event
from pyhv.trace.ladder import HEAD, LadderWriter, of_lines

BASELINE = pathlib.Path(__file__).parents[1] / "baseline" / "trace_debian.jsonl"


def event(time_ns: int, name: str, category: str = "ring", **fields: object) -> Event:
    return Event(time_ns, -1, category, name, fields)


PACKETS = (
    event(1_000_000, "CHANNELMSG_OFFERCHANNEL", "vmbus",
          **{"to": "guest", "relid": 1, "class": "scsi"}),
    event(3_000_000, "VM_PKT_COMP", to="guest", relid=1, transaction=0x105,
          message="COMPLETE_IO", srb_status=1),
    event(2_000_000, "VM_PKT_DATA_INBAND", **{"from": "guest", "relid": 1, "transaction": 0x105,
          "message": "EXECUTE_SRB", "cdb": "READ_10", "data": "00" * 99}),
    event(2_500_000, "out", "pio", port=0x3F8),
)  # fmt: skip
LADDER = """\
   0.001000  |<---------------------------------------------------------- scsi 1 OFFERCHANNEL -|
   0.002000  |- scsi 1 EXECUTE_SRB #105 cdb=READ_10 ------------------------------------------>|
   0.003000  |<------------------------------------ scsi 1 COMPLETE_IO #105 srb_status=1 -|
"""


def dashes(text: str) -> str:
    """Without how many dashes there are."""
    while "--" in text:
        text = text.replace("--", "-")
    return text


def lines(*events: Event) -> list[str]:
    return [json.dumps(one._asdict()) for one in events]


def test_text() -> None:
    """By time, though a packet's event comes after those of its answers; nothing else is in it."""
    found = [rung.line for rung in of_lines(lines(*PACKETS))]
    assert dashes("\n".join(found) + "\n") == dashes(LADDER)
    assert {len(line) for line in found} == {len(HEAD)}


def test_jsonl() -> None:
    first, second, third = (json.loads(rung.json) for rung in of_lines(lines(*PACKETS)))
    assert (first["from"], second["from"], third["from"]) == ("host", "guest", "host")
    assert second["name"] == "EXECUTE_SRB"
    assert second["fields"]["cdb"] == "READ_10"
    assert {one["device"] for one in (first, second, third)} == {"scsi"}


def test_live(tmp_path: pathlib.Path) -> None:
    """``--trace-format ladder``: the same lines, the last ones when it is closed."""
    path = tmp_path / "ladder"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    writer = LadderWriter(fd, 0, print)
    for one in PACKETS:
        writer(one)
    writer.close()
    os.close(fd)
    assert dashes(path.read_text()) == dashes(HEAD + "\n" + LADDER)


def test_the_option() -> None:
    parsed = options.parse(["--trace", "vmbus", "--trace-format", "ladder"])
    assert parsed.get("trace-format") == "ladder"


def test_a_long_trace_is_sorted_as_it_goes() -> None:
    jitter = random.Random(1)
    many = [event(n * 1000 + jitter.randrange(50_000), "VM_PKT_COMP") for n in range(3000)]
    times = [rung.time_ns for rung in of_lines(lines(*many))]
    assert times == sorted(times)
    assert len(times) == 3000


@pytest.mark.parametrize(
    "bad",
    ["", "{", "[]", "3", '{"time_ns": "x"}', '{"time_ns": 1, "fields": 3}',
     '{"time_ns": 1, "fields": {"relid": []}, "category": "ring", "name": "x"}',
     '{"time_ns": 1, "fields": {"class": {}, "relid": -5}, "category": "ring", "name": []}',
     '{"time_ns": 1, "fields": {"transaction": "q"}, "category": "ring", "name": ""}'],
)  # fmt: skip
def test_lines_that_are_no_events(bad: str) -> None:
    for rung in of_lines([bad]):
        assert rung.line
        assert rung.json


def test_a_terminal_gets_no_commands() -> None:
    (rung,) = of_lines(lines(event(0, "\x1b[2J", "vmbus", text="\x07")))
    assert "\x1b" not in rung.line
    assert "\x07" not in rung.line


def test_report_command(tmp_path: pathlib.Path) -> None:
    """Of a Debian boot: contact first, then the offers and their end."""
    text, status = webpage.main([str(BASELINE), "--ladder", "text"])
    assert status == 0
    names = [line.split("|")[1].strip("-<> ").split()[0] for line in text.splitlines()[1:4]]
    assert names == ["INITIATE_CONTACT", "VERSION_RESPONSE", "REQUESTOFFERS"]
    out = tmp_path / "l.jsonl"
    said, _ = webpage.main([str(BASELINE), "--ladder", "jsonl", "-o", str(out)])
    assert said.startswith(f"{len(text.splitlines()) - 1} lines, ")
    assert len(out.read_text().splitlines()) == len(text.splitlines()) - 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([str(BASELINE), "--ladder", "html"], "--ladder html: pyhv has text, jsonl"),
        (["/nonexistent", "--ladder", "text"], "/nonexistent: No such file"),
        ([os.devnull, "--ladder", "text"], "nothing of VMBus in it"),
    ],
)
def test_report_refuses(arguments: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        webpage.main(arguments)
