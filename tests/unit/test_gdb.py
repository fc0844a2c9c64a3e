"""The gdb server without KVM: a client that sends packets, and vCPUs that stop when told to."""

from __future__ import annotations

import pathlib
import re
import time
import types
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

import pytest
from fake_gdb import SECONDS, Client, FakeMachine

from pyhv import cpustate
from pyhv.gdb import server as gdb_server
from pyhv.gdb import target as gdb_target
from pyhv.gdb.monitor import COMMANDS, monitor
from pyhv.gdb.packets import PACKET_BYTES, Stream, escape, frame, unescape
from pyhv.gdb.registers import FEATURES, ROWS, target_xml
from pyhv.gdb.server import GdbServer
from pyhv.kvm import uapi
from pyhv.stop import Stop


@pytest.fixture
def debugs(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[uapi.GuestDebug]]:
    """vCPU -> what KVM_SET_GUEST_DEBUG was given; the other ioctls do nothing."""
    given: dict[int, list[uapi.GuestDebug]] = {0: [], 1: []}

    def set_guest_debug(fd: int, request: uapi.GuestDebug, what: str) -> None:
        given[fd].append(uapi.GuestDebug.from_buffer_copy(request))

    nothing = types.SimpleNamespace(GET_REGS=lambda *a: 0, GET_SREGS=lambda *a: 0)
    monkeypatch.setattr(cpustate, "requests", nothing)
    ours = types.SimpleNamespace(SET_GUEST_DEBUG=set_guest_debug)
    monkeypatch.setattr(gdb_target, "requests", ours)
    return given


@pytest.fixture
def machine(debugs: object) -> Iterator[FakeMachine]:
    made = FakeMachine()
    yield made
    made.memory.close()


#: what this KVM can; a test may take some away before the server is made
ABLE = frozenset(("software", "hardware", "step"))


@pytest.fixture
def able() -> frozenset[str]:
    return ABLE


@pytest.fixture
def server(
    machine: FakeMachine,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    able: frozenset[str],
) -> Iterator[GdbServer]:
    monkeypatch.setattr(gdb_server, "probe", lambda kvm: able)
    made = GdbServer(machine, f"unix:{tmp_path}/s", lambda text: None)
    made.start()
    yield made
    made.close()
    assert not made.thread.is_alive()
    assert not (tmp_path / "s").exists()


@pytest.fixture
def gdb(server: GdbServer, tmp_path: pathlib.Path) -> Iterator[Client]:
    client = Client(str(tmp_path / "s"))
    yield client
    client.socket.close()


# packets


@pytest.mark.parametrize("data", [b"", b"abc", b"$#}*", bytes(range(256))])
def test_escape(data: bytes) -> None:
    assert unescape(escape(data)) == data
    assert not set(escape(data)) & set(b"$#*")


def test_stream() -> None:
    """Packets in pieces, a bad sum, a repeat, Ctrl-C, no acks, noise, and too long a packet."""
    sent, seen = [], []
    stream = Stream(sent.append, seen.append, lambda: seen.append("interrupt"))
    for byte in b"+$g#67":
        stream.feed(bytes((byte,)))
    assert (seen, sent) == ([b"g"], [b"+"])
    stream.feed(b"$g#00\x03noise")
    assert sent[1:] == [b"-"]
    assert seen[1:] == ["interrupt"]
    stream.reply(b"OK")
    stream.feed(b"-")
    assert sent[2:] == [b"$OK#9a"] * 2
    stream.acks = False
    stream.feed(b"$?#xx")
    assert seen[2:] == [b"?"]
    assert len(sent) == 4
    with pytest.raises(ValueError, match="without an end"):
        stream.feed(b"$" + b"x" * (2 * PACKET_BYTES + 1))


def test_target_description() -> None:
    """Well-formed XML; numbers as they lie in the g packet; the core feature is gdb's."""
    root = ElementTree.fromstring(target_xml())
    found = [(r.get("name"), int(r.get("bitsize"))) for r in root.iter("reg")]
    assert found == [(name, bits) for name, bits, _ in ROWS]
    assert [int(r.get("regnum")) for r in root.iter("reg")] == list(range(len(ROWS)))
    assert [name for name, *_ in FEATURES["org.gnu.gdb.i386.core"]][16:18] == ["rip", "eflags"]
    assert len(FEATURES["org.gnu.gdb.i386.core"]) == 40


# a session


