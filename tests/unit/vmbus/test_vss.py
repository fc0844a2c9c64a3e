"""Freezing and thawing over a simulated hv_utils: every answer, and no freeze that nobody thaws."""

from __future__ import annotations

import pytest
from ic_sim import Utils, Vm
from test_snapshot_bus import carry

from pyhv.errors import ConfigError, HostError
from pyhv.vmbus.vss import Vss

CHECK, FREEZE, THAW = 2, 5, 6
E_FAIL = 0x80004005


class Daemon:
    """hv_vss_daemon with its driver; *statuses* by operation, None for no answer."""

    def __init__(self, **statuses: int | None) -> None:
        self.statuses = statuses
        self.operations: list[int] = []

    def __call__(self, body: bytes) -> tuple[int, bytes] | None:
        assert len(body) == 12
        assert not any(body[1:])
        self.operations.append(body[0])
        status = self.statuses.get({CHECK: "check", FREEZE: "freeze", THAW: "thaw"}[body[0]], 0)
        return None if status is None else (status, body)


@pytest.fixture
def make(make_guest):
    def vm(**statuses: int | None) -> Vm:
        utils = Utils(make_guest, Vss())
        utils.negotiate()
        return Vm(utils, "vss", Daemon(**statuses))

    return vm


def test_freeze_and_thaw(make) -> None:
    vm = make()
    vm.freeze()
    assert vm.utils.service.frozen
    vm.thaw()
    assert not vm.utils.service.frozen
    assert vm.serve.operations == [CHECK, FREEZE, THAW]


def test_the_block_thaws_also_after_an_error(make) -> None:
    vm = make()
    with pytest.raises(ZeroDivisionError), vm.frozen():
        raise ZeroDivisionError
    assert vm.serve.operations == [CHECK, FREEZE, THAW]


def test_a_guest_that_was_reset_in_the_block(make) -> None:
    vm = make()
    with vm.frozen():
        vm.utils.guest.server.reset()
    assert vm.serve.operations == [CHECK, FREEZE]


def test_no_daemon(make) -> None:
    vm = make(check=E_FAIL)
    with pytest.raises(ConfigError, match="freeze: no hv_vss_daemon runs in the guest"):
        vm.freeze()
    assert vm.serve.operations == [CHECK]


@pytest.mark.parametrize("name", ["freeze", "thaw"])
def test_a_refusal(make, name: str) -> None:
    vm = make(**{name: E_FAIL})
    with pytest.raises(HostError, match=f"could not {name}, status 0x80004005"), vm.frozen():
        assert name == "thaw"


@pytest.mark.parametrize("late", [0, E_FAIL])
def test_a_freeze_that_comes_too_late_is_thawed(make, late: int) -> None:
    vm = make(freeze=None)
    with pytest.raises(HostError, match=r"freeze: the guest's driver has not answered in 0\.0"):
        vm.freeze(timeout=0.05)
    head, body = vm.utils.last
    vm.utils.answer(head, body, late)
    vm.guest()
    assert vm.serve.operations == [CHECK, FREEZE, *([] if late else [THAW])]
    assert not vm.utils.service.frozen


def test_the_next_freeze_is_wanted_again(make) -> None:
    vm = make()
    vm.utils.service.give_up()
    vm.freeze()
    vm.guest()
    assert vm.utils.service.frozen


def test_a_snapshot_of_a_frozen_guest(make) -> None:
    vm = make()
    vm.freeze()
    fresh = Vss()
    carry(vm.utils.guest, fresh)
    vm.offered["components"].vss = vm.utils.service = fresh
    assert fresh.frozen
    vm.thaw()
    assert not fresh.frozen


def test_a_snapshot_of_a_guest_that_freezes(make) -> None:
    vm = make(freeze=None)
    with pytest.raises(HostError):
        vm.freeze(timeout=0.05)
    fresh = Vss()
    carry(vm.utils.guest, fresh)
    vm.utils.service, vm.serve.statuses = fresh, {}
    vm.utils.answer(*vm.utils.last)
    vm.guest()
    assert vm.serve.operations == [CHECK, FREEZE, THAW]


def test_no_driver(make) -> None:
    vm = make()
    vm.utils.guest.server.reset()
    for ask in (vm.freeze, vm.thaw):
        with pytest.raises(ConfigError, match=r"no driver for it now \(Linux: hv_utils\)"):
            ask()
