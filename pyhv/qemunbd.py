"""qemu-nbd as a child: it opens an image, serves it to sockets that only we have, and ends with us.

It ends when both connections are closed, which a SIGKILL of us does too, and then brings all that
it had answered into the image. A SIGTERM, which does the same, comes from the kernel when we die
before there is a connection to close.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from contextlib import suppress

from .errors import HostError

CONNECTIONS = 2  # nbd.py
PATIENCE_S = 30.0  # to start; an emulated host takes a second or two
GRACE_S = 1.0
ENDING_S = 60.0  # to end: it brings the image to the medium, and a slow one takes its time
SEARCH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/bin", "/usr/local/bin"))
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "LISTEN_FDS": "1"}
#: qemu-nbd takes a listening socket as systemd hands it on: as descriptor 3, with its own process
#: id in LISTEN_PID, which the exec keeps. $1 is our process id: we may be dead already.
SCRIPT = '[ "$PPID" = "$1" ] || exit; shift; exec 3<&0 </dev/null; LISTEN_PID=$$ exec "$@"'
#: qemu-nbd's --cache of ours; it has no part in flushes, which the guest or we ask for
CACHE = {"unsafe": "unsafe"}
IN_USE = (
    "image in use; end the other machine or program, or use a copy (several may share an image "
    "with readonly=on or snapshot=on)"
)
#: qemu-nbd's words -> what to do
HINTS = (
    ("Failed to lock byte", IN_USE),
    ("write\" lock", IN_USE),
    ("Image is not in", "see what it is: qemu-img info"),
    ("Could not open backing file", "see which: qemu-img info --backing-chain"),
    ("Permission denied", "chmod it, or use readonly=on or snapshot=on"),
)  # fmt: skip


class QemuNbd:
    """A running qemu-nbd; ``sockets`` are connected to it.

    :param path: goes to it as an absolute path, so that nothing in it is an option or a protocol.
    :raises HostError: it is not installed, or cannot be run.
    """

    def __init__(self, path: str, format: str, readonly: bool, cache: str) -> None:
        program = shutil.which("qemu-nbd", path=SEARCH)
        if program is None:
            raise HostError(
                f"disk {path}: format={format} needs qemu-nbd; install it: apt install qemu-utils"
            )
        self._path, absolute = path, os.path.abspath(path)
        self._prefix = f"Failed to blk_new_open '{absolute}': "
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._failed: Exception | None = None
        said, says = os.pipe()
        self._said = said
        # a pipe that is full takes no more, instead of stopping it
        os.set_blocking(says, False)
        os.set_blocking(said, False)
        self.sockets: list[socket.socket] = []
        try:
            listener = self._connect()
            command = [
                program, f"--format={format}", f"--shared={CONNECTIONS}", "--discard=unmap",
                f"--cache={CACHE.get(cache, 'writeback')}", *["--read-only"] * readonly,
                absolute,
            ]  # fmt: skip
            thread = threading.Thread(
                target=self._run, args=(command, listener, says), name="qemu-nbd", daemon=True
            )
            self._thread = thread
            with listener:
                try:
                    thread.start()
                except RuntimeError as error:
                    self._thread = None
                    raise HostError(f"disk {path}: qemu-nbd: no thread for it: {error}") from error
                self._started.wait()
            if self._failed is not None:
                raise HostError(f"disk {path}: qemu-nbd: {self._failed}")
        except BaseException:
            self.close()
            raise
        finally:
            os.close(says)

    def _connect(self) -> socket.socket:
        """Return a listening socket whose queue holds our connections and that has no name."""
        listener = socket.socket(socket.AF_UNIX)
        try:
            with tempfile.TemporaryDirectory(prefix="pyhv-nbd-") as folder:
                # by way of the descriptor: a socket's path has at most 107 bytes
                fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    listener.bind(f"/proc/self/fd/{fd}/nbd")
                    listener.listen(CONNECTIONS)
                    for _ in range(CONNECTIONS):
                        self.sockets.append(one := socket.socket(socket.AF_UNIX))
                        one.connect(f"/proc/self/fd/{fd}/nbd")
                finally:
                    os.close(fd)
        except OSError as error:
            listener.close()
            raise HostError(
                f"disk {self._path}: a socket for qemu-nbd: {error.strerror}; set TMPDIR to where "
                "one can be"
            ) from error
        return listener

    def _run(self, command: list[str], listener: socket.socket, says: int) -> None:
        """Start it, and stay until it ends: its parent is, to the kernel, this thread."""
        script = ["/bin/sh", "-c", SCRIPT, "sh", str(os.getpid()), *command]
        setpriv = shutil.which("setpriv", path=SEARCH)
        if setpriv is not None:  # without it, only our death in its first moments is not seen
            script = [setpriv, "--pdeathsig", "TERM", *script]
        try:
            process = self._process = subprocess.Popen(
                script, stdin=listener, stdout=subprocess.DEVNULL, stderr=says, env=ENVIRONMENT,
                start_new_session=True,  # Ctrl-C is for the guest, or ends us
            )  # fmt: skip
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
            self._failed = error
            return
        finally:
            self._started.set()
        with suppress(ChildProcessError):  # the program that we are part of ignores SIGCHLD
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    def why(self) -> str:
        """Return why it ended, or would not serve, in its own words if it had any."""
        try:
            lines = os.read(self._said, 1 << 16).decode(errors="replace").splitlines()
        except OSError:  # it said nothing, and runs or is closed
            lines = []
        lines = [line.removeprefix("qemu-nbd: ").strip() for line in lines if line.strip()]
        text = lines[0].removeprefix(self._prefix) if lines else ""
        for words, hint in HINTS:
            if words in text:
                return f"{text}; {hint}"
        return text

    def close(self) -> str:
        """Close the connections and see it end; return :meth:`why`. Idempotent."""
        for one in self.sockets:
            one.close()
        if self._thread is not None:
            self._started.wait()
        process, self._process = self._process, None
        if process is not None:
            # It ends by itself after a handshake, but not before one. Not process.terminate(),
            # which might reap it, and its thread waits for it.
            self._thread.join(GRACE_S)
            for number, patience_s in ((signal.SIGTERM, ENDING_S), (signal.SIGKILL, None)):
                if self._thread.is_alive():
                    os.kill(process.pid, number)
                    self._thread.join(patience_s)
            process.wait()
        elif self._thread is not None:
            self._thread.join()
        why = self.why()
        if self._said >= 0:
            os.close(self._said)
            self._said = -1
        return why
