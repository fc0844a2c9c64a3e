"""Receive-side scaling: Microsoft's published hashes, and parameters that do not add up."""

from __future__ import annotations

import csv
import ipaddress
import pathlib
import random
import struct

import pytest

from pyhv.vmbus import netvsc_protocol as n
from pyhv.vmbus.rss import Rss, toeplitz

KEY = bytes.fromhex(
    "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
)
BASELINE = pathlib.Path(__file__).parents[2] / "baseline" / "rss_toeplitz.csv"


def published() -> list[tuple[str, int, str, int, int, int]]:
    with open(BASELINE) as file:
        rows = csv.reader(line for line in file if not line.startswith("#"))
        return [(a, int(b), c, int(d), int(e, 16), int(f, 16)) for a, b, c, d, e, f in rows]


@pytest.mark.parametrize(("to", "dport", "source", "sport", "addresses", "tcp"), published())
def test_published_hashes(
    to: str, dport: int, source: str, sport: int, addresses: int, tcp: int
) -> None:
    data = ipaddress.ip_address(source).packed + ipaddress.ip_address(to).packed
    assert toeplitz(KEY, data) == addresses
    assert toeplitz(KEY, data + struct.pack(">HH", sport, dport)) == tcp


def parameters(flags: int = 0, types: int = 0x1701, table: bytes = b"", key: bytes = KEY) -> bytes:
    table = table or struct.pack("<128I", *range(128))
    return struct.pack(
        "<BBHHHIHHIHHIIII", 0x89, 2, 40, flags, 0, types, len(table), 0, 40, len(key), 0,
        40 + len(table), 0, 0, 0,
    ) + table + key  # fmt: skip


def frame(sport: int = 1766, protocol: int = 6, fragment: int = 0, options: int = 0x45) -> bytes:
    head = struct.pack(">BBHHHBBH", options, 0, 40, 0, fragment, 64, protocol, 0)
    return bytes(12) + b"\x08\x00" + head + bytes(8) + struct.pack(">HH", sport, 80) + bytes(20)


def test_which_queue() -> None:
    rss = Rss()
    assert rss.set(parameters())
    assert rss.enabled
    ports = toeplitz(KEY, bytes(8) + struct.pack(">HH", 1766, 80)) & 127
    assert rss.queue(frame()) == ports
    only = toeplitz(KEY, bytes(8)) & 127
    others = (frame(protocol=17), frame(fragment=0x2000), frame(fragment=9), frame(options=0x46))
    for other in others:
        assert rss.queue(other) == only
    assert rss.queue(bytes(60)) == rss.queue(bytes(14)) == rss.queue(frame()[:30]) == 0
    v6 = bytes(12) + b"\x86\xdd" + bytes(6) + b"\x06" + bytes(60)
    assert rss.queue(v6) == toeplitz(KEY, bytes(36)) & 127
    assert rss.set(parameters(types=0x201))
    assert rss.queue(frame(protocol=17)) == rss.queue(v6) == 0


def test_flags_leave_parts_alone() -> None:
    rss = Rss()
    assert rss.set(parameters())
    zeros = struct.pack("<128I", *[3] * 128)
    assert rss.set(parameters(n.RSS_FLAG_ITABLE_UNCHANGED, table=zeros))
    assert rss.table == tuple(range(128))
    assert rss.set(parameters(n.RSS_FLAG_KEY_UNCHANGED, key=bytes(40)))
    assert rss.key == KEY
    assert rss.set(parameters(n.RSS_FLAG_HASH_INFO_UNCHANGED, types=0))
    assert rss.types == 0x1701
    assert rss.set(parameters(table=struct.pack("<4I", 9, 8, 7, 6)))
    assert rss.table == (9, 8, 7, 6) * 32
    assert rss.set(parameters(n.RSS_FLAG_DISABLE))
    assert not rss.enabled


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        parameters()[:30],
        b"\x88" + parameters()[1:],
        parameters()[:100],  # the table is cut short
        parameters()[:-1],  # the key is
        parameters(key=bytes(41)),
        parameters(table=bytes(12)),  # 3 entries
        parameters(table=bytes(6)),
        parameters(table=bytes(1024)),
    ],
)
def test_parameters_that_do_not_add_up(bad: bytes) -> None:
    rss = Rss()
    assert not rss.set(bad)
    assert not rss.enabled


def test_flows_are_bounded_and_nothing_raises() -> None:
    rng, rss = random.Random(3), Rss()
    assert rss.set(parameters())
    for _ in range(9000):
        kind = rng.choice((b"\x08\x00", b"\x86\xdd"))
        assert 0 <= rss.queue(bytes(12) + kind + rng.randbytes(60)) < 128
        assert 0 <= rss.queue(frame(rng.randrange(65536))) < 128
    assert len(rss._flows) <= 4096
