"""caps on made-up hosts and on the KVM of Linux 6.12; what two hosts differ in; statuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyhv import cli
from pyhv.errors import ConfigError, HostError
from pyhv.hyperv.flags import FLAGS, ROWS
from pyhv.lookup import caps

GOLDEN = Path(__file__).parents[2] / "baseline" / "golden" / "kvm-supported-hv-cpuid.txt"


def kvm_6_12() -> list[list[int]]:
    """Return the first table of the baseline."""
    rows: list[list[int]] = []
    for line in GOLDEN.read_text().splitlines():
        words = line.split()
        if line.startswith("4") and "." in words[0]:
            leaf, index = words[0].split(".")
            rows.append([int(leaf, 16), int(index, 16), *(int(word, 16) for word in words[1:])])
        elif rows:
            break
    return rows


ALL = dict.fromkeys(caps.CAPABILITIES, 1)
SYSTEM = {"clocksource": "tsc", "kernel": "6.12"}
FULL = caps.HostCaps("", ALL, kvm_6_12(), SYSTEM)
PLAIN = FULL._replace(hyperv=[])
OLD = PLAIN._replace(capabilities=dict.fromkeys(ALL, 0))
#: a CPU with SSE2 and no more
SMALL = FULL._replace(cpuid=[[0, 0, 0, 7, 0, 0, 0], [1, 0, 0, 0x60F, 0, 0, 0x0F8BFBFF],
                             [7, 0, 1, 0, 0, 0, 0]])  # fmt: skip
NONE = caps.HostCaps("open /dev/kvm: no such device", {}, [], {})


@pytest.fixture
def host(monkeypatch):
    """Return a function that sets what this host says."""
    return lambda answer: monkeypatch.setattr(caps, "ask", lambda: answer)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_flag_on_each_kind_of_host(row) -> None:
    """Linux 6.12 on AMD has all but hv-evmcs; pyhv's own refusals are those of its table."""
    kernel = caps.in_kernel(row, FULL)
    if row.name == "hv-evmcs":
        assert kernel.startswith("KVM lacks 40000004.EAX[14] UseVmcsEnlightenments")
    else:
        assert kernel == (f"pyhv: {row.in_kernel}" if row.in_kernel else caps.YES)
    assert caps.in_kernel(row, PLAIN).startswith("this KVM has no Hyper-V")
    assert caps.in_kernel(row, NONE) == "no KVM"
    for one in (FULL, PLAIN, NONE):
        assert caps.in_user(row, one) == (row.in_user or caps.YES)
    assert caps.in_user(row, OLD) != caps.YES


@pytest.mark.parametrize(
    ("flag", "capability"),
    [
        ("hv-vpindex", "KVM_CAP_HYPERV_VP_INDEX"),
        ("hv-synic", "KVM_CAP_HYPERV_SYNIC2"),
        ("hv-enforce-cpuid", "KVM_CAP_HYPERV_ENFORCE_CPUID"),
    ],
)
def test_capabilities_that_a_flag_needs(flag, capability) -> None:
    lacks = FULL._replace(capabilities={**ALL, capability: 0})
    assert caps.in_kernel(FLAGS[flag], lacks) == f"KVM lacks {capability}"


def test_without_kvm_it_says_so_and_what_pyhv_could_do(monkeypatch, capfd) -> None:
    class Missing:
        def __init__(self) -> None:
            raise HostError("open /dev/kvm: no such device; load kvm_intel")

    found = caps.ask(Missing)
    assert found.problem.startswith("open /dev/kvm")
    monkeypatch.setattr(caps, "ask", lambda: found)
    assert cli.main(["caps"]) == 1
    shown = capfd.readouterr().out
    assert "pyhv doctor says what to do" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert all(f"\n{name} " in shown for name in FLAGS)


