"""docs/labs/: the commands of each text are typed, and print what stands below them."""

from __future__ import annotations

import pathlib
import shutil
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
LABS = ROOT / "docs" / "labs"
sys.path.insert(0, str(LABS))

import check  # noqa: E402

LINES = 60
#: What an emulated CPU (QEMU's TCG, as in the nested host) leaves out, and no processor does.
NOT_EMULATED = {
    "02-modes": "it ignores CR0.PG with EFER.LME and without CR4.PAE, where there must be #GP",
}


@pytest.mark.kvm
@pytest.mark.parametrize("lab", check.labs(), ids=lambda lab: lab.name)
def test_lab(lab: pathlib.Path) -> None:
    """A learner who types it sees it."""
    if not (shutil.which("as") and shutil.which("ld")):
        pytest.skip("GNU as and ld are not installed")
    if lab.name in NOT_EMULATED and "QEMU TCG" in pathlib.Path("/proc/cpuinfo").read_text():
        pytest.skip(f"this CPU is emulated: {NOT_EMULATED[lab.name]}")
    assert "\n".join(check.check(lab)) == ""


@pytest.mark.parametrize("lab", check.labs(), ids=lambda lab: lab.name)
def test_form(lab: pathlib.Path) -> None:
    """A goal, commands, questions; code that is short, and each file of it named in the text."""
    text = (lab / "README.md").read_text()
    assert text.startswith(f"# {int(lab.name[:2])}. ")
    assert "**Goal:**" in text
    assert "**Now you**" in text
    assert check.commands(text)
    sources = [path for path in lab.iterdir() if path.suffix in (".S", ".py")]
    assert sources
    for path in sources:
        assert len(path.read_text().splitlines()) < LINES, path.name
        assert f"]({path.name})" in text or path.name in "".join(c for c, _ in check.commands(text))
    assert f"]({lab.name}/README.md)" in (LABS / "README.md").read_text()


def test_numbers() -> None:
    """Numbered without a gap, and no fewer than ten."""
    numbers = [int(lab.name[:2]) for lab in check.labs()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 10


def test_a_difference_is_seen(tmp_path: pathlib.Path) -> None:
    """The checker: a wrong line is told, this host's numbers and AMD's loss are not."""
    lab = tmp_path / "01-x"
    lab.mkdir()
    (lab / "README.md").write_text("```console\n$ echo one \\\n  two\n$ echo here 7\nhere 9\n```\n")
    assert check.check(lab)[0] == "01-x: $ echo one \\\n  two"
    (lab / "README.md").write_text("```console\n$ echo one\none\n$ echo here 7\nhere 0x9\n```\n")
    assert check.check(lab) == []
    assert check.same("a\ntriple fault; AMD's SVM lost its registers (status 3)\nx",
                      "a\ntriple fault (status 3)\nits next\n")  # fmt: skip
    assert not check.same("b; AMD's SVM lost its registers", "a (status 3)")
