"""Addresses that a server listens on: tcp of this machine, and sockets with a path."""

from __future__ import annotations

import pathlib

import pytest

from pyhv import listening
from pyhv.errors import ConfigError, HostError

BAD_ADDRESSES = ["", "tcp", "tcp::", "tcp::x", "tcp::70000", "udp::1", "unix:", "stdio",
                 "tcp::1,wait=on", "tcp::1,server=off"]  # fmt: skip


@pytest.mark.parametrize("text", BAD_ADDRESSES)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="-gdb"):
        listening.listen("-gdb", text)


def test_addresses(tmp_path: pathlib.Path) -> None:
    """tcp is this machine's alone; a socket left behind is taken over, one in use is not."""
    server, path = listening.listen("-gdb", "tcp::0")
    assert server.getsockname()[0] == "127.0.0.1"
    assert path is None
    with pytest.raises(HostError, match="Address already in use"):
        listening.listen("-gdb", f"tcp::{server.getsockname()[1]}")
    server.close()
    name = f"unix:{tmp_path}/s,server=on,wait=off"
    first, path = listening.listen("-gdb", name)
    with pytest.raises(HostError, match="Address already in use"):
        listening.listen("-gdb", name)
    first.close()
    second, _ = listening.listen("-gdb", name)
    second.close()
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="Address already in use"):
        listening.listen("-gdb", f"unix:{tmp_path}/file")
    with pytest.raises(HostError, match="-gdb unix:"):
        listening.listen("-gdb", f"unix:{tmp_path}/no/s")
