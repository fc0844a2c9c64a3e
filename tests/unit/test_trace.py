"""The tracer without KVM: tables of a fake board, and what each format makes of an event."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable

import pytest

from pyhv.bus import Bus, io_word
from pyhv.devices.uart import Uart
from pyhv.errors import ConfigError, GuestFault, HostError
from pyhv.hyperv import tlfs
from pyhv.hyperv.connections import Connections
from pyhv.hyperv.hypercalls import HYPERCALLS
from pyhv.hyperv.msrs import MSRS
from pyhv.kvm import uapi
from pyhv.memory import GuestMemory
from pyhv.runloop import VcpuThread
from pyhv.trace import names
from pyhv.trace.event import CATEGORIES, EXIT_CATEGORIES, Event, categories
from pyhv.trace.session import TraceSession
from pyhv.trace.tracer import DATA, R8, RAX, RCX, RDX, Tracer
from pyhv.trace.writers import FORMATS, Top, line
from pyhv.vmbus import protocol


class FakeVcpu:
    def __init__(self) -> None:
        self.index, self.fd = 0, 0
        self.m8 = memoryview(bytearray(3 * 4096))
        self.m32, self.m64 = self.m8.cast("I"), self.m8.cast("Q")


def access(thread: VcpuThread, word: int) -> None:
    """Do what the loop does with an io word."""
    (thread.pio.get(word) or thread.new_port(word))(word)


class FakeDriver:
    def __init__(self, name: str, memory: GuestMemory) -> None:
        self.name, self.sent = name, []
        self.connections = Connections(memory)
        self.connections.connect_messages(1, lambda kind, payload: 0)

    def post_message(self, *arguments) -> None:
        self.sent.append(arguments)

    def raise_sint(self, *arguments) -> None:
        self.sent.append(arguments)

    def event_signaller(self, *arguments):
        return lambda: self.sent.append(arguments)


class FakeBoard:
    def __init__(self, name: str, memory: GuestMemory) -> None:
        self.bus, self.driver, self.vmbus = Bus(), FakeDriver(name, memory), None
        self.bus.claim_pio(0x3F8, 8, Uart(lambda data: None, lambda level: None))
        self.thread = VcpuThread(FakeVcpu(), self.bus, lambda thread, error: None)
        self.threads = [self.thread]


@pytest.fixture
def memory():
    made = GuestMemory(2 << 20)
    yield made
    made.close()


@pytest.fixture
def board(memory: GuestMemory) -> FakeBoard:
    return FakeBoard("in_user", memory)


def traced(board: FakeBoard, wanted: str) -> list[Event]:
    events: list[Event] = []
    Tracer(categories(wanted), events.append).install(board)
    return events


def short(event: Event) -> str:
    """Return an event's line without its times."""
    return line(event._replace(duration_ns=-1), event.time_ns).split(None, 1)[1]


def test_msrs(board: FakeBoard) -> None:
    """Reads, writes, faults, and numbers that are not there; what the guest gets is the same."""
    thread, written = board.thread, []

    def fault(value: int) -> None:
        raise GuestFault("no")

    thread.rdmsr[tlfs.HV_X64_MSR_SINT0 + 2] = lambda: 0x20041
    thread.wrmsr[tlfs.HV_X64_MSR_SIMP] = written.append
    thread.wrmsr[tlfs.HV_X64_MSR_EOM] = fault
    events = traced(board, "msr")
    assert thread.rdmsr[tlfs.HV_X64_MSR_SINT0 + 2]() == 0x20041
    thread.wrmsr[tlfs.HV_X64_MSR_SIMP](0x5001)
    assert written == [0x5001]
    with pytest.raises(GuestFault):
        thread.wrmsr[tlfs.HV_X64_MSR_EOM](0)
    with pytest.raises(KeyError):
        thread.rdmsr[0x400000F0]
    thread.vcpu.m64[6] = 7
    with pytest.raises(KeyError):
        thread.wrmsr[0x400000F0]
    assert [short(event) for event in events] == [
        "cpu0  rdmsr(HV_X64_MSR_SINT2, {vector=0x41, masked=0, auto_eoi=1}) = 0x20041",
        "cpu0  wrmsr(HV_X64_MSR_SIMP, value=0x5001, {enable=1, gpa=0x5000})",
        "cpu0  wrmsr(HV_X64_MSR_EOM, value=0) = #GP",
        "cpu0  rdmsr(0x400000f0) = #GP",
        "cpu0  wrmsr(0x400000f0, value=7) = #GP",
    ]
    assert [event.duration_ns >= 0 for event in events] == [True, True, True, False, False]


