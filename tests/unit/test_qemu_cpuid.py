"""CPUID of CPU models, feature switches and topologies against guests of QEMU on the same KVM."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from qemu_cpuid import compare, models  # noqa: E402

from pyhv import cpu_models, cpu_named  # noqa: E402
from pyhv.config import Smp  # noqa: E402
from pyhv.cpu_features import names, places  # noqa: E402
from pyhv.cpu_options import parse_cpu  # noqa: E402
from pyhv.errors import ConfigError, HostError  # noqa: E402
from pyhv.guestcpuid import GuestCpuid  # noqa: E402
from pyhv.kvm.vcpu import Vcpu  # noqa: E402

SUPPORTED, DUMPS = compare.recorded()
CATALOGUE = cpu_named.catalogue()


@pytest.mark.parametrize(("cpu", "smp"), DUMPS)
def test_as_in_qemu(cpu: str, smp: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Register by register; what may differ has its reason in tools/qemu_cpuid/compare.py."""
    monkeypatch.setattr(cpu_models, "host_model_id", lambda: compare.BRAND)
    found = compare.differences(
        DUMPS[cpu, smp], compare.made(SUPPORTED, cpu, smp), compare.JUSTIFIED
    )
    assert [text for text, reason in found if not reason] == []


def test_the_oracle_is_rich_enough() -> None:
    """Both kinds of models, every kind of switch and topology; nobody shrinks it unseen."""
    assert len(DUMPS) == 41
    assert len({cpu.partition(",")[0] for cpu, _ in DUMPS}) == 13
    assert len({smp for _, smp in DUMPS}) == 6
    assert all(len(rows) >= 4 for rows in DUMPS.values())


@pytest.mark.parametrize("name", CATALOGUE.models)
def test_a_named_model(name: str) -> None:
    """Its identity, only features that it has, and nothing that the host lacks."""
    model = CATALOGUE.models[name]
    assert model.features <= set(names())
    assert model.caches in {caches for caches, _ in CATALOGUE.caches}
    table = {(row[0], row[1]): list(row[3:]) for row in SUPPORTED}
    warnings = cpu_models.apply(parse_cpu(name), table)
    assert table[1, 0][0] == cpu_models.signature(model.family, model.model, model.stepping)
    assert table[0, 0][0] == model.level
    assert max(leaf for leaf, _ in table) <= max(model.xlevel, 0x40000001)
    lacking = {text.split(".")[2].split()[0] for text in warnings}
    for feature in names():
        on = all(
            table.get(place[:2], [0, 0, 0, 0])[place.register] & place.mask
            for place in places(feature)
        )
        # an AMD guest repeats bits of 1:EDX in 80000001:EDX
        assert not on or feature in model.features
        assert not (on and feature in lacking)
    with pytest.raises(ConfigError, match="requested feature"):
        cpu_models.apply(parse_cpu(f"{name},+avx512f,enforce"), {**table})


def test_the_file_is_as_the_tool_prints_it() -> None:
    """Read and printed again it is the same text, so hand-made changes show."""
    caches = {
        name: [
            f" {kind} {line}"
            for kind in ("i", "a")
            for line in models.guest.lines(CATALOGUE.caches[model.caches, kind])  # type: ignore[arg-type]
        ]
        for name, model in CATALOGUE.models.items()
    }
    found: dict[str, dict] = {"aliases": CATALOGUE.aliases}
    for name, m in CATALOGUE.models.items():
        found[name] = {
            "family": m.family, "model": m.model, "stepping": m.stepping, "level": m.level,
            "xlevel": m.xlevel, "model-id": m.text, **dict.fromkeys(m.features, True),
        }  # fmt: skip
    text = Path(cpu_named.FILE).read_text()
    assert text == "\n".join(models.lines(found, caches)) + "\n"
    assert len(CATALOGUE.models) == 90
    assert all(target in CATALOGUE.models for target in CATALOGUE.aliases.values())


def test_levels_and_pmu() -> None:
    """level and xlevel cut leaves off, a feature that is asked for raises them; pmu=off: no 0AH."""
    def table(cpu: str) -> dict[tuple[int, int], list[int]]:
        found = {(row[0], row[1]): list(row[3:]) for row in SUPPORTED}
        found[0xA, 0] = [0x7300402, 0, 0, 0x603]
        cpu_models.apply(parse_cpu(cpu), found)
        return found

    cut = table("host,level=4,xlevel=0x80000004")
    assert (cut[0, 0][0], cut[0x80000000, 0][0]) == (4, 0x80000004)
    assert (7, 0) not in cut
    assert (0x80000008, 0) not in cut
    assert table("pentium3")[0, 0][0] == 3
    assert table("pentium3,+avx2")[0, 0][0] == 7
    assert table("host")[0xA, 0][0]
    assert table("host,pmu=off")[0xA, 0] == [0, 0, 0, 0]


def test_the_hosts_brand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """KVM's table has none: it comes from /proc/cpuinfo, and nothing comes of a strange one."""
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(cpu_models, "CPUINFO", str(file))
    assert cpu_models.host_model_id() == ""
    file.write_text("processor\t: 0\nmodel\t\t: 1\nmodel name\t: A CPU @ 2.60GHz\n")
    assert cpu_models.host_model_id() == "A CPU @ 2.60GHz"
    file.write_bytes(b"\xff\x00")
    assert cpu_models.host_model_id() == ""


class FakeTsc:
    """The part of a Vcpu that set_tsc_khz needs; a KVM without TSC scaling."""

    fd = -1

    def tsc_khz(self) -> int:
        return 2_596_119


@pytest.mark.parametrize("khz", [2_596_119, 2_596_700, 2_595_500])
def test_a_tsc_frequency_near_the_hosts_needs_no_scaling(khz: int) -> None:
    Vcpu.set_tsc_khz(FakeTsc(), khz)  # type: ignore[arg-type]


@pytest.mark.parametrize("khz", [2_500_000, 2_597_000, 1])
def test_another_tsc_frequency_does(khz: int) -> None:
    """In QEMU's words, which end the machine there, too."""
    with pytest.raises(HostError, match=rf"mismatch between VM \({khz} kHz\) and host \(2596119"):
        Vcpu.set_tsc_khz(FakeTsc(), khz)  # type: ignore[arg-type]


def test_tsc_frequency_has_a_leaf_only_in_kvms_place() -> None:
    """VMware's timing leaf; with Hyper-V shown, or vmware-cpuid-freq=off, there is none."""
    for items, there in (("", True), (",hv_time", False), (",vmware-cpuid-freq=off", False)):
        cpu = GuestCpuid(f"host,tsc-frequency=2500000000{items}", SUPPORTED, None, Smp(1, 1, 1, 1))
        assert cpu.tsc_khz == 2_500_000
        assert (cpu.for_vcpu(0).table.get((0x40000010, 0)) == [2_500_000, 1_000_000, 0, 0]) == there


@pytest.mark.parametrize("hertz", ["0", "999999", str(1 << 41)])
def test_impossible_tsc_frequencies(hertz: str) -> None:
    with pytest.raises(ConfigError, match="tsc-frequency"):
        parse_cpu(f"host,tsc-frequency={hertz}")
