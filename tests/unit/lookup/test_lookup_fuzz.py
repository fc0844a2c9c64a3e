"""The parsers of the look-up commands on damaged and random input: one line, or an answer."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_cpuid_lookup import BOOT, LINES
from test_explain import DOMAIN

from pyhv.errors import PyhvError
from pyhv.lookup import cpuid, dumps, evidence, explain, libvirt, source

BASELINE = Path(__file__).parents[2] / "baseline"
ROUNDS = 1000
ALPHABET = "abcdefhimnrstvx0123456789-_=,+<>/&;:'\"[]{}() \n\t\\|.#!\u00e9\u202e\x07"
COMMAND = "qemu-system-x86_64 -accel kvm -M q35 -cpu 'host,kvm=off,hv_time,hv_vpindex' -smp 2"


def whole_explain(text: str) -> None:
    given = source.read([text])
    explain.warnings(given, explain.resolve(given)[0])


def whole_dump(text: str) -> None:
    for name, dump in dumps.parse(text, "x"):
        cpuid.decode(name, dump, every=True)


TRACES = (
    '{"time_ns": 5, "vcpu": 0, "category": "msr", "name": "wrmsr", "fields": '
    '{"msr": "HV_X64_MSR_GUEST_OS_ID", "value": 9295429630892703744}, "result": null}\n'
    '{"time_ns": 6, "vcpu": 0, "category": "hypercall", "name": "HvCallPostMessage", '
    '"fields": {}}',
    " CPU 0/KVM-7 [001] d.. 3081.118: kvm_msr: msr_read 40000020 = 0x1234\n"
    " CPU 0/KVM-7 [001] d.. 3081.119: kvm_hv_hypercall: code 0x2 slow in 0x1 out 0x0",
    "{ write:          0, ecx: 1073741856 } hitcount:    3249387",
)
TARGETS: dict[str, tuple[Callable[[str], object], tuple[str, ...]]] = {
    "cpu": (lambda text: source.of_cpu("-cpu", text, []),
            ("host,kvm=off,hv_relaxed,hv_spinlocks=0x1fff,hv_vendor_id=abc,+hv-time,-hv-ipi",)),
    "command": (lambda text: source.of_command(source.split(text)), (COMMAND,)),
    "xml": (lambda text: libvirt.cpu_of(libvirt.parse_xml(text)), (DOMAIN,)),
    "explain": (whole_explain, (DOMAIN, COMMAND, "host,hv_time", "hv-stimer,x-hv-max-vps=3")),
    "trace": (lambda text: evidence.read_trace(text, "x"), TRACES),
    "dump": (whole_dump, (*LINES.values(), BOOT, (BASELINE / "seed_cpuid.txt").read_text(),
                          (BASELINE / "golden" / "5-all.txt").read_text()[:3000])),
}  # fmt: skip


def damaged(rng: random.Random, text: str) -> str:
    """Return *text* cut short, with pieces exchanged, doubled, or wholly random."""
    if rng.random() < 0.1:
        return "".join(rng.choices(ALPHABET, k=rng.randrange(200)))
    for _ in range(rng.randrange(1, 6)):
        at, to = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        kind = rng.randrange(5)
        if kind == 0:
            text = text[:to]
        elif kind == 1:
            text = text[:at] + text[to:]
        elif kind == 2:
            text = text[:at] + text[at : at + 50] * rng.randrange(3) + text[at:]
        elif kind == 3:
            text = text[:at] + rng.choice(ALPHABET) + text[at + 1 :]
        else:
            text = (
                text[:at] + rng.choice(("99999999999999999999", "&x;", "<!", "\udcff")) + text[to:]
            )
    return text


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_input_is_refused_in_one_line_or_understood(name) -> None:
    function, samples = TARGETS[name]
    rng = random.Random(name)
    understood = 0
    for number in range(ROUNDS):
        text = damaged(rng, rng.choice(samples))
        begin = time.monotonic()
        try:
            function(text)
            understood += 1
            said = ""
        except PyhvError as error:
            said = str(error)
        assert "\n" not in said, (number, text)
        assert len(said) < 3000
        assert time.monotonic() - begin < 5
    assert 0 < understood < ROUNDS


@pytest.mark.parametrize("name", TARGETS)
def test_the_samples_are_understood(name) -> None:
    function, samples = TARGETS[name]
    for sample in samples:
        with contextlib.nullcontext():
            function(sample)
