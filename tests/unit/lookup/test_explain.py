"""explain: every row of its knowledge, every form of input, the corrected text, both exports."""

from __future__ import annotations

import json
import shlex

import pytest

from pyhv import cli
from pyhv.errors import ConfigError
from pyhv.hyperv.flags import FLAGS, ROWS
from pyhv.hyperv.presets import PRESETS
from pyhv.lookup import commands, explain, libvirt, source
from pyhv.lookup.arguments import command_line_last, help_text, parse
from pyhv.lookup.knowledge import KNOWLEDGE
from pyhv.lookup.names import BITS

DOMAIN = """<domain type='kvm'>
 <features><hyperv mode='custom'>
  <relaxed state='on'/><vapic state='on'/><spinlocks state='on' retries='8191'/>
  <vpindex state='on'/><synic state='on'/><runtime state='off'/>
  <stimer state='on'><direct state='on'/></stimer>
  <vendor_id state='on' value='PyHV'/></hyperv><kvm><hidden state='on'/></kvm></features>
 <cpu mode='host-passthrough'><feature policy='disable' name='hypervisor'/></cpu>
 <clock offset='localtime'><timer name='hypervclock' present='yes'/></clock>
 <devices><panic model='hyperv'/></devices></domain>"""
DOMAIN_CPU = (
    "host,kvm=off,hv-relaxed,hv-vapic,hv-spinlocks=8191,hv-vpindex,hv-synic,hv-stimer,"
    "hv-vendor-id=PyHV,hv-stimer-direct,hv-time,hv-crash,hypervisor=off"
)


def run(*arguments: str) -> tuple[str, int]:
    return explain.main(list(arguments))


def test_every_flag_has_a_row_of_knowledge_and_none_is_extra() -> None:
    assert set(KNOWLEDGE) == set(FLAGS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_of_knowledge_is_complete(row) -> None:
    """It says something of everything, agrees with the flag table, and its flags exist."""
    known = KNOWLEDGE[row.name]
    assert all(text for field, text in known._asdict().items()
               if field not in ("libvirt", "element", "tlfs"))  # fmt: skip
    assert bool(known.libvirt) == bool(known.element)
    assert set(known.tlfs) <= set(FLAGS)
    version = row.libvirt.rpartition(", ")[2]
    if "(" in version:  # the flag table has libvirt's version, and QEMU's in parentheses
        assert version == f"{known.libvirt} ({known.qemu})"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_bit_of_a_flag_has_a_name(row) -> None:
    for bits in row.bits:
        mask = bits.mask if row.name != "hv-evmcs" else bits.mask & ~0xFFFF
        names = BITS[bits.leaf, bits.register]
        assert all(bit in names for bit in range(32) if mask >> bit & 1)


@pytest.mark.parametrize("name", FLAGS)
def test_every_flag_is_explained_within_80_columns(name, capfd) -> None:
    values = {"string": "=PyHV", "onoffauto": "=auto", "bool": ""}
    text, _ = run(f"host,{name}{values.get(FLAGS[name].kind, '=7')}")
    assert FLAGS[name].meaning.split()[0] in text
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("-cpu")]
    assert max(map(len, lines)) <= 80
    assert "\033" not in text


def test_all_that_is_missing_is_named_and_the_corrected_text_is_good() -> None:
    text, status = run("host,hv_stimer_direct,hv_evmcs")
    assert status == 2
    good = "-cpu host,hv_stimer_direct,hv_evmcs,hv_vapic,hv_stimer,hv_time,hv_synic,hv_vpindex"
    assert set(run("host,hv_stimer_direct,hv_evmcs", "--to-qemu")[0][5:].split(",")) == set(
        good[5:].split(",")
    )
    assert "requires Hyper-V virtual APIC (hv-vapic)" in " ".join(text.split())
    corrected = run("host,hv_stimer_direct,hv_evmcs", "--to-qemu")[0].removeprefix("-cpu ")
    assert run(corrected)[1] == 0


