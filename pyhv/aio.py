"""The asyncio twin of Machine: the same machine, with calls that are awaited and can be cancelled.

What comes by itself (output, the end) is looked at now and then; what blocks runs on a thread of
its own, and is told when its caller was cancelled. So the event loop is held up by nothing (but
the making of a machine: milliseconds), and no thread outlives the call it was made for.

::

    async with AsyncMachine(kernel="vmlinuz", initrd="initrd.img", agent=True) as vm:
        await vm.start()
        done = await vm.run("uname -r", timeout=60)
        await vm.console.expect("login: ", timeout=60)
        stop = await vm.wait(timeout=60)
"""

from __future__ import annotations

import asyncio
import threading
import time

from .awaiting import in_thread
from .console import ExpectTimeout
from .machine import Machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import Any, TypeVar

    from .agent.shell import Result
    from .console import Console, Pattern
    from .snapshot import Snapshot
    from .stop import Stop

    T = TypeVar("T")

POLL_S = 0.01
RUN_S = 60.0


class AsyncConsole:
    """The machine's console; ``sync`` is the :class:`~pyhv.console.Console` itself."""

    def __init__(self, console: Console) -> None:
        self.sync = console

    def text(self) -> str:
        """Return the last output."""
        return self.sync.text()

    async def expect(
        self, pattern: Pattern, timeout: float = 30.0, fail: Pattern | None = None
    ) -> str:
        """Wait until the guest prints *pattern*; see :meth:`pyhv.console.Console.expect`."""
        deadline, seen = time.monotonic() + timeout, None
        while True:
            now = self.sync.mark()
            late = time.monotonic() >= deadline
            if now != seen or late:
                seen = now
                try:
                    return self.sync.expect(pattern, 0.0, fail)
                except ExpectTimeout as error:
                    if late:
                        raise ExpectTimeout(
                            str(error).replace("not within 0 s", f"not within {timeout:g} s")
                        ) from None
            await asyncio.sleep(POLL_S)

    async def send(self, data: str | bytes, timeout: float = 10.0) -> None:
        """Type *data*; see :meth:`pyhv.console.Console.send`."""
        left = data.encode() if isinstance(data, str) else bytes(data)
        deadline = time.monotonic() + timeout
        while left:
            left = left[self.sync.offer(left) :]
            if left and time.monotonic() > deadline:
                self.sync.send(left, 0.0)  # says why not
                return
            if left:
                await asyncio.sleep(POLL_S)


class AsyncMachine:
    """A virtual machine whose calls are awaited; ``machine`` is the :class:`Machine` itself.

    The parameters are Machine's. A cancelled call is over when it raises CancelledError: a
    command in the guest is killed, a start or a snapshot is finished first.
    """

    def __init__(
        self, config: Any = None, console: Console | None = None, **options: object
    ) -> None:
        self._made = Machine(config, console, **options)
        self.console = AsyncConsole(self._made.console)

    @property
    def machine(self) -> Machine:
        """The machine; its calls block."""
        return self._made

    async def start(self) -> None:
        """Run the machine; see :meth:`Machine.start`."""
        await in_thread(self._made.start)

    async def wait(self, timeout: float | None = None) -> Stop:
        """Return why the machine stopped; see :meth:`Machine.wait`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return self._made.wait(0)
            except TimeoutError:
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(f"the machine still runs after {timeout:g} s") from None
            await asyncio.sleep(POLL_S)

    async def run(self, command: str | bytes, timeout: float = RUN_S, **options: Any) -> Result:
        """Run a command in the guest; see :meth:`Machine.run`."""
        return await self._cancellable(self._made.run, command, timeout=timeout, **options)

    async def push(
        self, local: str | os.PathLike | bytes, remote: str, timeout: float = RUN_S
    ) -> None:
        """Send a file; see :meth:`Machine.push`."""
        await self._cancellable(self._made.push, local, remote, timeout=timeout)

    async def pull(
        self, remote: str, local: str | os.PathLike | None = None, timeout: float = RUN_S,
        **options: Any,
    ) -> bytes | None:  # fmt: skip
        """Get a file; see :meth:`Machine.pull`."""
        return await self._cancellable(self._made.pull, remote, local, timeout=timeout, **options)

    async def open_connection(
        self, port: int, timeout: float = 10.0
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return streams to *port* of the guest; see ``Machine.vsock.open_connection``."""
        return await self._made.vsock.open_connection(port, timeout)

    async def shutdown(self, **options: Any) -> None:
        """Ask the guest to power off; see :meth:`Machine.shutdown`."""
        await in_thread(lambda: self._made.shutdown(**options))

    async def pause(self, **options: Any) -> None:
        """Stop every vCPU; see :meth:`Machine.pause`."""
        await in_thread(lambda: self._made.pause(**options))

    async def resume(self, **options: Any) -> None:
        """Go on; see :meth:`Machine.resume`."""
        await in_thread(lambda: self._made.resume(**options))

    async def snapshot(self, **options: Any) -> Snapshot:
        """Return the machine as it is now; see :meth:`Machine.snapshot`."""
        return await in_thread(lambda: self._made.snapshot(**options))

    async def restore(self, snapshot: Snapshot, **options: Any) -> None:
        """Go back; see :meth:`Machine.restore`."""
        await in_thread(lambda: self._made.restore(snapshot, **options))

    def reset(self) -> None:
        """Press the reset button."""
        self._made.reset()

    def kill(self) -> None:
        """Stop at once; :meth:`wait` then returns."""
        self._made.kill()

    async def close(self) -> None:
        """Stop if it runs, and give all back; see :meth:`Machine.close`."""
        await in_thread(self._made.close)

    async def __aenter__(self) -> AsyncMachine:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _cancellable(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        cancelled = threading.Event()
        return await in_thread(
            lambda: call(*arguments, cancelled=cancelled.is_set, **options), cancelled.set
        )
