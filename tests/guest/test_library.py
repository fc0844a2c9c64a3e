"""Machine as a library: what a test harness does with it, in good order and in bad."""

from __future__ import annotations

import gc
import os
import pathlib
import subprocess
import sys
import termios
import threading
import time
import weakref

import guestcode
import pytest
from libguest import SCALE, SECONDS, descriptors, machine, rss_kib

from pyhv.console import Console, ExpectError
from pyhv.errors import ConfigError

pytestmark = [pytest.mark.kvm, pytest.mark.usefixtures("nothing_left")]

ECHO = """
        outb 0x3f8, '>'
1:      read_com1
        out %al, %dx
        cmp $'q', %al
        jne 1b
        exit 7
"""
SPIN = "outb 0x3f8, '>'\n 1: jmp 1b"
HALT = "outb 0x3f8, '>'\n sti\n 1: hlt\n jmp 1b"
EXITS = "outb 0x3f8, '>'\n 1: in $0x80, %al\n jmp 1b"
DONE = "exit 5"


def test_start_talk_wait() -> None:
    """The README's example: start, expect, send, wait; the results outlive close()."""
    with machine(ECHO) as vm:
        vm.start()
        assert vm.console.expect(">", timeout=SECONDS) == ">"
        vm.console.send("hello ")
        vm.console.expect("hello ", timeout=SECONDS)
        with pytest.raises(TimeoutError, match="0.05 s"):
            vm.wait(0.05)
        vm.console.send(b"q")
        assert vm.wait(timeout=SECONDS).status == 15
    assert vm.wait().kind == "exit"
    assert vm.console.text() == ">hello q"
    with pytest.raises(ExpectError, match="the machine stopped"):
        vm.console.expect("more", timeout=SECONDS)


def test_a_thousand_cycles() -> None:
    """Make, run, close: no descriptor, no thread, less than 256 KiB; nothing waits for gc."""
    cycles = max(int(1000 * SCALE), 10)

    def cycle() -> None:
        with machine(DONE, cpu=None) as vm:
            vm.start()
            assert vm.wait(SECONDS).status == 11

    # threads bring malloc arenas and stacks, which the process keeps; have them all
    crowd = [machine(SPIN, cpu=None) for _ in range(20)]
    for vm in crowd:
        vm.start()
    for vm in crowd:
        vm.close()
    for _ in range(60):
        cycle()
    before, size, threads = descriptors(), rss_kib(), threading.active_count()
    for _ in range(cycles):
        cycle()
    grown = rss_kib() - size
    assert descriptors() == before
    assert threading.active_count() == threads
    assert grown < 256, f"{grown} KiB after {cycles} cycles"


@pytest.mark.parametrize("cpu", ["host", None])
def test_a_closed_machine_needs_no_collector(cpu: str | None) -> None:
    """References do not go round once close() is done: memory is given back at once."""
    vm = machine(DONE, cpu=cpu)
    vm.start()
    vm.wait(SECONDS)
    vm.close()
    dead = weakref.ref(vm)
    gc.collect()
    gc.disable()
    try:
        del vm
        assert dead() is None
    finally:
        gc.enable()


# what is done to a machine before it is closed
BEFORE_CLOSE = {
    "nothing": lambda vm: None,
    "kill before start": lambda vm: vm.kill(),
    "reset before start": lambda vm: vm.reset(),
    "start": lambda vm: vm.start(),
    "start and run": lambda vm: (vm.start(), vm.console.expect(">", timeout=SECONDS)),
    "kill": lambda vm: (vm.start(), vm.kill()),
    "kill and wait": lambda vm: (vm.start(), vm.kill(), vm.wait(SECONDS)),
    "reset": lambda vm: (vm.start(), vm.console.expect(">", timeout=SECONDS), vm.reset()),
    "resets": lambda vm: (vm.start(), [vm.reset() for _ in range(100)]),
    "close": lambda vm: vm.close(),
    "start and close": lambda vm: (vm.start(), vm.close()),
}


@pytest.mark.parametrize("body", [SPIN, HALT, EXITS], ids=["spins", "halts", "exits"])
@pytest.mark.parametrize("name", BEFORE_CLOSE)
def test_close(name: str, body: str) -> None:
    """Whatever a guest does at this moment; and what comes after close() is harmless or refused."""
    vm = machine(body, smp=2)
    BEFORE_CLOSE[name](vm)
    vm.close()
    vm.close()
    vm.kill()
    vm.reset()
    assert vm.console.offer(b"x") == 0
    with pytest.raises(ConfigError, match="start: this machine is closed"):
        vm.start()


def test_exception_in_the_body() -> None:
    """It comes out as it is, and the machine is gone."""
    vms = []

    def body() -> None:
        with machine(SPIN) as vm:
            vms.append(vm)
            vm.start()
            vm.console.expect(">", timeout=SECONDS)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        body()
    assert vms[0].wait().kind == "quit"


def test_dropped_machine() -> None:
    """One that nobody closed and nobody has any more."""
    machine(DONE)
    vm = machine(DONE)
    vm.start()
    vm.wait(SECONDS)
    while threading.active_count() > 1 and any(t.name == "events" for t in threading.enumerate()):
        time.sleep(0.01)
    del vm
    gc.collect()