def test_it_stands_on_connect_and_runs_on_detach(gdb: Client, machine: FakeMachine) -> None:
    assert b"PacketSize=4000" in gdb.ask(b"qSupported:multiprocess+")
    assert machine.paused
    assert gdb.ask(b"?") == b"T05thread:1;"
    assert gdb.ask(b"D") == b"OK"
    deadline = time.monotonic() + SECONDS
    while machine.paused:
        assert time.monotonic() < deadline
    assert machine.calls == [None]


def test_threads_and_registers(gdb: Client) -> None:
    assert gdb.ask(b"qfThreadInfo") == b"m1,2"
    assert gdb.ask(b"qsThreadInfo") == b"l"
    assert bytes.fromhex(gdb.ask(b"qThreadExtraInfo,2").decode()) == b"vCPU 1, runnable"
    assert gdb.ask(b"T2") == b"OK"
    assert gdb.ask(b"T3") == b"E01"
    every = bytes.fromhex(gdb.ask(b"g").decode())
    assert len(every) == sum(bits // 8 for _, bits, _ in ROWS)
    assert every[8:16] == (0x1122334455667788).to_bytes(8, "little")
    assert gdb.ask(b"Hg2") == b"OK"
    assert gdb.ask(b"p1") == (0x1122334455667789).to_bytes(8, "little").hex().encode()
    assert gdb.ask(b"P1=" + b"01" * 8) == b"OK"
    assert gdb.ask(b"p1") == b"01" * 8
    assert gdb.ask(b"p18") == bytes(range(1, 11)).hex().encode()  # st0
    assert gdb.ask(b"p22") == b"fcff0000"  # ftag: one in use
    assert gdb.ask(b"P18=" + b"00" * 10) == b"E01"
    assert gdb.ask(b"pfff") == b"E22"
    changed = (5).to_bytes(8, "little") + every[8:]
    assert gdb.ask(b"G" + changed.hex().encode()) == b"OK"
    assert gdb.ask(b"p0") == b"0500000000000000"
    assert gdb.ask(b"Hg3") == b"E22"


def test_memory(gdb: Client, machine: FakeMachine) -> None:
    assert gdb.ask(b"m8000,4") == b"90919293"
    assert gdb.ask(b"M8000,2:abcd") == b"OK"
    assert gdb.ask(b"X8002,3:" + escape(b"$#}")) == b"OK"
    assert machine.memory.read(0x8000, 5) == b"\xab\xcd$#}"
    assert gdb.ask(b"mfffff0,10") == b"E14"
    assert gdb.ask(b"mffff0,40") == b"00" * 16
    assert gdb.ask(b"M8000,3:abcd") == b"E22"
    assert gdb.ask(b"Mffffff,1:00") == b"E14"


def test_software_breakpoint(gdb: Client, machine: FakeMachine, debugs) -> None:
    """INT3 in RAM, not in what gdb reads; the stop names it; gone after z0 and at the end."""
    assert gdb.ask(b"Z0,8004,1") == b"OK"
    assert machine.memory[0x8004] == 0xCC
    assert gdb.ask(b"m8003,3") == b"939495"
    machine.runs.append((1, 3, 0x8004))
    assert gdb.ask(b"vCont;c") == b"T05thread:2;swbreak:;"
    assert machine.paused
    assert machine.board.threads[1].hold
    assert machine.board.threads[1].vcpu.m8[uapi.RUN_IMMEDIATE_EXIT]
    assert gdb.ask(b"z0,8004,1") == b"OK"
    assert gdb.ask(b"z0,8004,1") == b"E01"
    assert machine.memory[0x8004] == 0x94
    assert gdb.ask(b"Zffff0,1") == b"E22"
    assert gdb.ask(b"Z0,fffff0,1") == b"E01"
    assert debugs[0][-1].control == uapi.KVM_GUESTDBG_ENABLE | uapi.KVM_GUESTDBG_USE_SW_BP


def test_the_guests_own_int3_goes_back_to_it(gdb: Client, machine: FakeMachine, debugs) -> None:
    machine.runs.append((0, 3, 0x8009))
    gdb.socket.sendall(frame(b"vCont;c"))
    deadline = time.monotonic() + SECONDS
    while not (debugs[0] and debugs[0][-1].control & uapi.KVM_GUESTDBG_INJECT_BP):
        assert time.monotonic() < deadline
    gdb.socket.sendall(b"\x03")
    assert gdb.reply() == b"T02thread:1;"


HARDWARE = {  # Z type, length -> DR7's bits of register 0, and the stop reply for DR6 bit 0
    (1, 1): (0b0000, b"T05thread:1;hwbreak:;"),
    (2, 8): (0b1001, b"T05thread:1;watch:8008;"),
    (3, 4): (0b1111, b"T05thread:1;rwatch:8008;"),
    (4, 2): (0b0111, b"T05thread:1;awatch:8008;"),
}


@pytest.mark.parametrize(("kind", "length"), HARDWARE)
def test_hardware(gdb: Client, machine: FakeMachine, debugs, kind: int, length: int) -> None:
    bits, reply = HARDWARE[kind, length]
    assert gdb.ask(b"Z%d,8008,%d" % (kind, length)) == b"OK"
    for given in debugs.values():
        assert given[-1].control & uapi.KVM_GUESTDBG_USE_HW_BP
        assert given[-1].debugreg[0] == 0x8008
        assert given[-1].debugreg[7] == 1 << 10 | 0b10 | bits << 16
    machine.runs.append((0, 1, 0x8008, 0xFFFF0FF1))
    assert gdb.ask(b"vCont;c") == reply
    assert gdb.ask(b"z%d,8008,%d" % (kind, length)) == b"OK"
    assert not debugs[1][-1].control & uapi.KVM_GUESTDBG_USE_HW_BP


def test_debug_registers_end(gdb: Client) -> None:
    for n in range(4):
        assert gdb.ask(b"Z1,%x,1" % (0x8000 + n)) == b"OK"
    assert gdb.ask(b"Z1,8000,1") == b"OK"  # it is there
    assert gdb.ask(b"Z1,9000,1") == b"E01"
    assert gdb.ask(b"Z2,9001,8") == b"E01"  # not aligned
    assert gdb.ask(b"Z2,9000,3") == b"E01"
    assert gdb.ask(b"Z7,9000,1") == b""


def test_step_one_of_two(gdb: Client, machine: FakeMachine, debugs) -> None:
    """Only that vCPU goes, by the trap flag, and the flag goes with the stop."""
    machine.runs.append((1, 1, 0x8001, 1 << 14))
    assert gdb.ask(b"vCont;s:2") == b"T05thread:2;"
    assert machine.calls == [frozenset((1,))]
    stepped = [given.control for given in debugs[1] if given.control & 2]
    assert stepped == [
        uapi.KVM_GUESTDBG_ENABLE | uapi.KVM_GUESTDBG_SINGLESTEP | uapi.KVM_GUESTDBG_USE_SW_BP
        | uapi.KVM_GUESTDBG_BLOCKIRQ
    ]  # fmt: skip
    assert not any(given.control & 2 for given in debugs[0])
    assert not debugs[1][-1].control & 2
    machine.runs.append((0, 1, 0x8002, 1 << 14))
    assert gdb.ask(b"vCont;s:1;c") == b"T05thread:1;"
    assert machine.calls[-1] is None
    machine.runs.append((0, 1, 0x8003, 1 << 14))
    assert gdb.ask(b"s") == b"T05thread:1;"
    assert machine.calls[-1] == frozenset((0,))


def test_the_end_of_the_machine(gdb: Client, server: GdbServer, machine: FakeMachine) -> None:
    """While it runs: at once; while it stands: with the next question. Nothing hangs."""
    gdb.socket.sendall(frame(b"vCont;c"))
    deadline = time.monotonic() + SECONDS
    while not machine.calls:
        assert time.monotonic() < deadline
    machine.ended = Stop("exit", 19, "the guest ended", {})
    for listener in machine.control.listeners:
        listener("SHUTDOWN", {})
    assert gdb.reply() == b"W13"
    assert gdb.ask(b"?") == b"W13"
    assert gdb.ask(b"vCont;c") == b"W13"


def test_kill(gdb: Client, machine: FakeMachine) -> None:
    assert gdb.ask(b"vKill;1") == b"OK"
    assert machine.calls == ["killed by gdb"]


def test_features_in_pieces(gdb: Client) -> None:
    found, at = b"", 0
    while True:
        part = gdb.ask(b"qXfer:features:read:target.xml:%x,200" % at)
        found += unescape(part[1:])
        at += 0x200
        if part[:1] == b"l":
            break
    assert found == target_xml()
    assert gdb.ask(b"qXfer:features:read:other.xml:0,200") == b"E00"


NONSENSE = [
    b"", b"m", b"mzz,1", b"m-1,1", b"m0,ffffffffffffffff", b"G", b"Gzz", b"P", b"P1", b"Z0",
    b"Z0,,", b"Hg", b"Hgzz", b"T", b"p", b"X0,1:}", b"vCont;", b"vCont;s:ff", b"qRcmd,zz",
    b"\xff\xff",
    b"qXfer:features:read:target.xml:1", b"qThreadExtraInfo,77", b"A" * 9000,
]  # fmt: skip


@pytest.mark.parametrize("packet", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense(gdb: Client, packet: bytes) -> None:
    """Every packet gets one answer, and the server lives on."""
    gdb.ask(packet)
    assert gdb.ask(b"qC").startswith(b"QC")


def test_monitor(machine: FakeMachine, gdb: Client) -> None:
    """Each command answers in words, through the protocol, too."""

    def answer(text: bytes) -> str:
        return bytes.fromhex(gdb.ask(b"qRcmd," + text.hex().encode()).decode()).decode()

    assert answer(b"hyperv") == "Hyper-V by nobody\n"
    assert "0x40000002 HV_X64_MSR_VP_INDEX" in answer(b"msrs")
    assert "gpa 0x8000" in answer(b"walk 0x8000")
    assert "out port 0x80" in answer(b"exits")
    assert answer(b"walk x") == "walk x: not a number\n"
    assert answer(b"walk") == "walk ADDRESS\n"
    assert "there is hyperv, msrs" in answer(b"what")
    assert set(re.findall(r"monitor (\S+)", answer(b""))) == set(COMMANDS)
    answer(b"system_reset")
    answer(b"quit")
    assert machine.calls == ["reset", "quit by gdb's monitor"]
    assert monitor(machine, 0, "help") == monitor(machine, 0, "")


# the socket


def test_a_second_client_waits_for_the_first_to_go(
    gdb: Client, machine: FakeMachine, tmp_path: pathlib.Path
) -> None:
    assert gdb.ask(b"?")
    second = Client(str(tmp_path / "s"))
    gdb.socket.close()
    assert second.ask(b"?") == b"T05thread:1;"
    second.socket.close()


@pytest.mark.parametrize("able", [frozenset(("step",))])
def test_a_kvm_that_stops_nobody(gdb: Client, machine: FakeMachine, debugs, able) -> None:
    """Every step is looked at: breakpoints without INT3, watchpoints by the value."""
    single = uapi.KVM_GUESTDBG_SINGLESTEP
    assert gdb.ask(b"Z0,8004,1") == b"OK"
    assert machine.memory[0x8004] == 0x94
    assert debugs[0][-1].control & single
    assert not debugs[0][-1].control & (uapi.KVM_GUESTDBG_USE_HW_BP | uapi.KVM_GUESTDBG_BLOCKIRQ)

    def steps() -> None:
        for pc in (0x8001, 0x8002, 0x8004):
            if not machine.board.threads[0].hold:
                machine.stop(0, 1, pc, 1 << 14)

    def go(reply: bytes) -> None:
        machine.board.threads[0].hold = False
        gdb.socket.sendall(frame(b"vCont;c"))
        count = len(machine.calls)
        deadline = time.monotonic() + SECONDS
        while len(machine.calls) == count and machine.paused:
            assert time.monotonic() < deadline
        steps()
        assert gdb.reply() == reply

    go(b"T05thread:1;swbreak:;")
    assert gdb.ask(b"z0,8004,1") == b"OK"
    assert not debugs[0][-1].control & single
    assert gdb.ask(b"Z1,8002,1") == b"OK"
    go(b"T05thread:1;hwbreak:;")
    assert gdb.ask(b"z1,8002,1") == b"OK"
    assert gdb.ask(b"Z2,9000,4") == b"OK"
    machine.memory.write(0x9002, b"x")
    go(b"T05thread:1;watch:9000;")
    for bad in (b"Z3,9000,4", b"Z4,9000,4", b"Z2,fffffff0,4"):
        assert gdb.ask(bad) == b"E01"
    machine.runs.append((1, 1, 0x8001, 1 << 14))
    assert gdb.ask(b"vCont;s:2") == b"T05thread:2;"


def test_the_documentation_has_the_monitor() -> None:
    """docs/watching.md shows what monitor help says."""
    text = (pathlib.Path(__file__).parents[2] / "docs" / "watching.md").read_text()
    assert f"```\n{monitor(None, 0, 'help')}\n```" in text
