"""User-mode networking: passt, a process beside us, answers for the host's network.

The guest gets what QEMU's ``-netdev user`` gives it: 10.0.2.15 by DHCP, the host at 10.0.2.2, a
resolver at 10.0.2.3. No privileges, no TCP of our own; passt has a socket of ours to talk through
and ends when that closes.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess

from ..errors import HostError
from . import frames
from .stream import Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from io import RawIOBase

    from ..hyperv.driver import Events
    from .config import HostForward

GUEST, NETMASK_BITS, HOST, RESOLVER = "10.0.2.15", 24, "10.0.2.2", "10.0.2.3"
HOST_MAC = "52:55:0a:00:02:02"
PROBE_MAC = bytes.fromhex("020000000001")  # passt takes the guest's from its first frame
PATIENCE_S = 10.0  # an emulated host takes a second
OPTION = {"tcp": "-t", "udp": "-u"}
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
SEARCH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/bin", "/usr/local/bin"))


def forward_option(one: HostForward) -> list[str]:
    """Return passt's option for one ``hostfwd``."""
    address = f"{one.host}/" if one.host else ""
    return [OPTION[one.protocol], f"{address}{one.host_port}:{one.guest_port}"]


class User(Stream):
    """passt on one end of a socket pair.

    passt computes the sums of what it sends, and takes TCP frames of up to 64 KiB whole.
    """

    kind = "user"
    checked = True

    def __init__(self, forwards: tuple[HostForward, ...] = ()) -> None:
        super().__init__()
        self._forwards = forwards
        self._process: subprocess.Popen[bytes] | None = None

    def open(self, events: Events) -> None:
        """Start passt.

        :raises HostError: it is not installed, or will not run; with its own words.
        """
        super().open(events)
        program = shutil.which("passt", path=SEARCH)
        if program is None:
            raise HostError(
                "-nic user: passt is not installed; install the package passt, or use -nic tap"
            )
        ours, theirs = socket.socketpair()
        command = [
            program, "--foreground", "--stderr", "--quiet", "--fd", str(theirs.fileno()),
            "-4", "-a", GUEST, "-n", str(NETMASK_BITS), "-g", HOST, "-M", HOST_MAC,
            "--dns-forward", RESOLVER,
        ]  # fmt: skip
        for one in self._forwards:
            command += forward_option(one)
        try:
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=ENVIRONMENT,
                start_new_session=True,  # Ctrl-C is for the guest, or ends us; we end passt
            )  # fmt: skip
        except OSError as error:
            ours.close()
            raise HostError(f"-nic user: {program}: {error.strerror}") from None
        finally:
            theirs.close()
        if _answers(ours):
            self.attach(ours)
            return
        said = self._words(_ending(self._process))
        ours.close()
        self.close()
        raise HostError(f"-nic user: passt would not run: {said}{_hint(said)}")

    def _words(self, ending: str) -> str:
        """Return passt's last line, without what it says of the system's logger, or its end."""
        self._process.terminate()
        text = self._process.stderr.read().decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        lines = [line for line in lines if "to syslog" not in line and "run as root" not in line]
        return lines[-1] if lines else f"it said nothing, and {ending}"

    def prepare(self, frame: bytes, requested: int, mss: int) -> list[bytes]:
        """Large TCP frames go whole."""
        return frames.finished(frame, requested, mss, whole=True)

    def close(self) -> None:
        """End passt."""
        super().close()
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(1.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stderr.close()


def _answers(ours: socket.socket) -> bool:
    """Ask who has the host's address; False: passt ended, or is silent for PATIENCE_S.

    Wrong arguments, or a host without a network, end it a moment after it was started.
    """
    ask = b"\xff" * 6 + PROBE_MAC + bytes.fromhex("0806 0001 0800 06 04 0001") + PROBE_MAC
    ask += socket.inet_aton(GUEST) + bytes(6) + socket.inet_aton(HOST)
    ours.settimeout(PATIENCE_S)
    try:
        ours.sendall(len(ask).to_bytes(4, "big") + ask)
        reader = ours.makefile("rb", buffering=0)  # unbuffered: what follows is the guest's
        with reader:
            while True:
                size = int.from_bytes(_exactly(reader, 4), "big")
                frame = _exactly(reader, size)
                if frame[12:14] == b"\x08\x06":
                    return True
    except OSError:  # TimeoutError too
        return False


def _ending(process: subprocess.Popen[bytes]) -> str:
    """Say how a passt ended that did not answer; its end of the socket closes before it ends."""
    try:
        status = process.wait(1.0)
    except subprocess.TimeoutExpired:
        return f"was silent for {PATIENCE_S:g} s"
    if status >= 0:
        return f"ended with status {status}"
    return f"was ended by {signal.Signals(-status).name}"


def _exactly(reader: RawIOBase, count: int) -> bytes:
    found = b""
    while len(found) < count:
        more = reader.read(count - len(found))
        if not more:
            raise ConnectionError
        found += more
    return found


def _hint(said: str) -> str:
    """Say what to do about what passt said."""
    if "nterface" in said:
        return "; it needs an interface with a default route on this host"
    if "bind" in said or "in use" in said:
        return "; is a hostfwd port taken, or below 1024?"
    return ""
