"""Every reference dump of QEMU 10 again, by our probe guest, under each driver that this host has.

A failure names set, section and line: leaf, register and bit, or MSR, or hypercall. What may
differ is here by name, and in docs/deviations.md with its reason.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from golden_dump import GOLDEN, HYPERCALL_PAGE, cpuid_bits, differences, parse, read, value
from probe import build, operations

from pyhv.errors import ConfigError, Exit, HostError
from pyhv.kvm.system import Kvm
from pyhv.machine import Machine
from pyhv.stop import Stop

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.skipif(bool(build.missing()), reason=f"not installed: {build.missing()}"),
]
LIMIT_S = 60
GENU = int.from_bytes(b"Genu", "little")
RAM_BELOW = b"\x55" * 0x2000  # of the SIM and the SIEF page
DUMPS = sorted(
    path.stem for what in ("[0-69]*.txt", "machine-*.txt") for path in GOLDEN.glob(what)
)
Rules = dict[str, Callable[[str, str], bool]]


def drivers() -> list[str]:
    """Return the drivers that work here; in_user needs nothing of the kernel."""
    try:
        kvm = Kvm()
    except HostError:
        return ["user"]  # the kvm mark skips it, or lets it fail
    found = ["kernel", "user"] if kvm.has_hyperv() else ["user"]
    kvm.close()
    return found


DRIVERS = drivers()
every_driver = pytest.mark.parametrize("driver", DRIVERS)

# What may differ


def _becomes(old: str, new: str) -> Callable[[str, str], bool]:
    """Return a test: the wanted line has *old* where the line that came has *new*."""
    return lambda want, got: old in want and got == want.replace(old, new)


#: in_user's hypercall page is ``out 0xe8, eax; ret``, and nothing else in the page is touched
USER_PAGE: Rules = {HYPERCALL_PAGE: _becomes("0f01d9c3", "e7e8c3c3")}

#: hv-passthrough leaves out what in_user refuses: no leaf A, so 5 is the highest
USER_PASSTHROUGH: Rules = {
    "40000000.00000000": _becomes(" 4000000a ", " 40000005 "),
    "4000000a.00000000": _becomes(" 000a0000 ", " 00000000 "),
}

#: a reset makes a new VM: KVM's leftovers under QEMU (the old page number, since GUEST_OS_ID was
#: cleared first; an invariant TSC once granted) are zero, as the TLFS has them
AFTER_RESET: Rules = {
    "msr 40000001": _becomes(" 0000000000300000", " 0000000000000000"),
    "msr 40000118": _becomes(" 0000000000000001", " 0000000000000000"),
}

KVM_ONLY = ("x-hv-synic-kvm-only",)
NESTED = ("hv-emsr-bitmap", "hv-tlbflush-direct")
#: (set, drivers) -> the flags that pyhv refuses; without them the set is run all the same
REFUSED: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {
    ("1-hv_emsr_bitmap", ("user",)): NESTED[:1],
    ("5-all", ("user",)): NESTED,
    ("6-enforce-all", ("user",)): NESTED,
    ("6-enforce-emsr_bitmap", ("user",)): NESTED[:1],
    ("9-preset-max", ("user",)): NESTED,
    ("9-preset-nested", ("user",)): NESTED,
    ("6-enforce-tlbflush_direct", ("user",)): NESTED[1:],
    ("2-synic-kvm-only", ("user",)): KVM_ONLY,
    ("machine-pc-i440fx-3.0-synic", ("user",)): KVM_ONLY,
    ("machine-pc-q35-2.12-synic-alone", ("user",)): KVM_ONLY,
}
#: nothing but the refused flag: without it these guests have no Hyper-V at all, or KVM's own SynIC
ONLY_THAT = {name for (name, _), flags in REFUSED.items() if flags == KVM_ONLY}
ONLY_THAT |= {"1-hv_emsr_bitmap", "6-enforce-emsr_bitmap"}


def _no_leaf(want: str, got: str) -> bool:
    return not any(cpuid_bits(got).values())


_NO_LEAF_A: Rules = {
    "40000000.00000000": _becomes(" 4000000a ", " 40000005 "),
    "4000000a.00000000": _no_leaf,
}
#: what a set shows that runs without its refused flags
WITHOUT: dict[str, Rules] = {
    "hv-emsr-bitmap": _NO_LEAF_A,
    "hv-tlbflush-direct": _NO_LEAF_A,
}


def refused(driver: str, name: str) -> tuple[str, ...]:
    """Return the flags of the set that the driver refuses."""
    return next(
        (flags for (one, where), flags in REFUSED.items() if one == name and driver in where), ()
    )


def deviations(driver: str, name: str) -> Rules:
    """Return the lines of the set that may differ under the driver."""
    rules: Rules = {}
    if driver == "user":
        rules |= USER_PAGE
        if "passthrough" in name:
            rules |= USER_PASSTHROUGH
    for flag in refused(driver, name):
        rules |= WITHOUT[flag]
    return rules


# Runs


class Run(NamedTuple):
    """What came of a guest: text, ending, KVM's TSC in Hz, RAM where SIM and SIEF pages lay."""

    lines: list[tuple[str, str]]
    stop: Stop
    tsc_hz: int
    pages: bytes


