"""pyhv's command line with a machine that is no machine: run as a program by the terminal tests.

``python fake_machine.py BEHAVIOUR ARGUMENT...``; what the guest does is a row of BEHAVIOURS.
"""

from __future__ import annotations

import os
import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from pyhv import cli
from pyhv.errors import Exit
from pyhv.stop import Stop


class FakeMachine:
    """Shows each input byte as <hex>; what else it does is *behave*."""

    driver_name = "in_user"
    warnings = ()
    notes = ()

    def __init__(self, config, console, behave=lambda machine: None):
        self.config, self.console, self.behave = config, console, behave
        self.done = threading.Event()
        self.result = None
        self.kills = []
        self.closed = False
        console.connect(self.receive)

    def receive(self, data: bytes) -> int:
        self.console.write(b"".join(b"<%02x>" % byte for byte in data))
        if b"q" in data:
            self.end(Stop("poweroff", 0, "the guest powered off", {}))
        return len(data)

    def end(self, stop: Stop) -> None:
        self.result = self.result or stop
        self.done.set()
        self.console.finish()

    def start(self) -> None:
        self.console.write(b"guest runs\r\n")
        self.behave(self)

    def wait(self, timeout=None):
        if not self.done.wait(timeout):
            raise TimeoutError
        return self.result

    def kill(self, kind="quit", text="") -> None:
        self.kills.append(kind)
        status = Exit.TIME_LIMIT if kind == "time-limit" else Exit.QUIT
        self.end(Stop(kind, status, text, {}))

    def close(self) -> None:
        self.closed = True


def ends(stop: Stop, output: bytes = b""):
    def behave(machine: FakeMachine) -> None:
        machine.console.write(output)
        machine.end(stop)

    return behave


def raises(machine: FakeMachine) -> None:
    """The session itself fails, a moment after the terminal went raw."""
    begin = time.monotonic()

    def wait(timeout=None):
        if time.monotonic() - begin > 0.3:
            raise ZeroDivisionError("a bug")
        machine.console.when_finished()
        raise TimeoutError

    machine.wait = wait


def hangs(machine: FakeMachine) -> None:
    """Kill does nothing."""
    machine.kill = lambda kind, text: machine.console.write(b"will not die\r\n")


def deaf(machine: FakeMachine) -> None:
    """The guest never reads."""
    machine.console.connect(lambda data: 0)


def flood(machine: FakeMachine) -> None:
    """Far more than the outlet keeps, then the end."""
    begin = time.monotonic()
    for _ in range(800):
        machine.console.write(b"z" * 4096)
    machine.end(Stop("poweroff", 0, f"the guest ran {time.monotonic() - begin:.3f} s", {}))


CRASH = {"vcpu": 0, "exits": ["out port 0x80, 1 bytes"], "registers": {"rip": 0x1234, "rax": 1}}
BEHAVIOURS = {
    "runs": lambda machine: None,
    "off": ends(Stop("poweroff", 0, "the guest powered off", {})),
    "fault": ends(Stop("triple-fault", 3, "vcpu 0: triple fault", CRASH), b"last words"),
    "raises": raises,
    "hangs": hangs,
    "deaf": deaf,
    "flood": flood,
}

if __name__ == "__main__":
    behave = BEHAVIOURS[sys.argv.pop(1)]
    cli.make_machine = lambda config, console: FakeMachine(config, console, behave)
    if os.environ.get("FAKE_PATIENCE"):
        from pyhv import running

        running.KILL_PATIENCE_S = float(os.environ["FAKE_PATIENCE"])
    cli.entry()