def test_start_twice() -> None:
    """Refused, also after the end; the first run goes on."""
    with machine(ECHO) as vm:
        vm.start()
        with pytest.raises(ConfigError, match="started already"):
            vm.start()
        vm.console.send("q")
        assert vm.wait(SECONDS).status == 15
        with pytest.raises(ConfigError, match="started already"):
            vm.start()


def test_wait_without_start() -> None:
    """It would wait for ever."""
    with machine(DONE) as vm, pytest.raises(ConfigError, match="not started"):
        vm.wait()


def test_kill_before_start() -> None:
    """The machine stops before it begins: no guest instruction runs."""
    with machine(SPIN) as vm:
        vm.kill("quit", "never mind")
        vm.start()
        assert vm.wait(SECONDS).text == "never mind"
        assert not vm.console.data()


def test_two_machines_at_once() -> None:
    """Each has its own console, its own end."""
    with machine(ECHO) as one, machine(ECHO) as two:
        for vm in (one, two):
            vm.start()
        one.console.send("1q")
        assert one.wait(SECONDS).kind == "exit"
        two.console.send("2q")
        assert two.wait(SECONDS).kind == "exit"
        assert (one.console.text(), two.console.text()) == (">1q", ">2q")


def test_twenty_machines_at_once() -> None:
    """They start, talk and stop side by side; all end at once."""
    vms = [machine(ECHO) for _ in range(20)]
    try:
        for vm in vms:
            vm.start()
        for vm in vms:
            vm.console.send("q")
        assert [vm.wait(SECONDS).status for vm in vms] == [15] * 20
    finally:
        for vm in vms:
            vm.close()


def test_machine_of_another_thread() -> None:
    """Made, run and closed where Python delivers no signals."""
    found: list[object] = []

    def work() -> None:
        with machine(DONE) as vm:
            vm.start()
            found.append(vm.wait(SECONDS).status)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert found == [11] * 3


@pytest.mark.parametrize("name", ["kill", "reset", "close"])
def test_many_threads_at_one_machine(name: str) -> None:
    """Eight threads do it at once, while others talk; no error comes out of any."""
    errors: list[BaseException] = []
    vm = machine(ECHO)
    vm.start()
    gate = threading.Barrier(9)

    def act(number: int) -> None:
        try:
            gate.wait()
            if number % 2:
                vm.console.offer(b"x" * 1000)
                getattr(vm, name)()
            else:
                getattr(vm, name)()
                vm.console.offer(b"x" * 1000)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=act, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    gate.wait()
    for thread in threads:
        thread.join(SECONDS)
    vm.close()
    assert not errors
    assert vm.wait(SECONDS).kind == "quit"


def test_close_from_its_own_thread() -> None:
    """A callback on the machine's thread cannot wait for that thread: it is told so."""
    refused: list[str] = []
    console = Console()
    with machine(DONE, console=console) as vm:

        def finished() -> None:
            try:
                vm.close()
            except ConfigError as error:
                refused.append(str(error))

        console.when_finished = finished
        vm.start()
        vm.wait(SECONDS)
    assert "call kill() there" in refused[0]


def test_console_of_the_next_machine() -> None:
    """One console may serve one machine after the other."""
    console = Console()
    for _ in range(2):
        with machine(ECHO, console=console) as vm:
            vm.start()
            console.expect(">", timeout=SECONDS)
            console.send("q")
            vm.wait(SECONDS)
    assert console.text() == ">q>q"


def test_says_nothing_and_leaves_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    """The library neither prints nor touches a terminal; nor the process' other settings."""
    parent, child = os.openpty()
    try:
        mode = termios.tcgetattr(child)
        interval = sys.getswitchinterval()
        with machine(ECHO, console=Console(child)) as vm:
            vm.start()
            vm.console.send("q")
            vm.wait(SECONDS)
            vm.console.close()
        assert termios.tcgetattr(child) == mode
        assert sys.getswitchinterval() == interval
    finally:
        os.close(parent)
        os.close(child)
    assert capfd.readouterr() == ("", "")


ORPHAN = """
import sys
sys.path[:0] = {path!r}
from pyhv import Machine
vms = [Machine(kernel={kernel!r}, cpu="host", memory="2M", smp=2) for _ in range(2)]
for vm in vms:
    vm.start()
    vm.console.expect(">", timeout={seconds})
{end}
"""


@pytest.mark.parametrize("body", [SPIN, HALT, EXITS], ids=["spins", "halts", "exits"])
@pytest.mark.parametrize(("end", "status"), [("", 0), ("sys.exit(3)", 3), ("1 / 0", 1)])
def test_interpreter_ends_with_running_machines(body: str, end: str, status: int) -> None:
    """Nobody closed them: the process ends all the same, at once, and with its own status."""
    root = str(pathlib.Path(__file__).parents[2])
    script = ORPHAN.format(path=[root], kernel=guestcode.sector(body), seconds=SECONDS, end=end)
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=SECONDS
        )
        assert done.returncode == status, done.stderr
        assert done.stderr.count("Traceback") == (status == 1)