@functools.cache
def run(
    driver: str,
    cpu: str,
    smp: int,
    scenario: str = "X",
    *,
    reboot: bool = False,
    hv: str | None = None,
    machine: str | None = None,
) -> Run:
    """Run the probe once; *hv* is a preset, *machine* a machine type."""
    with Machine(
        cpu=cpu, smp=smp, hyperv=driver, kernel=str(build.kernel()), append=scenario,
        memory="64M", no_reboot=not reboot, hv=hv, machine=machine,
    ) as vm:  # fmt: skip
        tsc_hz = vm.board.vcpus[0].tsc_khz() * 1000
        vm.memory.write(operations.SIM, RAM_BELOW)
        vm.start()
        try:
            stop = vm.wait(LIMIT_S)
        except TimeoutError:
            vm.kill()
            stop = vm.wait()
        text = vm.memory.read(build.LOG_TEXT, vm.memory.read_u32(build.LOG)).decode("latin-1")
        pages = vm.memory.read(operations.SIM, len(RAM_BELOW))
    return Run(parse(text), stop, tsc_hz, pages)


def run_set(driver: str, name: str) -> Run:
    """Run the set *name*, without the flags that the driver refuses."""
    dump = read(name)
    off = "".join(f",{flag}=off" for flag in refused(driver, name))
    return run(driver, dump.cpu + off, dump.smp, machine=dump.machine)


def beyond(lines: list[tuple[str, str]]) -> Rules:
    """Return rules for the hypervisor leaves above the highest of their range, on an Intel CPU.

    Intel SDM vol. 2A, CPUID: "returns the data for the highest basic information leaf". So does
    KVM for a guest of that vendor; AMD has zeros, and so have the dumps. A software KVM answers
    with its host's leaf. All these leaves must be the same.
    """
    seen = {int(line[:8], 16): line[17:] for section, line in lines
            if section == "[cpuid]" and line.startswith("40000")}  # fmt: skip
    above = {leaf: words for leaf, words in seen.items()
             if leaf > int(seen[leaf & 0xFFFFFF00].split()[0], 16)}  # fmt: skip
    if not intel() or len(set(above.values())) > 1:
        return {}
    return dict.fromkeys((f"{leaf:08x}.00000000" for leaf in above), lambda want, got: True)


@functools.cache
def intel() -> bool:
    """Tell whether KVM gives guests an Intel CPU here."""
    kvm = Kvm()
    try:
        return next(ebx for leaf, _, _, _, ebx, *_ in kvm.supported_cpuid() if leaf == 0) == GENU
    finally:
        kvm.close()


def compared(driver: str, name: str, *, cpuid: bool) -> list[str]:
    """Return the differences in the sections [cpuid], or in all the others."""
    want, got = read(name).lines, run_set(driver, name).lines
    found = differences(name, want, got, beyond(got) | deviations(driver, name))
    part = "[cpuid]:"
    return [line for line in found if (part in line) == cpuid]


# Tests

PAIRS = [
    (driver, name)
    for driver in DRIVERS
    for name in DUMPS
    if not (name in ONLY_THAT and refused(driver, name))
]
every_set = pytest.mark.parametrize(("driver", "name"), PAIRS)


