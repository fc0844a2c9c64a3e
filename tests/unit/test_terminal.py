"""pyhv run on a pty: raw mode given back on every way out, the Ctrl-A keys, signals, pipes."""

from __future__ import annotations

import fcntl
import os
import pathlib
import select
import signal
import subprocess
import sys
import termios
import time

import pytest

from pyhv.terminal import KEYS, Escape, keys_help

FAKE = pathlib.Path(__file__).with_name("fake_machine.py")
LONG = 10.0
CTRL_A = b"\x01"


# the escape key


def test_plain_bytes_pass():
    assert Escape().feed(b"ls\r\x03\x00\xff") == (b"ls\r\x03\x00\xff", [])


@pytest.mark.parametrize(("key", "command"), [(k, c) for k, (c, _) in KEYS.items()])
def test_each_key_of_the_table(key, command):
    expected = (CTRL_A, []) if command == "literal" else (b"", [command])
    assert Escape().feed(bytes((1, key))) == expected
    assert command == "literal" or f"Ctrl-A {chr(key)} " in keys_help()


def test_a_key_may_come_in_the_next_read():
    escape = Escape()
    assert escape.feed(b"a\x01") == (b"a", [])
    assert escape.feed(b"xb") == (b"b", ["quit"])


@pytest.mark.parametrize(("key", "name"), [(b"c", "c"), (b"\x03", "Ctrl-C"), (b"\xe9", "\xe9")])
def test_other_keys_are_unknown_and_not_sent(key, name):
    assert Escape().feed(CTRL_A + key) == (b"", [f"unknown {name}"])


# a whole session