def test_ports(board: FakeBoard) -> None:
    """in, out and a string access; a port that nobody has."""
    events, thread = traced(board, "pio"), board.thread
    thread.vcpu.m8[DATA] = ord("A")
    access(thread, io_word(0x3F8, 1, out=True))
    access(thread, io_word(0x3FD, 1, out=False))
    access(thread, io_word(0x80, 1, out=True))
    access(thread, io_word(0x3F8, 1, out=True, count=3))
    assert [short(event) for event in events] == [
        "cpu0  out(port=0x3f8, device=Uart, size=1, value=0x41)",
        "cpu0  in(port=0x3fd, device=Uart, size=1) = 0x60",
        "cpu0  out(port=0x80, device=-, size=1, value=0x60)",
        "cpu0  outs(port=0x3f8, device=Uart, size=1, count=3)",
    ]
    thread.pio_handlers.release()


def test_mmio(board: FakeBoard) -> None:
    events, vcpu = traced(board, "mmio"), board.thread.vcpu
    vcpu.m64[4], vcpu.m32[12], vcpu.m8[52] = 0xFED00000, 4, 0
    board.thread.load()
    vcpu.m64[5], vcpu.m8[52] = 0x12, 1
    board.thread.new_store(0xFED00000)(0xFED00000)
    assert [short(event) for event in events] == [
        "cpu0  mmio_read(gpa=0xfed00000, size=4) = 0xffffffff",
        "cpu0  mmio_write(gpa=0xfed00000, size=4, value=0x12)",
    ]


def test_hypercalls_in_user(board: FakeBoard) -> None:
    """An OUT of the hypercall page is a hypercall, not a port access."""
    thread = board.thread
    m64 = thread.vcpu.m64
    word = io_word(0xE8, 4, out=True)
    thread.pio[word] = lambda word: m64.__setitem__(RAX, 18)
    events = traced(board, "exits")
    m64[RCX], m64[RDX], m64[R8] = tlfs.HVCALL_SIGNAL_EVENT | 1 << 16, 5, 0
    access(thread, word)
    assert [short(event) for event in events] == [
        "cpu0  HvCallSignalEvent(fast=1, in1=5, in2=0) = HV_STATUS_INVALID_CONNECTION_ID"
    ]


def test_hypercalls_in_kernel(memory: GuestMemory) -> None:
    """Those that KVM hands on, and the SynIC's pages."""
    board = FakeBoard("in_kernel", memory)
    thread = board.thread
    m32, m64 = thread.vcpu.m32, thread.vcpu.m64
    thread.exits[uapi.KVM_EXIT_HYPERV] = lambda: m64.__setitem__(6, 0)
    events = traced(board, "exits")
    m32[8] = uapi.KVM_EXIT_HYPERV_HCALL
    m64[5], m64[7], m64[8] = tlfs.HVCALL_POST_MESSAGE, 0x9000, 0
    thread.exits[uapi.KVM_EXIT_HYPERV]()
    m32[8] = uapi.KVM_EXIT_HYPERV_SYNIC
    m64[6], m64[7], m64[8] = 1, 0x2001, 0x3001
    thread.exits[uapi.KVM_EXIT_HYPERV]()
    assert [short(event) for event in events] == [
        "cpu0  HvCallPostMessage(fast=0, in1=0x9000, in2=0) = HV_STATUS_SUCCESS",
        "cpu0  KVM_EXIT_HYPERV_SYNIC(scontrol=1, siefp=0x2001, simp=0x3001)",
    ]


def test_other_exits(board: FakeBoard) -> None:
    """By their names; one that ends the thread is told, too."""

    def leave() -> None:
        raise ZeroDivisionError

    board.thread.exits[uapi.KVM_EXIT_SHUTDOWN] = leave
    events = traced(board, "exits")
    with pytest.raises(ZeroDivisionError):
        board.thread.exits[uapi.KVM_EXIT_SHUTDOWN]()
    assert [short(event) for event in events] == ["cpu0  KVM_EXIT_SHUTDOWN()"]


