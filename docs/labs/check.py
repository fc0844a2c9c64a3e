#!/usr/bin/env python3
"""Types a lab's commands and compares what they print with the lab's text.

    docs/labs/check.py 3        lab 3, in a copy of its folder
    docs/labs/check.py          all of them

The text is README.md; what stands behind ``$`` in its blocks is typed, the rest of the block is
expected. Numbers in lines that begin with ``here`` are this host's, and not compared; nor is the
reference time.
"""

from __future__ import annotations

import difflib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

LABS = pathlib.Path(__file__).resolve().parent
ROOT = LABS.parents[1]
LIMIT_S = 120
NUMBER = re.compile(r"0x[0-9a-f]+|\d+")
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def labs() -> list[pathlib.Path]:
    """Return the folders, in order."""
    return sorted(path for path in LABS.iterdir() if path.name[:2].isdigit())


def commands(text: str) -> list[tuple[str, str]]:
    """Return (command, expected output) of a lab's text, in order."""
    found = []
    for block in BLOCK.findall(text):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            while command.endswith("\\"):
                more, _, output = output.partition("\n")
                command += "\n" + more
            found.append((command, output))
    return found


def plain(output: str) -> list[str]:
    """Return lines without what is this host's: its numbers, and who serves Hyper-V."""
    lines = [line.rstrip() for line in output.strip().splitlines()]
    lines = [NUMBER.sub("#", line) if line.startswith("here ") else line for line in lines]
    lines = [re.sub(r"\breference time \d+", "reference time #", line) for line in lines]
    return [re.sub(r"\bin_(user|kernel)\b", "in_...", line) for line in lines]


def same(found: str, expected: str) -> bool:
    """Tell whether a command printed what the text says."""
    lost = "; AMD's SVM lost its registers"
    if lost in found:  # then pyhv cannot say why: compared up to there
        found, expected = found.partition(lost)[0], expected.partition(" (status 3)")[0]
    return plain(found) == plain(expected)


def check(lab: pathlib.Path, python: str = sys.executable) -> list[str]:
    """Type the commands of *lab* in a copy of it; return what differs, nothing if all is well."""
    with tempfile.TemporaryDirectory(prefix="pyhv-lab-") as name:
        place = pathlib.Path(name) / "labs" / lab.name
        shutil.copytree(lab, place)
        shutil.copy(LABS / "long.inc", place.parent)
        programs = place.parent / "bin"  # "python3" shall be the one that runs this
        programs.mkdir()
        (programs / "python3").symlink_to(python)
        paths = {"PYTHONPATH": ROOT, "PATH": f"{programs}:{os.environ['PATH']}"}
        for command, expected in commands((lab / "README.md").read_text()):
            done = subprocess.run(
                ["sh", "-c", command], cwd=place, env=os.environ | paths, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                timeout=LIMIT_S,
            )  # fmt: skip
            if not same(done.stdout, expected):
                lines = difflib.unified_diff(
                    plain(expected), plain(done.stdout), "the text", "here", "", "", 9, ""
                )
                return [f"{lab.name}: $ {command}", *lines]
    return []


def main(arguments: list[str]) -> int:
    """Check the labs named by number, or all."""
    wanted = [f"{int(word):02}" for word in arguments]
    status = 0
    for lab in labs():
        if wanted and lab.name[:2] not in wanted:
            continue
        wrong = check(lab)
        print("\n".join(wrong) if wrong else f"{lab.name}: as in the text")
        status |= bool(wrong)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
