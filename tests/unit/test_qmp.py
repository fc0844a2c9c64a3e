"""QMP without KVM: the qemu.qmp package as the client, and what no well-behaved client sends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import re
import socket
import threading
import time
import types
from collections.abc import Iterator

import pytest
from qemu.qmp import ExecuteError, QMPClient

from pyhv.config import MachineConfig, Smp
from pyhv.errors import ConfigError
from pyhv.kvm.uapi import KVM_CPUID_FLAG_SIGNIFCANT_INDEX
from pyhv.qmp.commands import COMMANDS, status
from pyhv.qmp.protocol import MESSAGE_BYTES, QmpError, Reader
from pyhv.qmp.server import CAUSES, QmpServer
from pyhv.stop import Stop

SECONDS = 10


class FakeKvm:
    """What this KVM supports, so far as a CPU model asks."""

    def supported_cpuid(self) -> list[tuple[int, ...]]:
        return [(0, 0, 0, 7, 0, 0, 0), (1, 0, 0, 0x600F12, 0, 1 << 31, 1 << 4),
                (4, 0, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, 0, 0, 0, 0),
                (0x80000000, 0, 0, 0x80000008, 0, 0, 0)]  # fmt: skip


class FakePicture:
    def save(self, path: str, kind: str) -> None:
        pathlib.Path(path).write_text(kind)


class FakeMachine:
    def __init__(self) -> None:
        self.control = types.SimpleNamespace(listeners=[], ran=True, notify=self.notify)
        self.config = MachineConfig(smp=Smp(4, 1, 2, 2))
        self.kvm, self.in_kernel = FakeKvm(), False
        self.started, self.paused, self.calls = True, False, []
        self.ended: Stop | None = None
        threads = [
            types.SimpleNamespace(index=n, thread=types.SimpleNamespace(native_id=1000 + n))
            for n in range(4)
        ]
        pm = types.SimpleNamespace(press_power_button=lambda: self.calls.append("button"))
        self.board = types.SimpleNamespace(threads=threads, pm=pm)

    def notify(self, event: str, **data: object) -> None:
        for listener in self.control.listeners:
            listener(event, data)

    def pause(self) -> None:
        if self.ended:
            raise ConfigError("pause: the machine has stopped: bye")
        self.paused = True
        self.notify("STOP")

    def screenshot(self) -> FakePicture:
        if self.ended:
            raise ConfigError("screen: the machine does not run")
        return FakePicture()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[object]:
        if self.ended:
            raise ConfigError("snapshot: the machine has stopped")
        save = lambda path: pathlib.Path(path).write_text("saved")  # noqa: E731
        yield types.SimpleNamespace(save=save)

    def resume(self) -> None:
        self.paused = False
        self.notify("RESUME")

    def reset(self) -> None:
        self.notify("RESET", guest=False)

    def kill(self, kind: str, text: str) -> None:
        self.end(Stop(kind, 130, text, {}))

    def end(self, stop: Stop) -> None:
        self.ended = stop
        self.notify("SHUTDOWN")


@pytest.fixture
def machine() -> FakeMachine:
    return FakeMachine()


@pytest.fixture
def path(machine: FakeMachine, tmp_path: pathlib.Path) -> Iterator[str]:
    server = QmpServer(machine, f"unix:{tmp_path}/q,server=on,wait=off")
    server.start()
    yield str(tmp_path / "q")
    server.close()
    assert not server.thread.is_alive()


def talk(path: str, conversation) -> object:
    """Run ``conversation(client)`` with a connected client of the qemu.qmp package."""

    async def main() -> object:
        client = QMPClient("test")
        await asyncio.wait_for(client.connect(path), SECONDS)
        try:
            return await asyncio.wait_for(conversation(client), SECONDS)
        finally:
            await client.disconnect()

    return asyncio.run(main())


def execute(path: str, name: str, arguments: dict | None = None) -> object:
    return talk(path, lambda client: client.execute(name, arguments))


async def events(client: QMPClient, *names: str) -> list[dict]:
    found = []
    async for event in client.events:
        found.append(event)
        if len(found) == len(names):
            break
    assert tuple(event["event"] for event in found) == names
    return [event.get("data", {}) for event in found]


def test_screendump(path: str, machine: FakeMachine, tmp_path: pathlib.Path) -> None:
    shot = tmp_path / "x"
    for more, kind in (({}, "ppm"), ({"format": "png"}, "png"), ({"format": "ppm"}, "ppm")):
        assert execute(path, "screendump", {"filename": str(shot), **more}) == {}
        assert shot.read_text() == kind
    for bad in ({}, {"filename": 3}, {"filename": "x", "format": "gif"}):
        with pytest.raises(ExecuteError, match="'filename' is a string, and 'format' png or ppm"):
            execute(path, "screendump", bad)
    machine.ended = Stop("quit", 130, "", {})
    with pytest.raises(ExecuteError, match="the machine does not run"):
        execute(path, "screendump", {"filename": str(shot)})


def test_snapshot(path: str, machine: FakeMachine, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "x.snap"
    assert execute(path, "x-snapshot-to-file", {"filename": str(file)}) == {}
    assert file.read_text() == "saved"
    for bad in ({}, {"filename": 3}, {"filename": ""}):
        with pytest.raises(ExecuteError, match="'filename' is a string"):
            execute(path, "x-snapshot-to-file", bad)
    machine.ended = Stop("quit", 130, "", {})
    with pytest.raises(ExecuteError, match="snapshot: the machine has stopped"):
        execute(path, "x-snapshot-to-file", {"filename": str(file)})


def test_greeting_and_version(path: str) -> None:
    async def conversation(client: QMPClient) -> None:
        assert client.greeting.QMP.version["qemu"]["major"] == 10
        assert await client.execute("query-version") == client.greeting.QMP.version
        assert await client.execute("query-kvm") == {"enabled": True, "present": True}
        assert await client.execute("query-name") == {}
        names = {row["name"] for row in await client.execute("query-commands")}
        assert names == set(COMMANDS)

    talk(path, conversation)


def test_stop_and_cont(path: str, machine: FakeMachine) -> None:
    """Status follows, and so do the events."""

    async def conversation(client: QMPClient) -> None:
        running = {"status": "running", "running": True}
        assert await client.execute("query-status") == running
        assert await client.execute("stop") == {}
        assert await client.execute("query-status") == {"status": "paused", "running": False}
        assert await client.execute("cont") == {}
        assert await client.execute("query-status") == running
        await client.execute("system_reset")
        await client.execute("system_powerdown")
        data = await events(client, "STOP", "RESUME", "RESET", "POWERDOWN")
        assert data[2] == {"guest": False, "reason": "host-qmp-system-reset"}

    talk(path, conversation)
    assert machine.calls == ["button"]


def test_balloon(path: str, machine: FakeMachine) -> None:
    asked: list[int] = []
    machine.memory, machine.guest_memory = types.SimpleNamespace(capacity=1 << 28), 1 << 27
    machine.begin_balloon = asked.append
    assert execute(path, "query-balloon") == {"actual": 1 << 27}
    assert execute(path, "balloon", {"value": (1 << 26) + 5}) == {}
    assert execute(path, "balloon", {"value": 1 << 40}) == {}
    assert asked == [1 << 26, 1 << 28]
    for value in (0, -1, True, "64M", None):
        with pytest.raises(ExecuteError, match="expects a size"):
            execute(path, "balloon", {"value": value})


def test_quit(path: str, machine: FakeMachine) -> None:
    async def conversation(client: QMPClient) -> None:
        assert await client.execute("quit") == {}
        assert await events(client, "SHUTDOWN") == [{"guest": False, "reason": "host-qmp-quit"}]

    talk(path, conversation)
    assert machine.ended.kind == "quit"
    assert execute(path, "query-status") == {"status": "shutdown", "running": False}
    with pytest.raises(ExecuteError, match="the machine has stopped: bye"):
        execute(path, "stop")


def test_crash(path: str, machine: FakeMachine) -> None:
    """GUEST_PANICKED with the five crash parameters, then SHUTDOWN."""

    async def conversation(client: QMPClient) -> None:
        machine.end(Stop("hv-crash", 5, "crash", {"parameters": (1, 2, 3, 4, 5), "control": 0}))
        panicked, shutdown = await events(client, "GUEST_PANICKED", "SHUTDOWN")
        info = {"type": "hyper-v", "arg1": 1, "arg2": 2, "arg3": 3, "arg4": 4, "arg5": 5}
        assert panicked == {"action": "poweroff", "info": info}
        assert shutdown == {"guest": True, "reason": "guest-panic"}
        assert (await client.execute("query-status"))["status"] == "guest-panicked"

    talk(path, conversation)


def test_guest_reset(path: str, machine: FakeMachine) -> None:
    async def conversation(client: QMPClient) -> None:
        machine.notify("RESET", guest=True)
        assert await events(client, "RESET") == [{"guest": True, "reason": "guest-reset"}]

    talk(path, conversation)


def test_every_ending_has_a_cause() -> None:
    from pyhv.endings import STATUS

    assert set(CAUSES) == set(STATUS) | {"exit"}


def test_states(machine: FakeMachine) -> None:
    machine.started = False
    assert status(machine) == "prelaunch"
    machine.started = machine.paused = True
    machine.control.ran = False
    assert status(machine) == "prelaunch"
    machine.ended = Stop("kvm-error", 4, "", {})
    assert status(machine) == "internal-error"


def test_cpus(path: str) -> None:
    found = execute(path, "query-cpus-fast")
    assert [row["cpu-index"] for row in found] == [0, 1, 2, 3]
    assert [row["thread-id"] for row in found] == [1000, 1001, 1002, 1003]
    assert found[3]["props"] == {"socket-id": 0, "core-id": 1, "thread-id": 1}
    assert found[1]["props"] == {"socket-id": 0, "core-id": 0, "thread-id": 1}
    assert {row["target"] for row in found} == {"x86_64"}


def test_cpu_model_expansion(path: str) -> None:
    """Each Hyper-V property as the guest would get it; what cannot be is an error in words."""

    def expand(name: object, **props: object) -> dict:
        model = {"name": name, "props": props}
        arguments = {"type": "full", "model": model}
        return execute(path, "query-cpu-model-expansion", arguments)["model"]

    plain = expand("host")
    assert plain["name"] == "host"
    assert plain["props"]["hv-relaxed"] is False
    given = expand("host", **{"hv-relaxed": True, "hv-spinlocks": 0x1FFF, "hv_time": "on"})["props"]
    assert given["hv-relaxed"] is True
    assert given["hv-time"] is True
    assert given["hv-spinlocks"] == 0x1FFF
    assert given["hv-vpindex"] is False
    for name, props, text in (
        ("host", {"hv-ipi": True}, "requires Hyper-V VP_INDEX"),
        ("host", {"hv-tiem": True}, "hv-tiem"),
        ("z80", {}, "no CPU model 'z80'"),
        (7, {}, "'model' has a name"),
        ("host", {"hv-time": [1]}, "a boolean, a number or a string"),
    ):
        with pytest.raises(ExecuteError, match=text):
            expand(name, **props)
    with pytest.raises(ExecuteError, match="full or static"):
        execute(path, "query-cpu-model-expansion", {"type": "half", "model": {}})


def test_refusals(path: str) -> None:
    with pytest.raises(ExecuteError, match="The command migrate has not been found") as error:
        execute(path, "migrate")
    assert error.value.error_class == "CommandNotFound"
    with pytest.raises(ExecuteError, match="Parameter 'now' is unexpected"):
        execute(path, "quit", {"now": True})
    with pytest.raises(ExecuteError, match="already complete"):
        execute(path, "qmp_capabilities")


def raw(path: str, *lines: bytes) -> list[dict]:
    """Send lines without a client's manners; return an answer for each, greeting left out."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS)
        client.connect(path)
        file = client.makefile("rb")
        assert json.loads(file.readline())["QMP"]["capabilities"] == []
        answers = []
        for line in lines:
            client.sendall(line)
            answers.append(json.loads(file.readline()))
        return answers


