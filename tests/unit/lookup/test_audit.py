"""audit: cloud-hypervisor's Windows case, every rule, every form of a trace, the live one."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyhv import cli
from pyhv.errors import ConfigError
from pyhv.hyperv.flags import ROWS
from pyhv.lookup import audit, rules
from pyhv.lookup.cpuid import _of_flags
from pyhv.lookup.evidence import Evidence, read_trace, take_event
from pyhv.lookup.live import LiveAudit
from pyhv.trace.event import Event
from pyhv.watching import Watch

CASE_8380 = Path(__file__).parents[2] / "baseline" / "cloud_hypervisor_8380.txt"
WINDOWS, LINUX = 0x0001_0A00_0000_4A65, 0x8100_0000_060C_0000
OS_ID, HYPERCALL, COUNT, PAGE = 0x40000000, 0x40000001, 0x40000020, 0x40000021
ASSIST, SINT2, STIMER0 = 0x40000073, 0x40000092, 0x400000B0


def case(cpu: str, *writes: tuple[int, int], reads: dict[int, int] | None = None,
         calls: tuple[int, ...] = ()) -> rules.Case:  # fmt: skip
    evidence = Evidence()
    for number, value in writes:
        evidence.msr(number, True, value, False)
    for number, times in (reads or {}).items():
        evidence.msr(number, False, None, False, times)
    for code in calls:
        evidence.call(code)
    return rules.Case(_of_flags(cpu)[1], evidence)


def said(one: rules.Case) -> str:
    return " | ".join(text for text, _ in audit.findings(one))


# cloud-hypervisor #8380


def test_the_case_of_cloud_hypervisors_windows_guests(capfd) -> None:
    """Bit 9 without bits 5 and 6: the audit names both, and the three million reads."""
    assert cli.main(["audit", "--cpuid", str(CASE_8380), str(CASE_8380)]) == 1
    shown = " ".join(capfd.readouterr().out.split())
    assert "* 3,249,387 reads of HV_X64_MSR_TIME_REF_COUNT" in shown
    assert "was never enabled, because AccessHypercallMsrs (40000003.EAX[5]) and " in shown
    assert "AccessVpIndex (40000003.EAX[6], hv-vpindex) are not advertised" in shown
    assert "hv-time yes no 3,249,387 reads" in shown
    assert "hv-stimer yes ? 75,070 writes" in shown


def test_with_both_privileges_another_reason_is_looked_for(tmp_path, capfd) -> None:
    """The same counts with EAX 0x26E, as after the change: it is not the privileges."""
    path = tmp_path / "fixed"
    path.write_text(CASE_8380.read_text().replace("0000020e", "0000026e"))
    assert cli.main(["audit", "--cpuid", str(path), str(path)]) == 1
    shown = " ".join(capfd.readouterr().out.split())
    assert "3,249,387 reads" in shown
    assert "Its privileges are there" in shown
    assert "AccessVpIndex" not in shown


# rules

GOOD = "host,kvm=off,hv_time,hv_vpindex,hv_relaxed"


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (case(GOOD, (OS_ID, WINDOWS), (PAGE, 0x5001), reads={COUNT: 5000}), "sequence 0"),
        (case("host,kvm=off,hv_time", (OS_ID, WINDOWS), reads={COUNT: 5000}),
         "because AccessVpIndex"),
        (case("host,hv_time,hv_vpindex"), "KVM's leaves are visible"),
        (case(GOOD + ",hv_vendor_id=abc"), "the vendor is 'abc'"),
        (case("host,kvm=off,hv_time"), "Linux wants AccessVpIndex"),
        (case(GOOD), "did not start, or the trace began too late"),
        (case(GOOD + ",hv_synic", (OS_ID, LINUX), (SINT2, 0x200F3)), "SINT2 use AutoEOI: APICv"),
        (case(GOOD + ",hv_synic,hv_avic", (OS_ID, LINUX), (SINT2, 0x200F3)),
         "although hv-avic asks not to"),
        (case(GOOD + ",hv_synic,hv_stimer", (OS_ID, LINUX)), "only once VMBus is up"),
        (case(GOOD + ",hv_synic,hv_stimer", (OS_ID, WINDOWS)), "another timer it likes better"),
        (case(GOOD + ",hv_ipi", (OS_ID, LINUX)), "never enabled the hypercall page"),
        (case(GOOD + ",hv_tlbflush", (OS_ID, LINUX), (HYPERCALL, 0x5001)), "with one vCPU"),
        (case(GOOD + ",hv_vapic", (OS_ID, LINUX)), "the VP assist page was never enabled"),
        (case(GOOD, (OS_ID, LINUX), (ASSIST, 0x5001)), "used without being advertised: hv-vapic"),
    ],
)  # fmt: skip
def test_each_reason(one, text) -> None:
    assert text in said(one)


def test_a_fault_names_the_flag_that_is_missing() -> None:
    one = case(GOOD, (OS_ID, LINUX))
    one.evidence.msr(0x40000010, False, None, True)
    assert "HV_X64_MSR_VP_RUNTIME 1x; hv-runtime gives it" in said(one)


def test_a_guest_that_uses_all_it_is_offered_is_left_alone() -> None:
    one = case(
        GOOD + ",hv_synic,hv_stimer,hv_stimer_direct,hv_avic,hv_vapic,hv_ipi",
        (OS_ID, LINUX), (HYPERCALL, 0x5001), (PAGE, 0x6001), (ASSIST, 0x7001), (STIMER0, 0x1519),
        reads={COUNT: 3}, calls=(0x0B,),
    )  # fmt: skip
    assert said(one) == ""
    text, status = audit.show(one, as_json=False)
    assert status == 0
    assert "nothing to complain about" in text
    assert "the guest: Linux" in text


def test_every_flag_is_counted_or_said_to_be_unseen() -> None:
    """A flag without MSRs and calls of its own is one that cannot be seen, or has no bits."""
    for row in ROWS:
        if row.bits and not row.msrs and not row.hypercalls:
            assert row.name in audit.UNSEEN or row.name in audit.ENABLES
        for numbers, mask in (audit.ENABLES.get(row.name, ((), 0)),):
            assert bool(numbers) == bool(mask)


def test_report_fits_80_columns_and_json() -> None:
    one = case(GOOD + ",hv_synic,hv_stimer,hv_ipi,hv_spinlocks=8191", reads={COUNT: 9999})
    text, status = audit.show(one, as_json=False)
    assert max(map(len, text.splitlines())) <= 80
    found = json.loads(audit.show(one, as_json=True)[0])
    assert status == 1
    assert found["findings"][0]["costs"]
    assert {"flag": "hv-time", "advertised": "yes", "enabled": "no",
            "used": "9,999 reads"} in found["rows"]  # fmt: skip


# traces

JSONL = """\
{"time_ns": 1, "vcpu": 0, "category": "msr", "name": "wrmsr", "fields": {"msr": "HV_X64_MSR_GUEST_OS_ID", "value": 9295429630892703744}, "result": null}
{"time_ns": 9, "vcpu": 0, "category": "msr", "name": "rdmsr", "fields": {"msr": "HV_X64_MSR_TIME_REF_COUNT"}, "result": 5}
{"time_ns": 9, "vcpu": 0, "category": "msr", "name": "rdmsr", "fields": {"msr": "0x40000114"}, "result": "#GP"}
{"time_ns": 2000000000, "vcpu": 1, "category": "hypercall", "name": "HvCallPostMessage", "fields": {}, "result": "x"}
{"time_ns": 2000000000, "vcpu": 1, "category": "hypercall", "name": "hypercall 0x0042", "fields": {}, "result": "x"}
{"time_ns": 7, "vcpu": 0, "category": "pio", "name": "out", "fields": {}, "result": null}
"""  # noqa: E501
KERNEL = """\
          qemu-7 [001] d.... 100.500000: kvm_msr: msr_write 40000000 = 0x8100000000000000
          qemu-7 [001] d.... 101.000000: kvm_msr: msr_read 40000020 = 0x5
          qemu-7 [001] d.... 101.000000: kvm_msr: msr_read 40000114 = 0x0 (#GP)
          qemu-7 [001] d.... 101.500000: kvm_msr: msr_read 1b = 0xfee00900
          qemu-7 [001] d.... 102.000000: kvm_hv_hypercall: code 0x5c slow cnt 0x0 in 0x1 out 0x0
          qemu-7 [001] d.... 102.500000: kvm_hv_hypercall: code 0x42 fast
"""
HISTOGRAM = """\
# event histogram
{ write: 1, ecx: 1073741824 } hitcount:          1
{ ecx: 40000020, write: 0 } hitcount:          1
{ code: 92 } hitcount: 1
{ code: 0x42 } hitcount: 1
"""


@pytest.mark.parametrize(("text", "seconds"), [(JSONL, 2.0), (KERNEL, 2.0), (HISTOGRAM, 0.0)])
def test_forms_of_a_trace(text, seconds) -> None:
    found = read_trace(text, "x")
    assert found.writes == {OS_ID: 1}
    assert found.reads == {COUNT: 1}
    assert found.calls == {0x5C: 1, 0x42: 1}
    assert found.seconds == seconds
    assert found.faults == ({} if text is HISTOGRAM else {0x40000114: 1})


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--cpu", "host,hv_time", "/nonexistent"], "No such file"),
        (["x"], "what was advertised?"),
        (["--cpu", "host,hv_tiem", "x"], "did you mean hv_time?"),
        (["--cpu", "host,hv_time", str(Path(__file__))], "no trace in it"),
    ],
)
def test_wrong_input_gets_one_line(words, error, capfd, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x").write_text("nothing")
    if error == "no trace in it":
        words = [*words[:2], "x"]
    assert cli.main(["audit", *words]) == 2
    err = capfd.readouterr().err
    assert error in err
    assert err.count("\n") == 1


def test_text_that_is_no_trace() -> None:
    for text in ("", "x", "{}", '{"category": 1}', "[" * 100_000):
        with pytest.raises(ConfigError, match="no trace in it"):
            read_trace(text, "x")


# live


class FakeMachine:
    """As much of a machine as LiveAudit touches."""

    def __init__(self, *, in_kernel: bool) -> None:
        self.in_kernel = in_kernel
        table = {key: list(words.values()) for key, words in _of_flags(GOOD)[1].items()}
        self.guest_cpuid = SimpleNamespace(base=SimpleNamespace(table=table))
        self.wanted, self.emit, self.install = "", None, None

    def trace(self, wanted, function) -> None:
        self.wanted, self.emit = wanted, function

    def add_instrument(self, install) -> None:
        self.install = install


def test_run_audit_counts_in_user() -> None:
    machine, told = FakeMachine(in_kernel=False), []
    close = Watch(machine, {"audit"}, told.append).close
    assert machine.wanted == "msr,hypercall"
    assert machine.install is None
    fields = {"msr": "HV_X64_MSR_GUEST_OS_ID", "value": LINUX}
    machine.emit(Event(0, 0, "msr", "wrmsr", fields))
    for _ in range(5):
        machine.emit(Event(0, 0, "msr", "rdmsr", {"msr": "HV_X64_MSR_VP_INDEX"}, 0))
    close()
    assert told[0].startswith("audit:\nthe guest: Linux")
    assert "hv-vpindex  yes         -        5 reads" in told[0]


def test_run_audit_reads_kvms_state_in_kernel() -> None:
    """The MSRs are read after the vCPUs have stopped and before the board is gone."""
    machine, told, order = FakeMachine(in_kernel=True), [], []
    live = LiveAudit(machine, told.append)

    class Vcpu:
        def get_msr(self, number: int) -> int | None:
            order.append("msr")
            return {OS_ID: LINUX, PAGE: 0x5001}.get(number)

    board = SimpleNamespace(vcpus=[Vcpu()], halt=lambda: order.append("halt"))
    machine.install(board)
    board.halt()
    assert order[:2] == ["halt", "msr"]
    live.close()
    assert "the guest: Linux" in told[0]
    assert "hv-time     yes         yes      KVM serves it, no count" in told[0]


def test_events_of_other_kinds_are_not_counted() -> None:
    evidence = Evidence()
    take_event(evidence, "out", "pio", {}, None)
    take_event(evidence, "wrmsr", "msr", None, None)
    take_event(evidence, "wrmsr", "msr", {"msr": "nonsense"}, None)
    take_event(evidence, "what", "hypercall", {}, None)
    assert not evidence.events


# what the rows say


def test_a_call_that_is_not_advertised() -> None:
    """Calls count as use, too; XMM input is a way to make them and no call of its own."""
    one = case("host,kvm=off,hv_vpindex", (OS_ID, LINUX), (HYPERCALL, 1), calls=(8, 8, 2))
    assert ["hv-spinlocks", "no", "yes", "2 calls"] in audit.rows(one)
    assert ["hv-tlbflush", "no", "yes", "1 call"] in audit.rows(one)
    assert "used without being advertised: hv-tlbflush, hv-spinlocks;" in said(one)


@pytest.mark.parametrize(
    ("config", "what"), [(0x1418, "counted with hv-stimer"), (0x20008, "nothing")]
)
def test_direct_timers_are_counted_with_the_others(config, what) -> None:
    cpu = "host,hv_vpindex,hv_time,hv_synic,hv_stimer,hv_stimer_direct"
    found = {row[0]: row for row in audit.rows(case(cpu, (STIMER0, config)))}
    assert found["hv-stimer-direct"][3] == what
    assert found["hv-stimer"][3] == "1 write"


def test_a_guest_without_hyperv_has_no_table() -> None:
    text, status = audit.show(case("host,kvm=off"), as_json=False)
    assert text == "the guest never said what it is\nno Hyper-V flag is advertised"
    assert status == 0


@pytest.mark.parametrize(
    ("state", "shown"), [({}, "not at end"), ({STIMER0 + 1: 12345}, "yes"), ({STIMER0: 3}, "yes")]
)
def test_what_kvm_kept_at_the_end_is_not_taken_for_all_there_was(state, shown) -> None:
    """A guest that disabled its timers before it ended leaves their counts."""
    cpu = "host,kvm=off,hv_vpindex,hv_time,hv_synic,hv_stimer,hv_stimer_direct,hv_vapic"
    one = case(cpu)
    one.evidence.counted = False
    for number, value in {OS_ID: LINUX, **state}.items():
        one.evidence.state(number, value)
    found = {row[0]: row for row in audit.rows(one)}
    assert found["hv-stimer"][2] == shown
    assert found["hv-vapic"][2] == "not at end"
    assert found["hv-stimer-direct"][3] == "KVM serves it, no count"
    assert ("hv-stimer is not used" in said(one)) == (not state)
    assert "the VP assist page is not (at the end) enabled" in said(one)
