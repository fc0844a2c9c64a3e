"""MSR exits without KVM: what is #GP in the guest, and what is a bug of ours and must be heard."""

from __future__ import annotations

import pytest

from pyhv import runloop
from pyhv.bus import Bus
from pyhv.errors import GuestFault

RDMSR, WRMSR = 29, 30
MSR, UNKNOWN, VALUE = 0x40000090, 0x40000999, 0x50


class FakeVcpu:
    """A kvm_run page of two pages, zero."""

    def __init__(self) -> None:
        self.fd, self.index = -1, 0
        self.m8 = memoryview(bytearray(8192))
        self.m32, self.m64 = self.m8.cast("I"), self.m8.cast("Q")


def serve(
    monkeypatch: pytest.MonkeyPatch, reason: int, msr: int, handler: object
) -> tuple[FakeVcpu, runloop.VcpuThread]:
    """Let the loop see one MSR exit, then the end of the guest."""
    vcpu = FakeVcpu()
    thread = runloop.VcpuThread(vcpu, Bus(), lambda thread, error: None)  # type: ignore[arg-type]
    thread.rdmsr[MSR] = thread.wrmsr[MSR] = handler  # type: ignore[assignment]
    reasons = iter([reason])

    def run(fd: int, request: int) -> int:
        vcpu.m32[2] = next(reasons, 0)
        if not vcpu.m32[2]:
            raise InterruptedError
        vcpu.m8[32], vcpu.m32[11] = 0, msr
        vcpu.m64[6] = VALUE
        return 0

    monkeypatch.setattr(runloop, "run_call", lambda: run)
    with pytest.raises(InterruptedError):
        thread._run()
    return vcpu, thread


def read() -> int:
    return 77


def write(value: int) -> None:
    assert value == VALUE


def refused(*value: int) -> int:
    raise GuestFault("no")


def broken(*value: int) -> int:
    return {}["a bug"]  # type: ignore[return-value]


@pytest.mark.parametrize(("reason", "handler", "data"), [(RDMSR, read, 77), (WRMSR, write, VALUE)])
def test_served(monkeypatch: pytest.MonkeyPatch, reason: int, handler: object, data: int) -> None:
    vcpu, thread = serve(monkeypatch, reason, MSR, handler)
    assert (vcpu.m8[32], vcpu.m64[6]) == (0, data)
    assert not thread.history


@pytest.mark.parametrize("msr", [MSR, UNKNOWN])
@pytest.mark.parametrize("reason", [RDMSR, WRMSR])
def test_general_protection(monkeypatch: pytest.MonkeyPatch, reason: int, msr: int) -> None:
    """A number that is nobody's, or a handler that refuses: #GP, and noted for the report."""
    vcpu, thread = serve(monkeypatch, reason, msr, refused)
    assert vcpu.m8[32] == 1
    assert thread.last_exits() == [
        f"rdmsr {msr:#x}: #GP" if reason == RDMSR else f"wrmsr {msr:#x} = {VALUE:#x}: #GP"
    ]


@pytest.mark.parametrize("reason", [RDMSR, WRMSR])
def test_a_bug_in_a_handler_is_no_fault_of_the_guest(
    monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    """A KeyError of the handler's own leaves the loop, and ends the machine with its traceback."""
    with pytest.raises(KeyError, match="a bug"):
        serve(monkeypatch, reason, MSR, broken)