@pytest.mark.parametrize(
    ("words", "cpu"),
    [
        (["hv_time"], "host,hv_time"),
        (["qemu64,+hv-time,-x2apic"], "qemu64,+hv-time,-x2apic"),
        (["Skylake-Server-v4,vmx=on,hv-relaxed"], "Skylake-Server-v4,vmx=on,hv-relaxed"),
        (["qemu-system-x86_64", "-accel", "kvm", "-cpu", "max,hv-ipi"], "max,hv-ipi"),
        (["qemu-system-x86_64 -enable-kvm \\\n -cpu 'host,hv_time' -m 1G"], "host,hv_time"),
        (["pyhv run -cpu host,hv_time disk.img"], "host,hv_time"),
        ([DOMAIN], DOMAIN_CPU),
        (["<hyperv><relaxed/></hyperv>"], "host,hv-relaxed"),
        (["<domain><features><hyperv><avic/></hyperv></features></domain>"], "qemu64,hv-avic"),
        (["<hyperv mode='passthrough'/>"], "host,hv-passthrough"),
    ],
)
def test_forms_of_input(words, cpu) -> None:
    assert source.read(words).cpu == cpu


def test_a_file_and_standard_input(tmp_path, monkeypatch) -> None:
    path = tmp_path / "domain.xml"
    path.write_text(DOMAIN)
    assert source.read([str(path)]).cpu == DOMAIN_CPU
    with path.open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert source.read(["-"]).cpu == DOMAIN_CPU


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_whole(name) -> None:
    """No preset lacks a flag; what is explained is the text of the preset."""
    text, status = run("--hv", name)
    assert status == 0
    assert f"-cpu {source.preset_cpu(name)}\n" in text


@pytest.mark.parametrize("row", [r for r in ROWS if KNOWLEDGE[r.name].element],
                         ids=lambda row: row.name)  # fmt: skip
def test_to_libvirt_and_back(row) -> None:
    """Each flag that libvirt has comes back as itself."""
    values = {"hv-spinlocks": "=4096", "hv-vendor-id": "=PyHV"}
    text, _ = run(f"host,kvm=off,{row.name}{values.get(row.name, '')}", "--to-libvirt")
    whole = f"<domain>{text}</domain>"
    again = source.read([whole])
    given = source.read([run(f"host,{row.name}{values.get(row.name, '')}", "--to-qemu")[0][5:]])
    parents = {"hv-stimer-direct": {"hv-stimer"}, "hv-tlbflush-ext": {"hv-tlbflush"},
               "hv-tlbflush-direct": {"hv-tlbflush"}}.get(row.name, set())  # fmt: skip
    assert set(again.hv) == set(given.hv) | parents
    assert again.hv[row.name] == given.hv[row.name]
    assert not again.kvm


def test_what_libvirt_has_not_is_said() -> None:
    assert "<!-- hv-syndbg: libvirt has no element" in run("hv-syndbg", "--to-libvirt")[0]


def test_fewer_retries_than_libvirt_takes_are_said() -> None:
    assert "<!-- hv-spinlocks=100: libvirt wants" in run("host,hv_spinlocks=100", "--to-libvirt")[0]
    assert "<!--" not in run("host,hv_spinlocks=8191", "--to-libvirt")[0]


@pytest.mark.parametrize("cpu", ["host,hv-vendor-id=Microsoft Hv,hv_time", "host,l3-cache=on,+vmx"])
def test_what_is_right_is_not_minded(cpu) -> None:
    """A value with a space; properties of QEMU that only pyhv has not."""
    assert "no such" not in run(cpu)[0]


