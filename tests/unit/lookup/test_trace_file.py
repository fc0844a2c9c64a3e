"""A trace that is packed is read as the file it was; a damaged one is refused in a line."""

from __future__ import annotations

import gzip
import pathlib

import pytest

from pyhv.lookup import replay, tracefile, webpage

TEXT = b"".join(b'{"n": %d, "text": "\xff"}\n' % number for number in range(2000))
COMMANDS = (replay.main, webpage.main)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_lines(tmp_path: pathlib.Path, pack) -> None:
    path = tmp_path / "trace"
    path.write_bytes(pack(TEXT))
    assert "".join(tracefile.lines(str(path))) == TEXT.decode(errors="replace")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("spoil", [lambda data: data[:-9], lambda data: data[:40] + b"?" * 99])
def test_damaged(tmp_path: pathlib.Path, command, spoil) -> None:
    path = tmp_path / "trace.gz"
    path.write_bytes(spoil(gzip.compress(TEXT)))
    with pytest.raises(tracefile.Unreadable, match=f"^{path}: damaged: "):
        command([str(path)])


@pytest.mark.parametrize("command", COMMANDS)
def test_not_there(tmp_path: pathlib.Path, command) -> None:
    with pytest.raises(tracefile.Unreadable, match=f"^{tmp_path}/no: No such file or directory$"):
        command([f"{tmp_path}/no"])
    with pytest.raises(tracefile.Unreadable, match=f"^{tmp_path}: Is a directory$"):
        command([str(tmp_path)])
