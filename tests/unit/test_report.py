"""The report on a stopped guest: every kind, every table of codes, details missing or mad."""

from __future__ import annotations

import os
import select
import threading
import time

import pytest

from pyhv.crashes import BUGCHECKS, CRASH_NOTIFY_MSG, crash_lines
from pyhv.progress import Progress
from pyhv.report import ENTRY_FAILURES, QUIET, SUBERRORS, printable, report
from pyhv.stop import Stop

ALL_ONES = (1 << 64) - 1
LINUX_6_1_140 = 0x8100 << 48 | (6 << 16 | 1 << 8 | 140) << 16
GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip", "rflags")
GENERAL += ("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
REGISTERS = {name: number for number, name in enumerate(GENERAL, 0x100)}
REGISTERS |= {"cs": 0x10, "cs.base": 0, "ss": 0x18, "ss.base": 0, "cr0": 0x80000011, "cr3": 0x1000}
REGISTERS |= {"gdt.base": 0x5000, "idt.base": 0x6000, "efer": 0x500}
DETAILS = {"vcpu": 1, "registers": REGISTERS, "exits": ["out port 0x80, 1 bytes"] * 3 + ["hlt 0x0"]}
KINDS = {
    "poweroff": 0, "reset": 0, "exit": 9, "triple-fault": 3, "kvm-error": 4, "hv-crash": 5,
    "stuck": 6, "quit": 130, "time-limit": 124, "error": 1, "no-boot": 1,
}  # fmt: skip


@pytest.mark.parametrize(("kind", "status"), KINDS.items())
def test_first_line_is_why_and_evidence_comes_when_it_went_wrong(kind, status):
    text = report(Stop(kind, status, "the guest stopped", DETAILS))
    lines = text.splitlines()
    assert lines[0].startswith("the guest stopped")
    assert lines[0].endswith(f"(status {status})") == (status != 0 and kind != "exit")
    assert ("registers of vcpu 1:" in lines) == (kind not in QUIET)
    assert (
        "registers of vcpu 1:" in report(Stop(kind, status, "x", DETAILS), full=True).splitlines()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_details_may_be_missing(kind):
    assert report(Stop(kind, 0, "over", {}), full=True) == "over"


def test_registers_all_appear_by_name():
    text = report(Stop("triple-fault", 3, "x", DETAILS))
    for name in GENERAL:
        assert f"{name:3} {REGISTERS[name]:016x}" in text
    assert "cs 0x10@0x0" in text
    assert "cr0 80000011" in text


def test_unused_upper_registers_are_left_out():
    values = REGISTERS | {f"r{n}": 0 for n in range(8, 16)}
    assert "r8 " not in report(Stop("triple-fault", 3, "x", {"registers": values}))


def test_equal_exits_in_a_row_are_counted():
    text = report(Stop("triple-fault", 3, "x", DETAILS))
    assert text.endswith(
        "last exits, oldest first:\n  out port 0x80, 1 bytes  (3 times)\n  hlt 0x0"
    )


def test_console_tail_cannot_command_the_terminal():
    text = report(Stop("stuck", 6, "x", {}), tail=["ok \x1b[2J\x07end", "caf\xe9"])
    assert text.endswith("the console's last lines:\n  | ok \ufffd[2J\ufffdend\n  | caf\xe9")
    assert printable("a\tb\x9bc") == "a\ufffdb\ufffdc"


def test_traceback_only_in_full():
    stop = Stop("error", 1, "internal error", {"traceback": "Traceback ...\n  line"})
    assert "Traceback" not in report(stop)
    assert report(stop, full=True).endswith("Traceback ...\n  line")


# KVM's errors


def kvm_error(**details) -> list[str]:
    return report(Stop("kvm-error", 4, "vcpu 0: KVM internal error", details)).splitlines()


@pytest.mark.parametrize("number", SUBERRORS)
def test_each_suberror_by_name(number):
    name, meaning = SUBERRORS[number]
    assert kvm_error(suberror=number)[1] == f"  KVM_INTERNAL_ERROR_{name}: {meaning}"


def test_unknown_suberror_and_its_data():
    assert kvm_error(suberror=77, data=[1, ALL_ONES])[1:] == [
        "  KVM_INTERNAL_ERROR_77: a suberror that pyhv does not know",
        "  data 0x1 0xffffffffffffffff",
    ]


def test_instruction_bytes_of_a_failed_emulation():
    """kvm_run.emulation_failure: flags, then one byte of size and up to 15 of code."""
    code = bytes.fromhex("0f01c1 660f6f00")
    packed = bytes((len(code),)) + code.ljust(15, b"\xcc")
    data = [1, *(int.from_bytes(packed[i : i + 8], "little") for i in (0, 8))]
    assert kvm_error(suberror=1, data=data)[2] == "  instruction bytes 0f 01 c1 66 0f 6f 00"


@pytest.mark.parametrize("data", [[], [1], [0, 5, 6], [1, ALL_ONES, ALL_ONES], [1, 0, 0]])
def test_emulation_data_of_any_form(data):
    lines = kvm_error(suberror=1, data=data)
    assert lines[1].startswith("  KVM_INTERNAL_ERROR_EMULATION")
    assert not any(len(line) > 80 for line in lines)


@pytest.mark.parametrize("reason", ENTRY_FAILURES)
def test_each_entry_failure(reason):
    line = kvm_error(hardware_reason=reason)[1]
    assert line == f"  hardware entry failure {reason:#x}: {ENTRY_FAILURES[reason]}"
    assert "see the CPU's manual" in kvm_error(hardware_reason=0x123)[1]


# crash MSRs


def crash(*parameters: int, control: int = 1 << 63) -> list[str]:
    details = {"parameters": parameters, "control": control}
    return report(Stop("hv-crash", 5, "the guest reported a crash", details)).splitlines()


@pytest.mark.parametrize("code", BUGCHECKS)
def test_each_windows_stop_code(code):
    assert crash(code, 1, 2, 3, 4) == [
        f"the guest reported a crash: Windows stop code {code:#x} {BUGCHECKS[code]} (status 5)",
        "  parameter 1 0x1", "  parameter 2 0x2", "  parameter 3 0x3", "  parameter 4 0x4",
    ]  # fmt: skip


def test_unknown_stop_code():
    assert "stop code 0xdead, a stop code that pyhv has no name for" in crash(0xDEAD, 0, 0, 0, 0)[0]


def test_linux_panic():
    rip, rax, rsp = 0xFFFFFFFF81000010, 0x2A, 0xFFFFC90000003E00
    assert crash(ALL_ONES, LINUX_6_1_140, rip, rax, rsp) == [
        "the guest reported a crash: Linux 6.1.140 panicked (status 5)",
        "  error -1", f"  rip {rip:#x}", "  rax 0x2a", f"  rsp {rsp:#x}",
    ]  # fmt: skip


def test_linux_panic_of_kernels_that_keep_p2():
    rip, rsp = 0xFFFFFFFF81000010, 0xFFFFC90000003E00
    assert crash(11, LINUX_6_1_140, 0x1234000, rip, rsp)[2:] == [
        f"  rip {rip:#x}",
        f"  rsp {rsp:#x}",
    ]


def test_a_message_is_named():
    lines = crash(0, 0, 0, 0x7000, 512, control=1 << 63 | CRASH_NOTIFY_MSG)
    assert lines == [
        "the guest reported a crash: the guest left a message (status 5)",
        "  512 bytes at gpa 0x7000",
    ]


@pytest.mark.parametrize("parameters", [(), (0,) * 5, (ALL_ONES,) * 5, (1 << 40, 2), (1,) * 9])
@pytest.mark.parametrize("control", [0, 1 << 63, ALL_ONES])
def test_any_numbers_are_reported(parameters, control):
    lines = crash_lines(parameters, control)
    assert lines
    assert all(0 < len(line) < 90 for line in lines)


# progress


def test_progress_is_silent_where_there_is_no_terminal():
    reader, writer = os.pipe()
    before = threading.active_count()
    with Progress("loading", writer) as progress:
        assert not progress.active
        assert threading.active_count() == before
    os.close(writer)
    assert os.read(reader, 100) == b""
    os.close(reader)


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    master, slave = os.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


def test_progress_comes_late_and_cleans_up(terminal, monkeypatch):
    master, slave = terminal
    monkeypatch.setattr("pyhv.progress.DELAY_S", 0.05)
    monkeypatch.setattr("pyhv.progress.STEP_S", 0.02)
    with Progress("loading vmlinuz", slave) as progress:
        progress.advance(42, 100)
        time.sleep(0.2)
    assert not any(thread.name == "progress" for thread in threading.enumerate())
    shown = b""
    while select.select([master], [], [], 0.3)[0]:  # a pty hands on in its own time
        shown += os.read(master, 4096)
    assert b"pyhv: loading vmlinuz 42 %" in shown
    assert shown.endswith(b"\r\x1b[K")


def test_quick_work_shows_nothing(terminal):
    master, slave = terminal
    with Progress("loading", slave):
        pass
    assert not select.select([master], [], [], 0.1)[0]


def test_progress_without_units_counts_seconds():
    assert Progress("loading").line(3.4) == "loading 3 s"
