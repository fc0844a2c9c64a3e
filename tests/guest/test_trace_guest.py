"""The tracer on real guests: what is seen of a guest whose every exit is known."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import guestcode
import pytest
from libguest import SECONDS, machine

from pyhv import Machine
from pyhv.errors import ConfigError
from pyhv.trace.event import Event
from pyhv.trace.writers import line

pytestmark = [pytest.mark.kvm, pytest.mark.usefixtures("nothing_left")]

KNOWN = """
        mov $0x80, %dx
        mov $0x42, %al
        out %al, %dx
        in %dx, %al
        exit 3
"""


def short(events: list[Event]) -> list[str]:
    return [line(e._replace(duration_ns=-1), e.time_ns).split(None, 1)[1] for e in events]


def test_ports_in_order() -> None:
    events: list[Event] = []
    with machine(KNOWN) as vm:
        vm.trace("pio", events.append)
        vm.start()
        assert vm.wait(SECONDS).status == 7
        with pytest.raises(ConfigError, match="only from its start on"):
            vm.trace("pio", events.append)
    assert short(events) == [
        "cpu0  out(port=0x80, device=-, size=1, value=0x42)",
        "cpu0  in(port=0x80, device=-, size=1) = 0xff",
        "cpu0  out(port=0xf4, device=debug exit, size=1, value=3)",
    ]
    assert all(event.duration_ns >= 0 for event in events)


def test_a_hook_may_pause() -> None:
    """The vCPU stands right behind the exit that the hook saw, and goes on after resume."""
    with machine(KNOWN) as vm:

        def hook(event: Event) -> None:
            if event.fields["port"] == 0x80 and event.name == "out":
                vm.pause()

        vm.trace("pio", hook)
        vm.start()
        assert vm.board.threads[0].parked.wait(SECONDS)
        behind = 3 + 2 + 1  # mov $0x80, %dx; mov $0x42, %al; out %al, %dx
        assert vm.vcpus[0].registers.rip == guestcode.ORIGIN + 512 + behind
        assert vm.vcpus[0].registers.rax & 0xFF == 0x42
        vm.resume()
        assert vm.wait(SECONDS).status == 7


HYPERV = (
    guestcode.IDENTIFY
    + """
        wrmsr_of 0x40000080, 1
        wrmsr_of 0x40000092, 0x10041
        mov $0x40000002, %ecx
        rdmsr
        mov $0x1005d, %ecx                      # HvCallSignalEvent, fast, an unknown connection
        mov $0x777, %edx
        xor %r8d, %r8d
        call *%rbx
        exit 2
"""
)


def test_msrs_and_hypercalls(driver: str) -> None:
    """in_user sees all; in_kernel what KVM hands on: that is said in the documentation."""
    events: list[Event] = []
    with Machine(
        kernel=guestcode.kernel(HYPERV), cpu="host,hv_vpindex,hv_synic", memory="16M", hyperv=driver
    ) as vm:
        vm.trace("msr,hypercall", events.append)
        vm.start()
        assert vm.wait(SECONDS).status == 5
    found = short(events)
    if driver == "user":
        assert (
            "cpu0  wrmsr(HV_X64_MSR_SINT2, value=0x10041, {vector=0x41, masked=1, auto_eoi=0})"
            in (found)
        )
        assert "cpu0  rdmsr(HV_X64_MSR_VP_INDEX) = 0" in found
    else:
        assert not [text for text in found if "msr" in text]
    assert (
        "cpu0  HvCallSignalEvent(fast=1, in1=0x777, in2=0) = HV_STATUS_INVALID_CONNECTION_ID"
        in found
    )


def test_a_reset_is_traced_on() -> None:
    """The second life's board is wrapped as the first."""
    events: list[Event] = []
    with machine(guestcode.RESET_ONCE + "exit 1\n") as vm:
        vm.trace("pio", events.append)
        vm.start()
        assert vm.wait(SECONDS).status == 3
    resets = [e for e in events if e.fields["port"] == 0x64]
    ends = [e for e in events if e.fields["port"] == 0xF4]
    assert (len(resets), len(ends)) == (1, 1)


def test_command_line(tmp_path: pathlib.Path) -> None:
    """--trace-file in Chrome's format is one JSON document; the guest's status is its own."""
    path = tmp_path / "trace.json"
    command = [
        sys.executable, "-m", "pyhv", "run", "-kernel", guestcode.sector(KNOWN), "-cpu", "host",
        "--trace", "exits", "--trace-format", "chrome", "--trace-file", str(path),
    ]  # fmt: skip
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 7, done.stderr
    assert f"events in {path}" in done.stderr
    slices = [e for e in json.loads(path.read_text())["traceEvents"] if e["ph"] == "X"]
    assert [e["name"] for e in slices] == ["out", "in", "out debug exit"]
    text = subprocess.run(
        [*command[:-4]], cwd=root, capture_output=True, text=True, timeout=SECONDS
    )
    assert "out(port=0x80, device=-, size=1, value=0x42) <0." in text.stderr


def test_all_of_the_demo(tmp_path: pathlib.Path) -> None:
    """Every category at once, on a guest that uses timers, MSRs and hypercalls."""
    path = tmp_path / "t.jsonl"
    command = [
        sys.executable, "-m", "pyhv", "run", "--hyperv", "user", "--trace", "all",
        "--trace-format", "jsonl", "--trace-file", str(path), "--time-limit", "60",
    ]  # fmt: skip
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=2 * SECONDS)
    assert done.returncode == 0, done.stderr
    events = [json.loads(row) for row in path.read_text().splitlines()]
    assert {"machine", "console", "msr", "hypercall", "stimer", "synic", "pio"} <= {
        event["category"] for event in events
    }
    assert [event["name"] for event in (events[0], events[-1])] == ["board", "end"]
    assert sum(event["name"] == "expired" for event in events) >= 100
    lines = [event["fields"]["text"] for event in events if event["category"] == "console"]
    assert lines == [text for text in done.stdout.splitlines() if text.strip()]