def test_negotiation_comes_first(path: str) -> None:
    before, oob, done, after = raw(
        path,
        b'{"execute": "query-status", "id": [1, {"a": null}]}\n',
        b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}\n',
        b'{"execute": "qmp_capabilities", "id": 1}\n',
        b'{"execute": "query-status", "id": "\xc3\xa4"}\n',
    )
    assert before["error"]["class"] == "CommandNotFound"
    assert before["id"] == [1, {"a": None}]
    assert "oob" in oob["error"]["desc"]
    assert done == {"return": {}, "id": 1}
    assert after["id"] == "ä"


HOSTILE = [
    b"{]\n", b"nonsense\n", b"[1, 2]\n", b"7\n", b'"text"\n', b"{}\n", b'{"execute": 7}\n',
    b'{"execute": "stop", "arguments": [1]}\n', b'{"execute": "stop", "extra": 1}\n',
    b'{"execute": "qmp_capabilities", "arguments": {"x": 1}}\n', b"[" * 5000 + b"\n", b"\xff\n",
]  # fmt: skip


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile(path: str, line: bytes) -> None:
    """One error for each, and the next command is served."""
    bad, good = raw(path, line, b'{"execute": "qmp_capabilities"}\n')
    assert set(bad) == {"error"}
    assert good == {"return": {}}


