"""Pause and resume without KVM: vCPU threads whose guest is a loop that looks at immediate_exit."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from pyhv import runloop
from pyhv.board import Board
from pyhv.bus import Bus
from pyhv.control import Control
from pyhv.errors import ConfigError, HostError
from pyhv.events import EventLoop
from pyhv.kvm import uapi
from pyhv.stop import Stop

SECONDS = 20


class FakeVcpu:
    """kvm_run without KVM; ``entries`` counts the times the guest was entered."""

    def __init__(self, index: int) -> None:
        self.index, self.fd, self.entries = index, index, 0
        self.m8 = memoryview(bytearray(8192))
        self.m32, self.m64 = self.m8.cast("I"), self.m8.cast("Q")


class FakeDriver:
    """Notes in ``calls`` what is asked of it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def freeze(self) -> None:
        self.calls.append("freeze")

    def thaw(self) -> None:
        self.calls.append("thaw")


class NoRing:
    """SerialWatch of a board without COM1."""

    def start(self) -> None:
        pass


class FakeMachine:
    """As much of a Machine as Control and two vCPU threads need."""

    def __init__(self) -> None:
        self.ended: Stop | None = None
        self.started = False
        self.failures: list[BaseException] = []
        self.events = EventLoop(self.failures.append)
        self.call = self.events.call
        self.control = Control(self)
        self.board: Board = Board.__new__(Board)
        self.board.machine, self.board.driver = self, FakeDriver()
        self.board.serial_watch = NoRing()
        self.vcpus = [FakeVcpu(i) for i in range(2)]
        self.board.threads = [
            runloop.VcpuThread(vcpu, Bus(), lambda thread, error: self.failures.append(error))
            for vcpu in self.vcpus
        ]
        self.loop = threading.Thread(target=self._main)

    def _main(self) -> None:
        self.board.ended = True  # no stuck check
        self.board.start()
        self.events.run()

    def start(self) -> None:
        self.started = True
        self.loop.start()

    def close(self) -> None:
        for thread in self.board.threads:
            thread.request(thread.leave)
        for thread in self.board.threads:
            if thread.thread.ident:
                thread.thread.join(SECONDS)
        self.call(self.events.end)
        if self.started:
            self.loop.join(SECONDS)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMachine]:
    made = FakeMachine()

    def run(fd: int, request: int) -> None:
        vcpu = made.vcpus[fd]
        while not vcpu.m8[uapi.RUN_IMMEDIATE_EXIT]:
            vcpu.entries += 1
            time.sleep(0.001)
        raise InterruptedError

    monkeypatch.setattr(runloop, "run_call", lambda: run)
    runloop.install_kick_handler()
    yield made
    made.close()
    made.events.close()
    assert not made.failures
    assert not any(thread.thread.is_alive() for thread in made.board.threads)


def entries(machine: FakeMachine) -> list[int]:
    return [vcpu.entries for vcpu in machine.vcpus]


def all_move(machine: FakeMachine) -> bool:
    first, deadline = entries(machine), time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if all(now > then for now, then in zip(entries(machine), first, strict=True)):
            return True
        time.sleep(0.005)
    return False


def none_moves(machine: FakeMachine) -> bool:
    first = entries(machine)
    time.sleep(0.05)
    return entries(machine) == first


def test_stand_and_go_on(machine: FakeMachine) -> None:
    """The time stands after the vCPUs do, and goes on before they do; twice is once."""
    seen: list[str] = []
    machine.control.listeners.append(lambda event, data: seen.append(event))
    machine.start()
    assert all_move(machine)
    for _ in range(2):
        machine.control.pause()
        machine.control.pause()
        assert none_moves(machine)
        machine.control.resume()
        machine.control.resume()
        assert all_move(machine)
    assert machine.board.driver.calls == ["freeze", "thaw"] * 2
    assert seen == ["STOP", "RESUME"] * 2


def test_started_paused(machine: FakeMachine) -> None:
    machine.control.pause()
    machine.start()
    for thread in machine.board.threads:
        assert thread.parked.wait(SECONDS)
    assert none_moves(machine)
    assert entries(machine) == [0, 0]
    machine.control.resume()
    assert all_move(machine)


def test_requests_are_served_while_it_stands(machine: FakeMachine) -> None:
    """On the vCPU's own thread, and the guest is not entered for it."""
    machine.start()
    assert all_move(machine)
    machine.control.pause()
    here, done = [], threading.Event()
    thread = machine.board.threads[1]
    thread.request(lambda: (here.append(threading.current_thread()), done.set()))
    assert done.wait(SECONDS)
    assert here == [thread.thread]
    assert none_moves(machine)


def test_pause_on_a_vcpus_own_thread(machine: FakeMachine) -> None:
    """It returns, and the guest is not entered again, however late the loop comes to it."""
    machine.start()
    assert all_move(machine)
    gate, thread, seen = threading.Event(), machine.board.threads[0], []
    machine.call(lambda: gate.wait(SECONDS))
    thread.request(lambda: (machine.control.pause(), seen.append(entries(machine)[0])))
    assert thread.parked.wait(SECONDS)
    assert entries(machine)[0] == seen[0]
    gate.set()
    deadline = time.monotonic() + SECONDS
    while "freeze" not in machine.board.driver.calls:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert none_moves(machine)


def test_a_pause_is_not_lost_inside_an_exit(machine: FakeMachine) -> None:
    """An exit that serves requests while it waits eats the kick; the pause still comes."""
    machine.start()
    assert all_move(machine)
    thread, inside, go = machine.board.threads[0], threading.Event(), threading.Event()

    def exit_that_waits() -> None:
        inside.set()
        go.wait(SECONDS)
        thread.serve_requests()

    thread.request(exit_that_waits)
    assert inside.wait(SECONDS)
    threading.Timer(0.1, go.set).start()
    machine.control.pause()
    assert none_moves(machine)


def test_a_vcpu_that_does_not_come_out(machine: FakeMachine) -> None:
    """One line says which; the other goes on."""
    machine.start()
    assert all_move(machine)
    inside, go = threading.Event(), threading.Event()
    machine.board.threads[1].request(lambda: (inside.set(), go.wait(SECONDS)))
    assert inside.wait(SECONDS)
    with pytest.raises(HostError, match="vcpu 1 did not leave the guest in time"):
        machine.control.pause(0.1)
    assert not machine.control.paused
    go.set()
    assert all_move(machine)


def test_after_the_end(machine: FakeMachine) -> None:
    machine.start()
    machine.ended = Stop("poweroff", 0, "the guest powered off", {})
    for act in (machine.control.pause, machine.control.resume):
        with pytest.raises(ConfigError, match="has stopped: the guest powered off"):
            act()


def test_the_clock_without_the_pauses(machine: FakeMachine) -> None:
    """now_ns stands while the machine does, and goes on without a jump."""
    machine.start()
    machine.control.pause()
    stands = machine.control.now_ns()
    time.sleep(0.2)
    assert machine.control.now_ns() == stands
    machine.control.resume()
    assert 0 <= machine.control.now_ns() - stands < 0.15e9


def test_every_ending_has_its_reason() -> None:
    """One of each, and Stop.reason finds it."""
    from pyhv import Reason
    from pyhv.endings import STATUS

    assert {str(reason) for reason in Reason} == set(STATUS) | {"exit"}
    assert Stop("quit", 130, "", {}).reason is Reason.KILLED