def take_terminal() -> None:
    # who runs the tests in the background or by nohup has these ignored, and a child inherits it
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Pty:
    """The fake machine with a pty as its controlling terminal, and what it printed there."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.master, self.slave = os.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.output = b""
        command = [sys.executable, "-S", str(FAKE), *arguments]
        if arguments[0] == "bash":
            command = [*arguments]
        self.process = subprocess.Popen(
            command,
            stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True,
            preexec_fn=take_terminal, env={**os.environ, "TERM": "xterm", **environment},
        )  # fmt: skip

    def read(self, seconds: float) -> bool:
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        self.output += os.read(self.master, 65536)
        return True

    def until(self, text: bytes) -> None:
        deadline = time.monotonic() + LONG
        while text not in self.output:
            self.read(0.05)
            assert time.monotonic() < deadline, self.output

    def mode(self, lflag: int) -> bool:
        return bool(termios.tcgetattr(self.slave)[3] & lflag)

    def until_raw(self, raw: bool = True) -> None:
        deadline = time.monotonic() + LONG
        while self.mode(termios.ICANON) == raw:
            self.read(0.01)
            assert time.monotonic() < deadline, self.output

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def status(self) -> int:
        deadline = time.monotonic() + LONG
        while self.process.poll() is None:
            self.read(0.02)
            assert time.monotonic() < deadline, self.output
        while self.read(0.0):
            pass
        return self.process.returncode

    @property
    def restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before


@pytest.fixture
def pty():
    made = []

    def make(*arguments: str, **environment: str) -> Pty:
        made.append(Pty(*arguments, **environment))
        return made[-1]

    yield make
    for one in made:
        one.process.kill()
        one.process.wait()
        os.close(one.master)
        os.close(one.slave)


def test_ctrl_a_x_quits_and_the_terminal_is_as_before(pty):
    session = pty("runs", "run")
    session.until_raw()
    assert not session.mode(termios.ECHO | termios.ISIG | termios.IEXTEN)
    assert termios.tcgetattr(session.slave)[1] & termios.OPOST
    session.type(CTRL_A + b"x")
    assert session.status() == 130
    assert session.restored
    assert b"pyhv: quit by Ctrl-A x (status 130)" in session.output


def test_ctrl_c_and_ctrl_d_go_to_the_guest(pty):
    session = pty("runs", "run")
    session.until_raw()
    session.type(b"\x03\x04\x1a\x11\r")
    session.until(b"<03><04><1a><11><0d>")
    session.type(b"q")
    assert session.status() == 0
    assert session.restored
    assert session.output.rstrip().endswith(b"pyhv: the guest powered off")


def test_help_literal_and_unknown_keys(pty):
    session = pty("runs", "run")
    session.until_raw()
    session.type(CTRL_A + b"h")
    session.until(b"Ctrl-A x       quit")
    session.type(CTRL_A + b"c")
    session.until(b"Ctrl-A: unknown c; Ctrl-A h helps")
    session.type(CTRL_A + CTRL_A)
    session.until(b"<01>")
    assert b"<63>" not in session.output


def test_ctrl_a_x_works_although_the_guest_does_not_read(pty):
    session = pty("deaf", "run")
    session.until_raw()
    for _ in range(40):
        session.type(b"0123456789abcdef" * 16)
        session.read(0.005)
    session.type(CTRL_A + b"x")
    assert session.status() == 130
    assert session.restored


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_signals_end_the_guest_and_restore_the_terminal(pty, number):
    session = pty("runs", "run")
    session.until_raw()
    session.process.send_signal(number)
    assert session.status() == 130
    assert session.restored
    assert f"quit by {number.name}".encode() in session.output


def test_an_exception_restores_the_terminal_and_is_one_line(pty):
    session = pty("raises", "run")
    session.until_raw()
    assert session.status() == 1
    assert session.restored
    assert (
        b"pyhv: internal error: ZeroDivisionError('a bug'); --debug shows where" in session.output
    )
    assert b"Traceback" not in session.output


def test_debug_shows_the_traceback(pty):
    session = pty("raises", "run", "--debug")
    assert session.status() == 1
    assert b"Traceback" in session.output


def test_a_machine_that_does_not_die_is_left_and_the_terminal_restored(pty):
    session = pty("hangs", "run", FAKE_PATIENCE="0.3")
    session.until_raw()
    session.process.send_signal(signal.SIGTERM)
    assert session.status() == 130
    assert session.restored
    assert b"did not stop within 0.3 s" in session.output


def test_stop_and_continue_restore_and_take_the_terminal_again(pty):
    session = pty("runs", "run")
    session.until_raw()
    # The kernel does not stop a member of an orphaned process group, as a session leader alone is:
    # the signal still goes through the handler, which must come out raw.
    session.process.send_signal(signal.SIGTSTP)
    session.type(b"a")
    session.until(b"<61>")
    session.until_raw()
    session.process.send_signal(signal.SIGSTOP)
    os.waitpid(session.process.pid, os.WUNTRACED)
    termios.tcsetattr(session.slave, termios.TCSANOW, session.before)  # what a shell does
    session.process.send_signal(signal.SIGCONT)
    session.until_raw()
    session.type(CTRL_A + b"x")
    assert session.status() == 130
    assert session.restored


def test_job_control_of_a_shell(pty):
    """Stopped, the shell has the terminal as it was; fg makes it raw again; bg leaves it alone."""
    fake = f"{sys.executable} -S {FAKE} runs run"
    show = "stty -a | grep -o -e '[-]*icanon'"
    script = f"set -m; {fake}; echo stopped; {show}; bg; sleep 0.3; {show}; fg; echo status $?"
    session = pty("bash", "-c", script)
    session.until_raw()
    group = os.tcgetpgrp(session.master)
    assert group != session.process.pid
    os.killpg(group, signal.SIGTSTP)
    session.until(b"stopped\r\nicanon\r\n")
    session.until(b"&\r\nicanon\r\n")
    session.until_raw()
    session.type(b"a")
    session.until(b"<61>")
    session.type(CTRL_A + b"x")
    assert session.status() == 0
    assert b"status 130" in session.output
    assert session.restored


def test_time_limit(pty):
    session = pty("runs", "run", "--time-limit", "0.2")
    assert session.status() == 124
    assert session.restored
    assert b"the time limit of 0.2 s ran out (status 124)" in session.output


def test_a_triple_fault_shows_its_evidence_behind_the_guests_last_words(pty):
    session = pty("fault", "run")
    assert session.status() == 3
    text = session.output.replace(b"\r\n", b"\n")
    assert b"last words\npyhv: vcpu 0: triple fault (status 3)\n" in text
    assert b"rip 0000000000001234" in text
    assert b"  out port 0x80, 1 bytes\n" in text


# no terminal


def run_fake(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-S", str(FAKE), *arguments], timeout=LONG, capture_output=True, **options
    )


def test_piped_input_goes_to_the_guest_with_every_byte_and_its_end_ends_nothing():
    done = run_fake("runs", "run", "--time-limit", "0.5", input=b"a\x01x")
    assert done.stdout == b"guest runs\r\n<61><01><78>"
    assert done.returncode == 124


def test_piped_input_that_ends_the_guest():
    done = run_fake("runs", "run", input=b"q")
    assert (done.stdout, done.returncode) == (b"guest runs\r\n<71>", 0)
    assert done.stderr.endswith(b"\npyhv: the guest powered off\n")


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1, 2)], ids=str)
def test_closed_descriptors_do_not_matter(closed):
    done = subprocess.run(
        [sys.executable, "-S", str(FAKE), "off", "run"],
        timeout=LONG,
        preexec_fn=lambda: [os.close(fd) for fd in closed],
    )
    assert done.returncode == 0


def test_a_reader_of_stdout_that_goes_away_does_not_stop_the_guest():
    process = subprocess.Popen(
        [sys.executable, "-S", str(FAKE), "runs", "run"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.read(5)
    process.stdout.close()
    process.stdin.write(b"abc")
    process.stdin.flush()
    time.sleep(0.2)
    assert process.poll() is None
    process.stdin.write(b"q")
    process.stdin.close()
    assert process.wait(LONG) == 0
    errors = process.stderr.read()
    assert b"bytes of console output were lost" in errors
    assert b"the guest powered off" in errors
    process.stderr.close()


def test_a_reader_of_stdout_that_sleeps_does_not_block_the_guest():
    """3 MiB into a pipe that nobody reads: the guest runs through, the rest is counted."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-S", str(FAKE), "flood", "run"],
        stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.wait(LONG) == 0
    errors = process.stderr.read().decode()
    process.stderr.close()
    ran = float(errors.split("the guest ran ")[1].split()[0])
    assert ran < 1.0
    os.close(writer)
    got = 0
    while data := os.read(reader, 65536):
        got += len(data)
    os.close(reader)
    lost = int(errors.split(" bytes of console output were lost")[0].rsplit(" ", 1)[1])
    assert got + lost == len(b"guest runs\r\n") + 800 * 4096


def test_serial_file_takes_the_output_and_the_report_shows_its_end(tmp_path):
    log = tmp_path / "log"
    done = run_fake("fault", "run", "-serial", f"file:{log}", input=b"q")
    assert log.read_bytes() == b"guest runs\r\nlast words"
    assert done.stdout == b""
    assert b"the console's last lines:\n  | guest runs\n  | last words\n" in done.stderr
    assert done.returncode == 3


def test_ignored_sighup_stays_ignored():
    """nohup."""
    process = subprocess.Popen(
        [sys.executable, "-S", str(FAKE), "runs", "run"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    process.stdin.write(b"a")
    process.stdin.flush()
    seen = b""
    while b"<61>" not in seen:  # input is served, so signals are set up
        seen += os.read(process.stdout.fileno(), 100)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)  # or "q" would come in the same turn of the loop
    out, _ = process.communicate(b"q", LONG)
    assert process.returncode == 0
    assert out.endswith(b"<71>")