def test_synic_and_vmbus(board: FakeBoard) -> None:
    """Both ways, and through to who was called before."""
    events = traced(board, "synic,vmbus")
    contact = protocol.INITIATE_CONTACT.pack(protocol.VERSION_WIN10_V5_3, 0, 0, 0, 0)
    contact = protocol.CHANNELMSG_INITIATE_CONTACT.to_bytes(4, "little") + contact[4:]
    handler = board.driver.connections._handlers[1]
    assert handler(protocol.HVMSG_VMBUS, contact) == 0
    response = protocol.VERSION_RESPONSE.pack(protocol.CHANNELMSG_VERSION_RESPONSE, 0, 1, 0, 0, 1)
    board.driver.post_message(0, 2, protocol.HVMSG_VMBUS, response)
    board.driver.post_message(0, 3, tlfs.HVMSG_TIMER_EXPIRED, bytes(24))
    board.driver.raise_sint(0, 2)
    board.driver.event_signaller(0, 2, 7)()
    assert handler(1, b"xx") == 0
    assert [short(event) for event in events] == [
        "host  CHANNELMSG_INITIATE_CONTACT(from=guest, version=5.3, target_vp=0) "
        "= HV_STATUS_SUCCESS",
        "host  CHANNELMSG_VERSION_RESPONSE(to=guest, supported=1, state=0)",
        "host  post_message(vp=0, sint=3, type=HVMSG_TIMER_EXPIRED, bytes=0x18)",
        "host  raise_sint(vp=0, sint=2)",
        "host  set_event(vp=0, sint=2, flag=7)",
        "host  message(from=guest, bytes=2) = HV_STATUS_SUCCESS",
    ]
    assert len(board.driver.sent) == 4


def test_nothing_wanted_nothing_touched(board: FakeBoard) -> None:
    """A category changes only its own tables: what is not traced costs nothing."""
    thread = board.thread
    before = [thread.pio, thread.rdmsr, thread.wrmsr, dict(thread.exits), dict(thread.__dict__)]
    Tracer(frozenset(("vmbus",)), lambda event: None).install(board)
    assert thread.pio is before[0]
    assert thread.rdmsr is before[1]
    assert thread.wrmsr is before[2]
    assert thread.exits == before[3]
    assert thread.__dict__ == before[4]


def test_categories() -> None:
    assert categories("msr, pio") == {"msr", "pio"}
    assert categories("exits") == EXIT_CATEGORIES
    assert categories("all") == set(CATEGORIES) - {"bytes"}
    assert categories("all,bytes") == set(CATEGORIES)
    for bad in ("", "msr,irq"):
        with pytest.raises(ConfigError):
            categories(bad)


def test_every_msr_and_hypercall_has_its_name() -> None:
    """Official spelling, one of its own for each number."""
    numbers = {row.number + n * row.step for row in MSRS for n in range(row.array)}
    found = [names.msr_name(number) for number in sorted(numbers)]
    assert all(name.startswith("HV_X64_MSR_") for name in found)
    assert len(set(found)) == len(numbers)
    assert names.msr_name(tlfs.HV_X64_MSR_SINT0 + 15) == "HV_X64_MSR_SINT15"
    assert names.msr_name(tlfs.HV_X64_MSR_STIMER0_COUNT + 6) == "HV_X64_MSR_STIMER3_COUNT"
    assert names.msr_name(0x12345) == "0x12345"
    for code, row in HYPERCALLS.items():
        assert names.hypercall(code)[0] == row.name
    assert names.hypercall(0x7777 | 3 << 32) == ("hypercall 0x7777", {"fast": 0, "reps": 3})
    assert names.status(2 << 32) == "HV_STATUS_SUCCESS, 2 reps"


def test_hostile_messages() -> None:
    """Any bytes of any length are some message."""
    for kind in range(30):
        whole = kind.to_bytes(4, "little") + b"\xff" * 236
        for length in (*range(40), 188, 196, 240):
            name, fields = names.channel_message(whole[:length])
            assert isinstance(name, str)
            assert isinstance(fields, dict)


EVENTS = [
    Event(1_002_000, 0, "msr", "wrmsr", {"msr": "X", "value": 16}, None, 500),
    Event(1_003_000, -1, "vmbus", "CHANNELMSG_UNLOAD", {"from": "guest"}, "HV_STATUS_SUCCESS"),
    Event(1_004_000, 1, "pio", "in", {"port": 0x3F8, "device": "COM1"}, 0x60, 1500),
]


def written(form: str) -> str:
    read, write = os.pipe()
    try:
        writer = FORMATS[form](write, 1_000_000, lambda text: None)
        for event in EVENTS:
            writer(event)
        writer.close()
        assert writer.count == 3
        return os.read(read, 65536).decode()
    finally:
        os.close(read)
        os.close(write)


