"""run, push and pull over any shell of the guest: what Machine has, and a shell on hv_sock."""

from __future__ import annotations

import os

from ..errors import ConfigError, HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .shell import Cancelled, GuestShell, Result

RUN_S = 60.0
LIMIT_BYTES = 16 << 20


class Remote:
    """Runs commands in the guest; any thread but the machine's own may call."""

    def _guest_shell(self, what: str) -> GuestShell:
        """Return the shell; ConfigError if there can be none for *what*."""
        raise NotImplementedError

    def run(
        self, command: str | bytes, timeout: float = RUN_S, *, check: bool = False,
        stdin: bytes = b"", limit: int = LIMIT_BYTES, cancelled: Cancelled = None,
    ) -> Result:  # fmt: skip
        """Run a command of the guest's shell and return what became of it.

        It runs as root, in a session of its own, in ``/``. One at a time: another thread's waits.
        What it leaves running should have its output redirected, or that ends in the next result.

        :param timeout: seconds for all of it, also for the guest to boot so far that a shell is
            there. A command that still runs then is killed.
        :param check: raise HostError when its status is not 0.
        :param stdin: what it reads; nothing by default.
        :param limit: most bytes of stdout, and of stderr, that are kept.
        :param cancelled: asked again and again while it waits; true ends that with HostError, and
            the command. pyhv.aio has need of it.
        :raises GuestTimeout: not done in time (a TimeoutError and a HostError); it has what came of
            ``stdout``. HostError: reset meanwhile. ConfigError: no agent, or it does not run.
        """
        result = self._guest_shell("run").run(command, timeout, limit, stdin, cancelled)
        if check and result.status:
            from .script import shown

            said = (result.stderr or result.stdout)[-500:].decode(errors="replace").strip()
            name = shown(command.encode() if isinstance(command, str) else command)
            raise HostError(f"run {name}: status {result.status}: {said}")
        return result

    def push(
        self, local: str | os.PathLike | bytes, remote: str, timeout: float = RUN_S, *,
        cancelled: Cancelled = None,
    ) -> None:  # fmt: skip
        """Make the guest's file *remote* a copy of the host's file *local*.

        :param local: a path, or bytes: the contents. A program stays executable.
        :raises HostError, ConfigError: as :meth:`run`, and what the guest's shell says of *remote*.
        """
        from . import files

        files.push(self._guest_shell("push"), local, remote, timeout, cancelled)

    def pull(
        self, remote: str, local: str | os.PathLike | None = None, timeout: float = RUN_S, *,
        limit: int | None = None, cancelled: Cancelled = None,
    ) -> bytes | None:  # fmt: skip
        """Copy the guest's file *remote* to the host's file *local*; without one, return it.

        *local* appears when it is complete, and not otherwise.

        :param limit: most bytes; without *local* it is 16 MiB if not given.
        :raises HostError, ConfigError: as :meth:`run`, and when it is larger.
        """
        from . import files

        shell = self._guest_shell("pull")
        if local is None:
            data = bytearray()
            most = LIMIT_BYTES if limit is None else limit
            take = files.limited(data.extend, most, remote)
            files.pull(shell, remote, take, timeout, cancelled)
            return bytes(data)
        path = os.fspath(local)
        part = f"{path}.part-{os.getpid()}"
        try:
            with open(part, "xb") as file:
                take = files.limited(file.write, limit, remote)
                files.pull(shell, remote, take, timeout, cancelled)
            os.replace(part, path)
        except OSError as error:
            if isinstance(error, HostError):
                raise
            raise ConfigError(f"pull {path}: {error.strerror or error}") from error
        finally:
            try:
                os.unlink(part)
            except OSError:
                pass  # it was renamed, or never made
        return None