@pytest.mark.parametrize("answer", [FULL, PLAIN], ids=["kernel", "user"])
def test_the_table_fits_and_the_status_is_good(answer, host, capfd) -> None:
    host(answer)
    assert cli.main(["caps"]) == 0
    shown = capfd.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "reference TSC page is valid" in shown


def test_what_the_clocksource_means() -> None:
    assert "sequence 0" in caps.tsc_line(FULL._replace(system={"clocksource": "hpet"}))
    assert "not known" in caps.tsc_line(NONE)


def test_json_and_the_difference_of_two_hosts(tmp_path, host, capfd) -> None:
    paths = []
    for name, answer in (("full", FULL), ("plain", PLAIN)):
        host(answer)
        assert cli.main(["caps", "--json"]) == 0
        paths.append(str(tmp_path / name))
        Path(paths[-1]).write_text(capfd.readouterr().out)
    assert cli.main(["caps", "--diff", *paths]) == 1
    shown = capfd.readouterr().out
    assert "hv-time in_kernel\n  - yes\n  + this KVM has no Hyper-V" in shown
    assert cli.main(["caps", "--diff", paths[1]]) == 0  # this host is the plain one
    assert capfd.readouterr().out == "the same\n"
    assert cli.main(["caps", "--json", "--diff", *paths]) == 1
    assert ["hv-time in_kernel", "yes"] in [row[:2] for row in json.loads(capfd.readouterr().out)]
    assert cli.main(["cpuid", paths[0]]) == 0
    assert "vendor 'Linux KVM Hv'" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("cpu", "answer", "hint"),
    [
        ("host,hv_time,hv_vpindex", FULL, ""),
        ("host,hv_evmcs,hv_vapic", FULL, "not supported by kernel"),
        ("host,hv_time", PLAIN, ""),
        ("host,hv_emsr_bitmap", PLAIN, "hv-emsr-bitmap: not provided by pyhv's in_user driver"),
        ("host,hv_time", OLD, "hv-time: KVM lacks KVM_CAP_X86_USER_SPACE_MSR"),
        ("host,hv_ipi", FULL, "use -cpu host,hv_ipi,hv_vpindex"),
        ("host,hv_time", NONE, "no such device"),
        ("Skylark,hv_time", FULL, "no CPU model 'Skylark'"),
        ("host,hyperv_time", FULL, "did you mean hv-time?"),
        ("host,l3-cache=on,hv_time", SMALL, ""),
        ("host,+avx2,hv_time", SMALL, "CPUID.07H:EBX.avx2 [bit 5]"),
        ("host,+avx2,enforce", SMALL, "CPUID.07H:EBX.avx2 [bit 5]; leave out"),
        ("host,phys-bits=99", SMALL, "phys-bits=99: 32 to 52"),
    ],
)
def test_against_a_cpu(cpu, answer, hint, host, capfd) -> None:
    host(answer)
    assert cli.main(["caps", "--against", cpu]) == (1 if hint else 0)
    assert hint in " ".join(capfd.readouterr().out.split())
    assert cli.main(["caps", "--json", "--against", cpu]) == (1 if hint else 0)
    assert bool(json.loads(capfd.readouterr().out)["problems"]) == bool(hint)


@pytest.mark.parametrize(
    "text",
    ["", "x", "[]", "{}", '{"format": "pyhv-caps", "flags": 1}', "[" * 100_000,
     '{"format": "pyhv-caps", "flags": {"a": 1}, "system": {}, "capabilities": {}}'],
)  # fmt: skip
def test_what_is_no_report(text, tmp_path) -> None:
    path = tmp_path / "x"
    path.write_text(text)
    with pytest.raises(ConfigError, match="no JSON|not written by pyhv caps"):
        caps.load(str(path))


def test_a_word_too_much_says_what_to_write(host, capfd) -> None:
    host(FULL)
    assert cli.main(["caps", "host,hv_time"]) == 2
    assert "write --against host,hv_time" in capfd.readouterr().err
