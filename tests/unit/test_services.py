"""vm.shutdown() and its like, with the event loop played by the test: every way to be refused."""

from __future__ import annotations

import threading

import pytest

from pyhv.errors import ConfigError, HostError
from pyhv.services import Services
from pyhv.vmbus.ic import Heartbeat, Shutdown, Timesync


class Vm(Services):
    """A machine whose loop runs a call on a thread of its own, as the real one does."""

    def __init__(self, status: int | None = 0, driver: bool = True) -> None:
        self.status, self.driver = status, driver
        self.started, self.ended, self.board = True, None, self
        self.offered = {"components": self}
        self.heartbeat_device, self.bodies = Heartbeat(), []
        self.heartbeat_seen = None

    @property
    def shutdown_device(self) -> Shutdown:
        return self._device(Shutdown())

    def _device(self, device):
        device.version = device.versions[0] if self.driver else None
        device.server = type("Server", (), {"synic": self})

        def send(_kind, _framework, _version, body: bytes) -> bool:
            self.bodies.append(body)
            if self.status is not None:
                threading.Timer(0.01, lambda: device._tell(self.status, b"")).start()
            return True

        device._send = send
        return device

    def reference_ticks(self) -> int:
        return 12345

    def call(self, function) -> None:
        threading.Thread(target=function).start()


class Parts:
    def __init__(self, vm: Vm) -> None:
        self.heartbeat, self.shutdown = vm.heartbeat_device, vm.shutdown_device
        self.timesync = vm._device(Timesync(lambda: 0))


@pytest.fixture
def make():
    def machine(**options: object) -> Vm:
        vm = Vm(**options)
        vm.offered["components"] = Parts(vm)
        return vm

    return machine


def test_shutdown_and_restart_say_which(make) -> None:
    vm = make()
    vm.shutdown(text="bye")
    vm.shutdown(restart=True, force=True)
    vm.shutdown(hibernate=True)
    first, second, third = vm.bodies
    assert int.from_bytes(first[8:12], "little") == 0
    assert first[12:].decode("utf-16-le").rstrip("\0") == "bye"
    assert int.from_bytes(second[8:12], "little") == 3
    assert int.from_bytes(third[8:12], "little") == 4


def test_set_time_sends_the_time(make) -> None:
    vm = make()
    vm.set_time()
    assert int.from_bytes(vm.bodies[0][:8], "little") == 116_444_736_000_000_000
    assert int.from_bytes(vm.bodies[0][8:16], "little") == 12345


def test_a_refusal_is_told(make) -> None:
    with pytest.raises(HostError, match="shutdown: the guest refused, status 0x80004005"):
        make(status=0x80004005).shutdown()


def test_no_driver_is_told(make) -> None:
    with pytest.raises(ConfigError, match="restart: the guest has no driver for it now"):
        make(driver=False).shutdown(restart=True)


def test_silence_is_told(make) -> None:
    with pytest.raises(HostError, match=r"has not answered in 0\.05 s"):
        make(status=None).shutdown(timeout=0.05)


def test_a_machine_that_does_not_run(make) -> None:
    vm = make()
    vm.started = False
    with pytest.raises(ConfigError, match="heartbeat: the machine does not run"):
        vm.heartbeat  # noqa: B018
    vm.started, vm.offered = True, {}
    with pytest.raises(ConfigError, match="no VMBus"):
        vm.set_time()


def test_heartbeat_is_seconds_or_none(make) -> None:
    vm = make()
    assert vm.heartbeat is None
    vm.offered["components"].heartbeat.last_answer = 0.0
    assert vm.heartbeat > 0
