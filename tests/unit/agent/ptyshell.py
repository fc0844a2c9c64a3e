"""A real shell on a pseudo-terminal, which is to GuestShell what a guest's on COM2 is."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import threading

from pyhv.agent.shell import GuestShell


class PtyShell:
    """A shell that reads the terminal as a file, as the agent does; ``guest`` is the host's end.

    :param path: its PATH; None is ours.
    """

    def __init__(self, command: list[str], path: str | None = None) -> None:
        self.master, slave = pty.openpty()
        self.gone: str | None = None
        self._closing = False
        environment = dict(os.environ) if path is None else os.environ | {"PATH": path}
        self.process = subprocess.Popen(
            [*command, os.ttyname(slave)], stdin=subprocess.DEVNULL, stdout=slave, stderr=slave,
            env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.guest = GuestShell(self._offer, lambda: self.gone, lambda: "\n  | tail", "start one")
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _offer(self, data: bytes) -> int:
        _, writable, _ = select.select([], [self.master], [], 0)
        return os.write(self.master, data[:1000]) if writable else 0

    def _read(self) -> None:
        while not self._closing:
            if select.select([self.master], [], [], 0.05)[0]:
                try:
                    data = os.read(self.master, 4096)
                except OSError:  # nobody has the other end open
                    return
                self.guest.feed(data)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._closing = True
        self._reader.join()
        os.close(self.master)