def test_reader() -> None:
    """Pieces, two in one, no newline between, and a bound."""
    reader = Reader()
    assert reader.feed(b'{"a":') == []
    assert reader.feed(b' 1}{"b": "x\\n"} {"c') == [{"a": 1}, {"b": "x\n"}]
    assert reader.feed(b'": 2}\r\n') == [{"c": 2}]
    assert [type(value) for value in reader.feed(b"junk\n{}")] == [QmpError, dict]
    with pytest.raises(ValueError, match="without an end"):
        reader.feed(b'{"' + b"x" * MESSAGE_BYTES)


def test_clients_one_after_the_other(path: str, machine: FakeMachine) -> None:
    """Each is greeted, none hears of events before it negotiated."""
    for _ in range(3):
        assert execute(path, "query-status")["running"]
        machine.notify("STOP")
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and not execute(path, "query-status"):
        pass


def test_the_documentation_has_every_command() -> None:
    """docs/watching.md names the commands, and no others."""
    text = (pathlib.Path(__file__).parents[2] / "docs" / "watching.md").read_text()
    table = text.split("| command | |\n")[1].split("\n\n")[0]
    cells = "".join(row.split("|")[1] for row in table.splitlines()[1:])
    assert set(re.findall(r"`([\w-]+)`", cells)) == set(COMMANDS) - {"qmp_capabilities"}


def test_the_last_words_come_out(machine: FakeMachine, tmp_path: pathlib.Path) -> None:
    """What happened before close() is told, though the server's thread was busy with a client."""
    server = QmpServer(machine, f"unix:{tmp_path}/q")
    busy, go = threading.Event(), threading.Event()
    server.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS)
        client.connect(f"{tmp_path}/q")
        file = client.makefile("rb")
        file.readline()
        client.sendall(b'{"execute": "qmp_capabilities"}')
        file.readline()
        server.received = lambda data: (busy.set(), go.wait(SECONDS))
        client.sendall(b"{}")
        assert busy.wait(SECONDS)
        machine.notify("STOP")
        threading.Timer(0.1, go.set).start()
        server.close()
        assert json.loads(file.readline())["event"] == "STOP"
        assert not file.readline()