def test_text() -> None:
    assert written("text").splitlines() == [
        "   0.000002 cpu0  wrmsr(X, value=0x10) <0.000000>",
        "   0.000003 host  CHANNELMSG_UNLOAD(from=guest) = HV_STATUS_SUCCESS",
        "   0.000004 cpu1  in(port=0x3f8, device=COM1) = 0x60 <0.000002>",
    ]


def test_json_lines() -> None:
    rows = [json.loads(row) for row in written("jsonl").splitlines()]
    assert rows[0] == {"time_ns": 2000, "vcpu": 0, "category": "msr", "name": "wrmsr",
                       "fields": {"msr": "X", "value": 16}, "result": None,
                       "duration_ns": 500}  # fmt: skip
    assert "duration_ns" not in rows[1]


def test_chrome() -> None:
    """One JSON document: names for the tracks, complete events with microseconds, instants."""
    found = json.loads(written("chrome"))["traceEvents"]
    slices = [item for item in found if item["ph"] == "X"]
    assert [(item["name"], item["ts"], item["dur"], item["tid"]) for item in slices] == [
        ("wrmsr X", 2.0, 0.5, 1), ("in COM1", 4.0, 1.5, 2),
    ]  # fmt: skip
    tracks = {item["tid"]: item["args"]["name"] for item in found if item["name"] == "thread_name"}
    assert tracks == {1: "vCPU 0", 2: "vCPU 1", 1000: "pyhv"}
    assert [item["ph"] for item in found if item["cat" if "cat" in item else "ph"] == "vmbus"] == [
        "i"
    ]


def test_a_full_disk_ends_the_trace_with_one_line() -> None:
    said: list[str] = []
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        writer = FORMATS["text"](fd, 0, said.append)
        for _ in range(3000):
            writer(EVENTS[0])
        writer.close()
    finally:
        os.close(fd)
    assert said == ["the trace ends here: write: No space left on device"]


def test_top() -> None:
    """The most frequent first, counted from the last look on."""
    top = Top()
    for event in (EVENTS[0], EVENTS[0], EVENTS[2]):
        top(event)
    lines = top.lines(2.0)
    assert "2/s" in lines[0]
    assert lines[1].split() == ["1", "0.5", "0.0", "%", "wrmsr", "X"]
    assert lines[2].split()[-2:] == ["in", "COM1"]
    assert len(top.lines(1.0)) == 1


class FakeMachine:
    """What a session asks of a machine; ``tick`` runs what waits for a second."""

    def __init__(self, board: FakeBoard) -> None:
        self.board, self.events, self.waiting, self.ended = board, self, [], None

    def add_instrument(self, install: Callable[[FakeBoard], None]) -> None:
        install(self.board)

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        self.waiting.append(function)

    def tick(self) -> None:
        self.waiting.pop()()


def test_session_with_a_file_and_top(board: FakeBoard, tmp_path: pathlib.Path) -> None:
    """Both see every event; the file is whole after close, and its place is said."""
    said: list[str] = []
    path, machine = tmp_path / "trace", FakeMachine(board)
    session = TraceSession(machine, "pio", "jsonl", str(path), True, said.append)
    for _ in range(3):
        access(board.thread, io_word(0x3FD, 1, out=False))
    machine.tick()
    session.close()
    assert [json.loads(row)["fields"]["port"] for row in path.read_text().splitlines()] == [
        0x3FD
    ] * 3
    assert said[0].splitlines()[1].endswith("in Uart")
    assert said[1] == f"3 events in {path}"
    assert len(machine.waiting) == 1


def test_session_refusals(board: FakeBoard, tmp_path: pathlib.Path) -> None:
    machine, say = FakeMachine(board), lambda text: None
    with pytest.raises(ConfigError, match="--trace nonsense: pyhv has exits, pio"):
        TraceSession(machine, "nonsense", "text", None, False, say)
    with pytest.raises(ConfigError, match="nothing is traced; add --trace exits"):
        TraceSession(machine, None, "text", "f", True, say)
    with pytest.raises(HostError, match="--trace-file .*: Is a directory"):
        TraceSession(machine, "pio", "text", str(tmp_path), False, say)


def test_the_documentation_has_every_category() -> None:
    """docs/watching.md's table is event.py's."""
    text = (pathlib.Path(__file__).parents[2] / "docs" / "watching.md").read_text()
    rows = text.split("<!-- categories -->\n")[1].split("\n\n")[0].splitlines()[2:]
    assert rows == [f"| `{name}` | {meaning} |" for name, meaning in CATEGORIES.items()]
