"""A recorded Debian boot played again: every answer is what it was, or the change shows."""

from __future__ import annotations

import gzip
import pathlib

import pytest
from bus_helpers import SECTORS, sector

from pyhv.replay.player import Result, play
from pyhv.vmbus import scsi_inquiry, storvsc

#: its head says what made it; tools of the day: pyhv run --trace vmbus,ring,bytes,machine
BOOT = pathlib.Path(__file__).parent / "data" / "trixie_boot.jsonl.gz"


@pytest.fixture
def replay(tmp_path):
    """Play it, with the disk that it had."""
    image = tmp_path / "disk.img"
    image.write_bytes(b"".join(map(sector, range(SECTORS))))

    def run() -> Result:
        with gzip.open(BOOT, "rt") as lines:
            return play(lines, [str(image)])

    return run


def test_nothing_differs(replay) -> None:
    """Contact, offers, GPADLs, sub-channels, SCSI on two channels with a write, the components."""
    result = replay()
    assert [str(one) for one in result.differences] == []
    assert result.lives == 1
    assert result.messages == 22
    assert result.packets == 88
    assert result.compared == 182
    assert result.left_out == {}


def test_another_inquiry(replay, monkeypatch) -> None:
    """A device that says something else of itself is found out, by what it leaves in memory."""
    monkeypatch.setattr(scsi_inquiry, "REVISION", b"9.9 ")
    found = [one.what for one in replay().differences]
    assert found
    assert all("INQUIRY: what it leaves in memory is" in text for text in found)


def test_another_protocol(replay, monkeypatch) -> None:
    """A version that is refused now, and what does not follow then."""
    monkeypatch.setattr(storvsc, "PROTOCOLS", ())
    found = [one.what for one in replay().differences]
    assert any("scsi 1 COMPLETE_IO" in text and "byte 24" in text for text in found)
