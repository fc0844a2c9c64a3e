"""Snapshots of pyhv run, as a user makes them: Ctrl-A s and z, QMP, --restore, and refusals."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator

import guestcode
import pytest
from boot_sector import assemble
from libguest import SECONDS
from test_qmp_guest import session

from pyhv import Machine
from pyhv.snapshotfile import VERSION

pytestmark = pytest.mark.kvm
ROOT = pathlib.Path(__file__).parents[2]
#: answers every byte with a digit one higher; q ends with the next digit as the status
COUNTS = """
        mov $'0', %bl
1:      read_com1
        inc %bl
        cmp $'q', %al
        je 2f
        mov %bl, %al
        out %al, %dx
        jmp 1b
2:      mov %bl, %al
        mov $0xf4, %dx
        out %al, %dx
"""
#: the same for a boot sector, whose bytes come by INT 16h
KEYS = COUNTS[: COUNTS.index("1:")] + "1: xor %ah, %ah\n int $0x16\n mov $0x3f8, %dx\n" + (
    COUNTS[COUNTS.index("        inc %bl") :]
)
SAVED = re.compile(rb"pyhv run --restore (pyhv-\d{8}-\d{6}\.snap) goes on")


def ends_with(digit: str) -> int:
    """Return the status of port 0xf4."""
    return (ord(digit) << 1 | 1) & 0xFF


class Run:
    """pyhv run on a pty of its own, in *folder*."""

    def __init__(self, folder: pathlib.Path, *words: str) -> None:
        self.fd, slave = os.openpty()
        self.output = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pyhv", "run", *words], cwd=folder, start_new_session=True,
            stdin=slave, stdout=slave, stderr=slave, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        os.close(slave)

    def until(self, text: bytes | re.Pattern[bytes]) -> re.Match[bytes]:
        """Wait for *text*; what comes before it is not looked at again."""
        pattern = text if isinstance(text, re.Pattern) else re.compile(re.escape(text))
        deadline = time.monotonic() + SECONDS
        while not (found := pattern.search(self.output)):
            assert time.monotonic() < deadline, self.output
            self.read()
        self.output = self.output[found.end() :]
        return found

    def read(self) -> None:
        if select.select([self.fd], [], [], 0.1)[0]:
            with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
                self.output += os.read(self.fd, 65536)

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def save(self, key: str) -> str:
        """Press Ctrl-A and *key*, return the name of the file."""
        self.type(f"\x01{key}")
        return self.until(SAVED)[1].decode()

    def status(self) -> int:
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.output
            self.read()
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.fd)


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Iterator[object]:
    """Start pyhv run in an empty folder."""
    made: list[Run] = []

    def start(*words: str) -> Run:
        made.append(Run(tmp_path, *words))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_ctrl_a_s_and_back_twice(run, driver: str) -> None:
    """It goes on after the save; each --restore begins at the same moment."""
    first = run("-kernel", guestcode.sector(COUNTS), "-m", "2M", "--hyperv", driver)
    first.until(b"2 MiB")
    first.type("aa")
    first.until(b"12")
    name = first.save("s")
    first.type("a")
    first.until(b"3")
    first.type("\x01x")
    assert first.status() == 130
    for _ in range(2):
        again = run("--restore", name)
        again.until(re.compile(rf"from {re.escape(name)} of 20\d\d-.*: the kernel .*".encode()))
        again.type("a")
        again.until(b"3")
        again.type("q")
        assert again.status() == ends_with("4")


def test_ctrl_a_z_with_a_disk_that_is_written(run, tmp_path: pathlib.Path) -> None:
    """The image is as the guest left it; later writes make the snapshot void."""
    disk = tmp_path / "disk.img"
    os.rename(assemble(tmp_path, KEYS), disk)
    first = run("-m", "2M", "disk.img")
    first.until(b"2 MiB")
    first.type("a")
    first.until(b"1")
    kept = first.save("s")
    first.until(b"disk.img is not in it")
    time.sleep(1)  # the next file's name
    name = first.save("z")
    assert first.status() == 130
    for each in (kept, name):
        again = run("--restore", each)
        again.type("q")
        assert again.status() == ends_with("2")
    disk.write_bytes(disk.read_bytes())
    void = run("--restore", name)
    assert void.status() == 2
    void.until(b"pyhv: disk disk.img: changed since the snapshot was taken")


def test_with_a_time_limit_and_standing(run) -> None:
    """Options that are not the machine's are the command line's own."""
    first = run("-kernel", guestcode.sector(COUNTS), "-m", "2M", "--time-limit", "1000")
    first.until(b"2 MiB")
    first.type("a")
    first.until(b"1")
    name = first.save("z")
    limited = run("--restore", name, "--time-limit", "0.5")
    assert limited.status() == 124
    standing = run("--restore", name, "-S", "--time-limit", "2")
    standing.type("q")
    assert standing.status() == 124


def test_by_qmp(tmp_path: pathlib.Path, run) -> None:
    async def conversation(client) -> None:
        await client.execute("cont")
        await client.execute("x-snapshot-to-file", {"filename": str(tmp_path / "by.snap")})
        assert (await client.execute("query-status"))["status"] == "running"
        await client.execute("quit")

    assert session(tmp_path, guestcode.sector(COUNTS), conversation, "-cpu", "host") == 130
    again = run("--restore", "by.snap")
    again.type("q")
    assert again.status() == ends_with("1")


@pytest.fixture
def snap(tmp_path: pathlib.Path) -> pathlib.Path:
    """The file of a machine that has not run."""
    path = tmp_path / "x.snap"
    with (
        Machine(kernel=guestcode.sector(COUNTS), memory="2M", cpu="host") as vm,
        vm.snapshot() as snapshot,
    ):
        snapshot.save(path)
    return path


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda data: data[:-4096], "cut short: "),
        (lambda data: data[:20], "cut short: 20 bytes"),
        (lambda data: b"QFI\xfb" + data[4:], "not a snapshot of pyhv; Snapshot.save() writes one"),
        (lambda data: b"", "not a snapshot of pyhv; Snapshot.save() writes one"),
        (lambda data: data[:5000] + b"!" + data[5001:], "damaged: its state's checksum is wrong"),
        (lambda data: data[:8] + b"\x63" + data[9:], f"version 99, this pyhv has {VERSION}"),
    ],
)
def test_files_that_are_refused(snap: pathlib.Path, run, spoil, text: str) -> None:
    snap.write_bytes(spoil(snap.read_bytes()))
    found = run("--restore", "x.snap")
    assert found.status() == 2
    found.read()
    lines = found.output.decode().strip().splitlines()
    assert len(lines) == 1
    assert f"pyhv: snapshot x.snap: {text}" in lines[0]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-m", "4M"], "-m: with --restore the machine is the snapshot's"),
        (["-nic", "user"], "-nic: with --restore"),
        (["disk.img"], "disk.img: with --restore"),
        (["-snapshot"], "-snapshot: with --restore"),
    ],
)
def test_options_of_the_machine_are_refused(snap: pathlib.Path, run, words, text: str) -> None:
    found = run("--restore", "x.snap", *words)
    assert found.status() == 2
    found.until(f"pyhv: {text}".encode())


def test_a_file_that_is_not_there(run) -> None:
    found = run("--restore", "none.snap")
    assert found.status() == 1
    found.until(b"pyhv: snapshot none.snap: No such file or directory")


def test_a_folder_that_is_not_there(tmp_path: pathlib.Path) -> None:
    """What goes wrong with Ctrl-A s and z is a line, and the guest goes on."""
    folder = tmp_path / "gone"
    folder.mkdir()
    first = Run(folder, "-kernel", guestcode.sector(COUNTS), "-m", "2M")
    try:
        first.until(b"2 MiB")
        first.type("a")
        first.until(b"1")
        folder.rmdir()
        for key in "sz":
            first.type(f"\x01{key}")
            first.until(re.compile(rb"pyhv: snapshot pyhv-.*\.snap: No such file or directory"))
        first.type("q")
        assert first.status() == ends_with("2")
    finally:
        first.close()
