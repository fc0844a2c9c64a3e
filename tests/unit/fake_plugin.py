"""A conftest.py for pytest runs in tests: the plugin's machines are none."""

from __future__ import annotations

FAKE = """
import types
import pyhv.cpustate, pyhv.machine, pyhv.pytest_plugin
from pyhv.config import machine_config
from pyhv.console import Console
from pyhv.stop import Stop
from pyhv.trace.event import Event

pyhv.cpustate.snapshot = "snapshot"

class FakeVcpu:
    def __init__(self, index):
        self.index = index
    def ask(self, function, timeout):
        assert function == "snapshot"
        return {"rip": 0x5678 + self.index, "rflags": 2}

class FakeMachine:
    driver_name = "in_user"
    def __init__(self, **options):
        self.config = machine_config(**options)
        self.console, self.started, self.ended = Console(), False, None
        self.vcpus = [FakeVcpu(n) for n in range(self.config.smp.cpus)]
    def trace(self, wanted, function):
        self.traced = wanted, function
    def start(self):
        self.started = True
        self.console.write(b"hello from the guest\\x1b[2J\\r\\n")
        if hasattr(self, "traced"):
            for n in range(20000):
                self.traced[1](Event(n * 1000000000, 0, "msr", self.traced[0], {"n": n}))
    def kill(self, kind="quit", text="stopped"):
        details = {"exits": ["out port 0x80, 1 bytes"], "registers": {"rip": 0x1234}}
        self.ended = self.ended or Stop(kind, 130, text, details)
    def wait(self, timeout):
        return self.ended
    def close(self):
        with open("closed", "a") as file:
            print(self.config.memory_bytes >> 20, file=file)

pyhv.machine.Machine = FakeMachine
pyhv.pytest_plugin.no_kvm = lambda: WHY
"""