def test_json_has_what_the_text_has() -> None:
    found = json.loads(run("host,hv_stimer", "--json")[0])
    assert found["corrected"] == "host,hv_stimer,hv_time,hv_synic,hv_vpindex"
    assert len(found["problems"]) == 3
    assert found["flags"][0]["requires"] == ["hv-time", "hv-synic"]
    assert found["cpuid"][0][:3] == [0x40000000, 0, 0x40000005]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("host,hv_time", "without hv-vpindex Linux"),
        ("host,hv_time", "without kvm=off"),
        ("host,hv_passthrough", "no migration"),
        ("host,hv_vendor_id=x,hv_relaxed", "'Microsoft Hv' only"),
        ("host,hv_vendor_id=x", "none of these flags switches"),
        ("host,hv_reenlightenment", "tsc-frequency="),
        ("host,hv_emsr_bitmap", "on AMD only"),
        ("host,hv_no_nonarch_coresharing=auto,hv_relaxed", "blocks migration"),
        ("host,hv_enforce_cpuid,hv_relaxed", "VP_ASSIST_PAGE faults"),
        ("qemu-system-x86_64 -cpu host,hv_relaxed", "under TCG QEMU ignores"),
        (
            "qemu-system-x86_64 -enable-kvm -M pc-i440fx-6.1 -cpu host,hv_relaxed",
            "hv-version-id-build=0x1bbc",
        ),
        ("qemu-kvm -accel kvm -M pc-q35-99.9 -cpu host,hv_relaxed", "not one of QEMU 10.0"),
        ("qemu -accel kvm -cpu host,hv_relaxed -device vmbus-bridge", "needs hv-synic"),
        ("qemu -cpu host -cpu max,hv_relaxed", "the last one counts"),
        ("Haswel,hv_vpindex", "no CPU model 'Haswel'; did you mean Haswell?"),
        ("host,hyperv_time,kvm=off", "hyperv_time: no such CPU flag; did you mean hv-time?"),
        ("host,+svmm,kvm=off", "+svmm: no such CPU flag; did you mean svm?"),
        ("host,hv_vendor_id=a,b", "b: no such CPU flag"),
        ("<hyperv><spinlocks retries='5'/></hyperv>", "libvirt wants 4095 or more"),
    ],
)
def test_warnings(text, hint) -> None:
    shown, status = run(text)
    assert hint in " ".join(shown.split())
    assert status == 0
    assert run(text, "--strict")[1] == 1


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "nothing to explain"),
        (["host,hv_tiem"], "did you mean hv_time?"),
        (["host,hv_tiem,hv_foo"], "hv_foo: no such CPU flag"),
        (["host,hv_spinlocks=abc"], "expects uint64"),
        (["qemu-system-x86_64 -m 4G"], "there is no -cpu in it"),
        (["qemu-system-x86_64", "-m", "4G"], "there is no -cpu in it"),
        (["-cpu"], "it ends after -cpu"),
        (["qemu-system-x86_64 -cpu"], "it ends after -cpu"),
        (["qemu-system-x86_64 -cpu 'host,hv"], "no closing quotation; was it cut short?"),
        (["<domain><features>"], "XML: line 1: "),
        (["<!DOCTYPE x [<!ENTITY a 'b'>]><domain>&a;</domain>"], "it has a DOCTYPE"),
        (["<x/>"], "XML: <x>: wanted <domain>"),
        (["<hyperv mode='x'/>"], "<hyperv mode='x'>"),
        (["<hyperv><vapic state='2'/></hyperv>"], "on or off"),
        (["<a>" * 200], "nested more than 100 deep"),
        (["/nonexistent/x.xml"], "No such file"),
        (["/nonexistent/x\n.xml"], "/nonexistent/x?.xml: No such file"),
        (["\x01\x02"], "no CPU model at its begin"),
        (["--hv", "vista"], "no such preset"),
        (["--hv", "linux", "host"], "one of them"),
        (["--jsn", "host"], "did you mean --json?"),
        (["--hv"], "needs a value"),
    ],
)
def test_wrong_input_gets_one_line(words, error, capfd) -> None:
    assert cli.main(["explain", *words]) == 2
    out, err = capfd.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert error in err


@pytest.mark.parametrize("name", ["explain", "cpuid"])
@pytest.mark.parametrize(
    ("data", "error"),
    [
        (bytes(range(128, 256)) * 4, "binary data"),
        (b"a\0b", "binary data"),
        (b"what is this", "no "),
    ],
)
def test_a_file_that_is_something_else(name, data, error, tmp_path, capfd) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    assert cli.main([name, str(path)]) == 2
    err = capfd.readouterr().err
    assert f"{path}: {error}" in err
    assert err.count("\n") == 1