def test_the_probe_builds(tmp_path: Path) -> None:
    """From an empty folder too, not only out of the cache."""
    build.build(tmp_path, operations.source())
    assert (tmp_path / "probe.bin").read_bytes() == build.kernel().read_bytes()


@every_set
def test_cpuid(driver: str, name: str) -> None:
    """The guest reads the same leaves."""
    assert not compared(driver, name, cpuid=True)


@every_set
def test_msrs_hypercalls_pages_timers(driver: str, name: str) -> None:
    """Everything else the probe did has the same outcome, and it ended as QEMU's guest did."""
    assert not compared(driver, name, cpuid=False)
    stop = run_set(driver, name).stop
    assert (stop.kind, stop.status) == ("exit", read(name).status)


@every_set
def test_the_hosts_numbers(driver: str, name: str) -> None:
    """TSC_FREQUENCY and the scale of the reference TSC page fit this host's TSC."""
    dump = run_set(driver, name)
    seen = {line[:12]: value(line) for _, line in dump.lines}
    if seen["msr 40000022"] != "#GP":
        assert int(seen["msr 40000022"], 16) == dump.tsc_hz
    scale = bytes.fromhex(seen["mem 00301008"])
    if len(set(scale)) > 1:  # not the probe's filling
        exact = (10**7 << 64) // dump.tsc_hz
        assert int.from_bytes(scale, "little") == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(
    ("driver", "name", "flags"),
    [
        (driver, name, flags)
        for (name, where), flags in REFUSED.items()
        for driver in where
        if driver in DRIVERS
    ],
)
def test_refused_by_name(driver: str, name: str, flags: tuple[str, ...]) -> None:
    """What a driver cannot do it says, and starts nothing."""
    with pytest.raises(ConfigError) as error:
        run(driver, read(name).cpu, 1, machine=read(name).machine)
    text = str(error.value)
    assert tuple(part.split(":")[0] for part in text.split("; hv-")) == tuple(
        flag.removeprefix("hv-") if i else flag for i, flag in enumerate(flags)
    )
    assert f"in_{driver}" in text


@every_driver
@pytest.mark.parametrize(("preset", "name"), [("none", "00-none"), ("max", "5-all")])
def test_presets(driver: str, preset: str, name: str) -> None:
    """With KVM's leaves left on, --hv none and --hv max are sets of QEMU's; all sections."""
    dump = read(name)
    got = run(driver, "host,kvm=on", dump.smp, hv=preset)
    assert not differences(name, dump.lines, got.lines, deviations(driver, name))
    assert (got.stop.kind, got.stop.status) == ("exit", dump.status)


@every_driver
@pytest.mark.parametrize(("name", "scenario"), [("7-reset-cf9", "S"), ("7-reset-msr", "T")])
def test_reset(driver: str, name: str, scenario: str) -> None:
    """Two lives of one guest: what it set is gone, its RAM is back, the reference time runs on."""
    dump = read(name)
    second = run(driver, dump.cpu, dump.smp, scenario, reboot=True)
    assert not differences(name, dump.lines, second.lines, AFTER_RESET)
    assert (second.stop.kind, second.stop.status) == ("exit", dump.status)
    times = [int(value(line), 16) for _, line in second.lines if line.startswith("msr 40000020")]
    assert len(times) == 2
    assert times[0] < times[1]
    assert second.pages == RAM_BELOW


@every_driver
def test_reset_without_reboot(driver: str) -> None:
    """-no-reboot: the machine ends, with status 0."""
    dump = read("8-reset-msr-noreboot")
    end = run(driver, dump.cpu, dump.smp, "R")
    assert end.lines == dump.lines
    assert (end.stop.kind, end.stop.status) == ("reset", dump.status)


@every_driver
def test_crash_without_its_flag(driver: str) -> None:
    """The crash MSRs work without hv-crash, and the five numbers arrive.

    QEMU ends with status 0 (``-action panic=shutdown``); pyhv has a status of its own for it.
    """
    dump = read("8-crash-not-enabled")
    end = run(driver, dump.cpu, dump.smp, "C")
    assert end.lines == dump.lines
    assert (end.stop.kind, end.stop.status) == ("hv-crash", Exit.HV_CRASH)
    assert end.stop.details["parameters"] == tuple(0xABCDC0DE0000 + i for i in range(5))
