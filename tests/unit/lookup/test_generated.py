"""What is printed from the tables: completion, the manual page, a page of docs per flag."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from pyhv import cli, options
from pyhv.hyperv.flags import FLAGS
from pyhv.lookup import commands, completion

ROOT = Path(__file__).parents[3]


def completed(*words: str) -> list[str]:
    """Return what bash offers after *words*, of which the last one is unfinished."""
    line = " ".join(f"'{word}'" for word in words)
    script = (
        completion.bash()
        + f"\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _pyhv; printf '%s\\n' "
        '"${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("pyhv", "expl"), ["explain"]),
        (("pyhv", "c"), ["connect", "caps", "cpuid", "completion"]),
        (("pyhv", "run", "-sm"), ["-smp"]),
        (("pyhv", "run", "-cpu", "ho"), ["host"]),
        (("pyhv", "run", "-cpu", "host,hv_ti"), ["host,hv_time"]),
        (("pyhv", "run", "-cpu", "host,hv_time,hv_vpi"), ["host,hv_time,hv_vpindex"]),
        (("pyhv", "caps", "--against", "host,hv_evm"), ["host,hv_evmcs"]),
        (("pyhv", "explain", "--hv", "win"), ["windows"]),
        (("pyhv", "run", "--hyperv", "k"), ["kernel"]),
        (("pyhv", "caps", "--d"), ["--diff"]),
        (("pyhv", "run", "-cpu", "Skylake-Server-v"), [f"Skylake-Server-v{n}" for n in "12345"]),
        (("pyhv", "run", "-cpu", "host,kvm", "=", "off,hv_ti"), ["off,hv_time"]),
        (("pyhv", "run", "-cpu", "host,kvm", "=", "of"), ["off"]),
        (("pyhv", "run", "-cpu", "host,kvm", "="), ["on", "off"]),
        (("pyhv", "explain", "--hv", "=", "win"), ["windows"]),
        (("pyhv", "run", "--trace-format", ""), ["text", "jsonl", "chrome", "ladder"]),
        (("pyhv", "run", "-M", "pc-q35-6"), [f"pc-q35-6.{n}" for n in range(3)]),
        (("pyhv", "completion", "f"), ["fish"]),
    ],
)
def test_bash_offers(words, offered) -> None:
    assert completed(*words) == offered


FISH = [
    ("pyhv cap", ["caps"]),
    ("pyhv run -cpu host,kvm=off,hv_ti", ["host,kvm=off,hv_time"]),
    ("pyhv run -cpu EPYC-Ge", ["EPYC-Genoa", "EPYC-Genoa-v1"]),
    ("pyhv explain --hv win", ["windows"]),
    ("pyhv run --hyperv k", ["kernel"]),
    ("pyhv completion z", ["zsh"]),
]


@pytest.mark.skipif(not shutil.which("fish"), reason="no fish here")
@pytest.mark.parametrize(("line", "offered"), FISH)
def test_fish_offers(line, offered) -> None:
    script = f"{completion.fish()}\ncomplete -C '{line}'"
    done = subprocess.run(["fish", "-N", "-c", script], capture_output=True, text=True, check=True)
    assert sorted(row.split("\t")[0] for row in done.stdout.splitlines()) == offered


def test_files_are_offered(tmp_path) -> None:
    (tmp_path / "disk.img").touch()
    assert completed("pyhv", "run", str(tmp_path / "di")) == [str(tmp_path / "disk.img")]


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_each_shell_has_every_command_and_option(shell, capfd) -> None:
    assert cli.main(["completion", shell]) == 0
    text = capfd.readouterr().out
    for name, words in completion.command_words().items():
        assert name in text
        assert all(word.lstrip("-") in text for word in words)
    program = shutil.which(shell)
    if program:
        subprocess.run([program, "-n"], input=text, text=True, check=True)


def test_an_unknown_shell(capfd) -> None:
    assert cli.main(["completion", "csh"]) == 2
    assert capfd.readouterr().err == "pyhv: completion csh: which shell? bash, zsh, fish\n"


def test_manual_page() -> None:
    """docs/pyhv.1 is what the tool prints now; every option and command is in it."""
    page = runpy.run_path(str(ROOT / "tools" / "print_man.py"))["page"]()
    shown = (ROOT / "docs" / "pyhv.1").read_text()
    assert shown == page, "python tools/print_man.py > docs/pyhv.1"
    plain = page.replace("\\-", "-")
    assert all(name in plain for option in options.OPTIONS for name in option.names[:1])
    assert all(f"pyhv {name}" in plain for name in commands.COMMANDS)
    assert not re.search(r"^\.(?!TH |SH |SS |TP|B |BR |PP|nf|fi|br)", page, re.M)


def test_pages_of_the_flags() -> None:
    """docs/flags/ is what the tool writes now, a page per flag and an index."""
    pages = runpy.run_path(str(ROOT / "tools" / "print_flag_pages.py"))["pages"]()
    folder = ROOT / "docs" / "flags"
    assert {path.name: path.read_text() for path in folder.iterdir()} == pages, (
        "python tools/print_flag_pages.py"
    )
    assert set(pages) == {f"{name}.md" for name in FLAGS} | {"README.md"}
    for text in pages.values():
        for target in re.findall(r"\]\(([^)]+)\)", text):
            assert target in pages


DOCS = (ROOT / "docs" / "lookup.md").read_text()
BLOCKS = re.findall(r"```console\n\$ pyhv (.*)\n((?s:.*?))```", DOCS)


@pytest.mark.parametrize(("line", "shown"), BLOCKS, ids=[line[:40] for line, _ in BLOCKS])
def test_docs_show_what_is_printed(line, shown, monkeypatch, capfd) -> None:
    monkeypatch.chdir(ROOT)
    cli.main(line.split())
    out, err = capfd.readouterr()
    assert out + err == shown


def test_docs_have_blocks() -> None:
    assert len(BLOCKS) >= 4
