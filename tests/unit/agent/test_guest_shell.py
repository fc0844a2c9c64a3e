"""run, push and pull with real shells on a terminal, with tools and with next to none."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time

import pytest
from ptyshell import PtyShell

from pyhv.agent import files
from pyhv.agent.shell import GuestShell, GuestTimeout, Refused
from pyhv.errors import ConfigError, HostError

SHELLS = {
    "dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "ash"],
}  # fmt: skip
EVERY = bytes(range(256))
AWKWARD = b"\x00\r\n\n\r\r\n tab\t\x03\x04\x11\x13\x1c\x7f\xff"
S, LIMIT = 20.0, 1 << 20


HERE = [name for name in SHELLS if shutil.which(SHELLS[name][0])]


@pytest.fixture(params=[*HERE, "nothing but a shell"])
def shell(request: pytest.FixtureRequest, tmp_path):
    """Every shell of this host; the last one finds no stty, setsid and base64."""
    command, path = SHELLS.get(request.param, [shutil.which("sh")]), None
    if request.param not in SHELLS:
        path = str(tmp_path / "bin")
        os.mkdir(path)
        for program in ("sh", "cat", "dd", "chmod", "sleep", "seq"):
            os.symlink(shutil.which(program), f"{path}/{program}")
    made = PtyShell(command, path)
    yield made
    made.close()


def run(shell: PtyShell, command: str | bytes, timeout: float = S, stdin: bytes = b""):
    return shell.guest.run(command, timeout, LIMIT, stdin)


def test_both_streams_and_the_status(shell) -> None:
    done = run(shell, "echo out; echo err >&2; exit 3")
    assert done[:3] == (3, b"out\n", b"err\n")
    assert done.text == "out\n"
    assert 0 < done.duration < S
    assert run(shell, b"true")[:3] == (0, b"", b"")
    assert run(shell, "kill -9 $$").status == 137


def test_any_byte_both_ways(shell) -> None:
    octal = "".join(f"\\{byte:03o}" for byte in AWKWARD)
    assert run(shell, f"printf '{octal}'").stdout == AWKWARD
    assert run(shell, "cat", stdin=EVERY * 20).stdout == EVERY * 20
    assert run(shell, "printf '%s' 'it'\\''s \\\\ \u00fc\n\n'").text == "it's \\\\ \u00fc\n\n"
    assert run(shell, b"printf %s '\x80\xff\x1b'").stdout == b"\x80\xff\x1b"


def test_a_long_command(shell) -> None:
    words = " ".join(str(number) for number in range(4000))
    assert run(shell, f"echo {words}").text == words + "\n"
    with pytest.raises(ConfigError, match="over 64 KiB"):
        run(shell, "x" * 70000)
    with pytest.raises(ConfigError, match="NUL"):
        run(shell, "a\0b")


def test_a_command_that_does_not_end_is_killed(shell, tmp_path) -> None:
    begin = time.monotonic()
    with pytest.raises(GuestTimeout, match=r"(?s)run 'echo.*not done after 0.* \| tail") as late:
        run(shell, f"echo part; echo err >&2; sleep 1; echo >{tmp_path}/went-on", 0.6)
    assert time.monotonic() - begin < 1
    assert late.value.stdout == b"part\n"
    assert run(shell, "echo next").text == "next\n"
    time.sleep(0.6)
    assert not (tmp_path / "went-on").exists()


def test_a_flood_is_cut_and_ends_at_its_time(shell) -> None:
    with pytest.raises(GuestTimeout) as late:
        run(shell, "while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done", 0.6)
    assert 0 < len(late.value.stdout) <= LIMIT
    done = shell.guest.run("seq 100000", S, 100, b"")
    assert done.truncated
    assert done.stdout == b"".join(b"%d\n" % number for number in range(1, 40))[:100]


def test_what_it_leaves_behind_holds_nobody_up(shell) -> None:
    assert run(shell, "sleep 5 & echo started", 3).text == "started\n"


def test_files(shell, tmp_path) -> None:
    data = AWKWARD + os.urandom(70_000) + EVERY
    source, there = tmp_path / "source", tmp_path / "it's here"
    source.write_bytes(data)
    source.chmod(0o755)
    files.push(shell.guest, source, str(there), S)
    assert there.read_bytes() == data
    assert os.access(there, os.X_OK)
    pieces: list[bytes] = []
    files.pull(shell.guest, str(there), pieces.append, S)
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= files.READ_BYTES
    files.push(shell.guest, b"", str(there), S)
    assert there.read_bytes() == b""
    pieces.clear()
    files.pull(shell.guest, str(there), pieces.append, S)
    assert not pieces


def test_what_the_shell_says_of_a_path(shell, tmp_path) -> None:
    guest = shell.guest
    with pytest.raises(Refused, match="push /nowhere/x: open: .*/nowhere/x"):
        files.push(guest, b"x", "/nowhere/x", S)
    with pytest.raises(Refused, match="pull /nowhere: open: .*/nowhere"):
        files.pull(guest, "/nowhere", print, S)
    os.mkfifo(tmp_path / "pipe")
    for path in ("/", str(tmp_path / "pipe")):
        with pytest.raises(Refused, match="a pipe or a folder"):
            files.pull(guest, path, print, S)
    if os.path.exists("/dev/full"):
        with pytest.raises(Refused, match="push /dev/full: "):
            files.push(guest, b"x" * 10000, "/dev/full", S)
    with pytest.raises(ConfigError, match="no path"):
        files.push(guest, b"", "a\0b", S)
    with pytest.raises(ConfigError, match="push /nowhere: No such file"):
        files.push(guest, "/nowhere", "/tmp/x", S)
    assert run(shell, "echo there").text == "there\n"


def test_a_shell_that_was_replaced_is_noticed(shell, monkeypatch) -> None:
    """The root changes, or the loop starts another: its functions are not there."""
    monkeypatch.setattr("pyhv.agent.shell.ALIVE_S", 0.3)
    assert run(shell, "echo one").text == "one\n"
    shell.guest._offer(b"exec sh $0\n")
    assert run(shell, "echo two").text == "two\n"


def test_one_at_a_time(shell) -> None:
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        found[number] = run(shell, f"echo {number}; sleep 0.05; echo {number}").text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: f"{number}\n{number}\n" for number in range(8)}


@pytest.fixture
def dash():
    made = PtyShell(["dash"])
    yield made
    made.close()


def test_others_wait_no_longer_than_they_said(dash) -> None:
    first = threading.Thread(target=lambda: run(dash, "sleep 1"))
    first.start()
    time.sleep(0.3)
    with pytest.raises(GuestTimeout, match="another one had the shell"):
        run(dash, "true", 0.2)
    first.join()


def test_a_machine_that_stops_is_noticed(dash) -> None:
    threading.Timer(0.2, lambda: setattr(dash, "gone", "the machine does not run")).start()
    with pytest.raises(ConfigError, match="run 'sleep 10': the machine does not run"):
        run(dash, "sleep 10")


def test_a_reset_ends_what_was_asked(dash) -> None:
    threading.Timer(0.2, dash.guest.renew).start()
    with pytest.raises(HostError, match="the guest was reset meanwhile"):
        run(dash, "sleep 10")
    assert run(dash, "echo again").text == "again\n"


def test_a_reset_before_anything_was_asked_is_waited_for() -> None:
    """Machine.reset() returns before the reset: the next call may begin in the old life."""
    typed: list[bytes] = []
    guest = GuestShell(lambda data: typed.append(data) or len(data), lambda: None, str, "none")
    threading.Timer(0.2, guest.renew).start()
    with pytest.raises(GuestTimeout, match="no shell answered"):
        guest.run("true", 0.6, LIMIT, b"")
    assert len(typed) >= 2


def test_the_shell_died(dash, monkeypatch) -> None:
    monkeypatch.setattr("pyhv.agent.shell.ALIVE_S", 0.3)
    monkeypatch.setattr("pyhv.agent.shell.PROBE_S", 0.3)
    assert run(dash, "true").status == 0
    dash.process.kill()
    with pytest.raises(GuestTimeout, match="no shell answered in 1 s; start one"):
        run(dash, "true", 1)


class Liar:
    """A guest that answers every line with the same thing."""

    def __init__(self, answer) -> None:
        self.answer, self.typed = answer, b""
        self.guest = GuestShell(self._offer, lambda: None, lambda: "", "start one")

    def _offer(self, data: bytes) -> int:
        self.typed += data
        for text in self.answer(data):
            self.guest.feed(text)
        return len(data)


def nonce(data: bytes) -> bytes:
    words = data.replace(b"$9", b" ").replace(b".\n", b" ").split()
    return next((word for word in words if len(word) == 16), b"")


@pytest.mark.parametrize(
    "lie",
    [b"> 0\n", b"<\n> x\n", b"<\n\xff\xff> 999\n", b".\n", b"<\n", b"<x", bytes(5000)],
    ids=repr,
)
def test_nonsense_for_an_answer(lie: bytes) -> None:
    liar = Liar(lambda data: [b"pyhv" + nonce(data) + b".\n", b"pyhv" + nonce(data) + lie])
    with pytest.raises(HostError):
        liar.guest.run("true", 0.4, LIMIT, b"")


def test_one_that_never_reads() -> None:
    guest = GuestShell(lambda data: 0, lambda: None, lambda: "", "start one")
    with pytest.raises(GuestTimeout, match="no shell answered"):
        guest.run("true", 0.3, LIMIT, b"")


def test_typed_lines_are_printable_and_short(dash) -> None:
    """What a terminal acts on is never sent; until it is known to be raw, lines are short."""
    typed: list[bytes] = []
    offer = dash.guest._offer

    def spy(data: bytes) -> int:
        taken = offer(data)
        typed.append(data[:taken])
        return taken

    dash.guest._offer = spy
    run(dash, "cat", stdin=EVERY)
    text = b"".join(typed)
    assert all(byte == 10 or 32 <= byte < 127 for byte in text)
    assert max(map(len, text.split(b"\n"))) <= 8300
    assert not subprocess.run(["sh", "-n"], input=text, check=False).returncode
