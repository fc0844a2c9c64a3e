"""docs/tour.md: every step runs, asserts what the text claims, and prints what the page shows."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.kvm

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "tour.md").read_text()
STEPS = re.findall(r"^## (\d)\. (.*?)$\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
SHELL = re.search(r"^```sh\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
MARK = "---- next step ----"


def block(body: str, kind: str) -> str:
    """Return the one block of *kind* in a step."""
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```$", body, re.DOTALL | re.MULTILINE)
    return found


def plain(output: str) -> list[str]:
    """Return lines, numbers of this host left out."""
    lines = output.strip().splitlines()
    return [re.sub(r"\d+", "#", ln) if ln.startswith("here ") else ln for ln in lines]


@pytest.fixture(scope="module")
def printed() -> list[str]:
    """Run all steps in one process; return what each printed, up to the one that failed."""
    program = f"print({MARK!r}, flush=True)\n".join(block(body, "python") for _, _, body in STEPS)
    done = subprocess.run(
        [sys.executable, "-"], cwd=ROOT, input=program, capture_output=True, text=True, timeout=120
    )
    outputs = done.stdout.split(MARK + "\n")
    if done.returncode:
        outputs[-1] += done.stderr
    return outputs


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step[0]}. {step[1]}")
def test_step(step: tuple[str, str, str], printed: list[str]) -> None:
    """It runs, and prints what stands below it."""
    number, _, body = step
    assert "assert " in block(body, "python") or "except " in block(body, "python")
    assert len(printed) >= int(number), f"an earlier step failed: {printed[-1]}"
    assert plain(printed[int(number) - 1]) == plain(block(body, "text"))


def test_there_are_eight_steps() -> None:
    """As the page says."""
    assert [number for number, *_ in STEPS] == list("12345678")


def test_the_command_in_the_page_runs_it() -> None:
    """What a reader types, word for word."""
    done = subprocess.run(
        ["sh", "-c", SHELL[1]], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert plain(done.stdout) == plain("".join(block(body, "text") for *_, body in STEPS))