def test_an_old_machine_type_changes_the_picture() -> None:
    """Leaf 2 of QEMU's machines up to 6.1; hv-synic alone is whole up to 3.0."""
    line = "qemu -accel kvm -M {} -cpu host,hv_relaxed,hv_synic"
    assert "40000002 00001bbc 00060001" in run(line.format("pc-i440fx-3.0"))[0]
    assert run(line.format("pc-i440fx-3.0"))[1] == 0
    assert run(line.format("pc-q35-3.1"))[1] == 2


def test_a_preset_beside_a_cpu_of_a_pyhv_command_line() -> None:
    found = source.read(["pyhv run --hv linux -cpu qemu64,hv_ipi x.img"])
    assert found.cpu.startswith("qemu64,kvm=off,hv_relaxed,")
    assert found.cpu.endswith(",hv_ipi")


def test_libvirts_own_command_line_wins() -> None:
    text = """<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
      <qemu:commandline><qemu:arg value='-cpu'/><qemu:arg value='max,hv_time'/>
      </qemu:commandline></domain>"""
    assert libvirt.cpu_of(libvirt.parse_xml(text))[0] == "max,hv_time"


@pytest.mark.parametrize("command", commands.COMMANDS.values(), ids=lambda c: c.name)
def test_help_fits_and_names_every_switch(command, capfd) -> None:
    assert cli.main([command.name, "--help"]) == 0
    shown = capfd.readouterr().out
    assert shown == help_text(command) + "\n"
    assert max(map(len, shown.splitlines())) <= 80
    assert all(name in shown for switch in command.switches for name in switch.names)
    assert command.summary


EXAMPLES = [line for command in commands.COMMANDS.values() for line in command.examples]


@pytest.mark.parametrize("line", [line for line in EXAMPLES if line.startswith("pyhv explain")])
def test_an_example_of_the_help_can_be_typed(line, capfd) -> None:
    status = cli.main(shlex.split(line)[1:])
    out, err = capfd.readouterr()
    assert out
    assert not err
    assert status == (2 if "Wrong:" in out else 0)


@pytest.mark.parametrize(
    ("words", "cpu"),
    [
        ("qemu-system-x86_64 -enable-kvm -cpu host,hv_relaxed -m 4G --strict", "host,hv_relaxed"),
        ("--to-qemu /usr/bin/qemu-kvm -accel kvm -M q35 -cpu max,hv-ipi", "max,hv-ipi"),
        ("-cpu host,hv_time --json", "host,hv_time"),
        ("-cpu=host,hv_time", "host,hv_time"),
        ("--json -enable-kvm -cpu host,hv_time", "host,hv_time"),
        ("python3 -m pyhv run -cpu host,hv_vapic disk.img", "host,hv_vapic"),
        ("kvm.xml --json", None),
    ],
)
def test_a_command_line_as_it_is(words, cpu) -> None:
    """Its options are not taken for ours; ours may stand before or behind it."""
    parsed = parse(commands.EXPLAIN, command_line_last(commands.EXPLAIN, words.split()))
    ours = [word for word in words.split() if word in ("--strict", "--to-qemu", "--json")]
    assert ["--" + key for key in parsed.values] == ours
    assert (source.read(parsed.words).cpu if cpu else None) == cpu


def test_the_table_of_commands_is_the_one_of_the_command_line() -> None:
    assert tuple(commands.COMMANDS) == cli.LOOKUP


def test_switches_are_parsed_anywhere() -> None:
    parsed = parse(commands.EXPLAIN, ["x", "--hv=linux", "-json", "--", "--y"])
    assert parsed.words == ["x", "--y"]
    assert parsed.values == {"hv": "linux", "json": ""}
    with pytest.raises(ConfigError):
        parse(commands.EXPLAIN, ["--json=x"])
