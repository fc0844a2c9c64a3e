"""What watches or steers a run from outside, as the command line asks: trace, gdb, QMP, display.

Imported only when one of these options is given.
"""

from __future__ import annotations

from .options import display

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .listening import Server
    from .machine import Machine
    from .options import Parsed


def target(address: str) -> str:
    """Return what gdb calls *address*, a value of ``-gdb``."""
    kind, _, rest = address.split(",")[0].partition(":")
    return rest if kind == "unix" else rest if rest[:1] != ":" else f"localhost{rest}"


class Watch:
    """Attaches what *parsed* names to *machine*, which has not been started.

    :raises PyhvError: a value that cannot be, a file or a socket that cannot be made; then
        nothing is left attached.
    """

    def __init__(self, machine: Machine, parsed: Parsed, say: Callable[[str], None]) -> None:
        self._machine, self._parsed, self._say = machine, parsed, say
        self._closers: list[Callable[[], None]] = []
        self._servers: list[Server] = []
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        machine, parsed, say = self._machine, self._parsed, self._say
        if "trace" in parsed or "trace-file" in parsed or "top" in parsed:
            from .trace.session import TraceSession

            get = parsed.get
            form, top = get("trace-format") or "text", "top" in parsed
            session = TraceSession(machine, get("trace"), form, get("trace-file"), top, say)
            self._closers.append(session.close)
        if "audit" in parsed:
            from .lookup.live import LiveAudit

            self._closers.append(LiveAudit(machine, say).close)
        if "gdb" in parsed or "s" in parsed:
            from .gdb.server import GdbServer

            address = parsed.get("gdb") or "tcp::1234"
            self._add(GdbServer(machine, address, say))
            say(f"gdb: target remote {target(address)}")
        if "qmp" in parsed:
            from .qmp.server import QmpServer

            self._add(QmpServer(machine, parsed.get("qmp") or ""))
        if "display" in parsed:
            port = display(parsed.get("display") or "")
            if port is not None:
                say(f"display: {machine.serve_display(port)}")
        if "S" in parsed:
            machine.pause()

    def _add(self, server: Server) -> None:
        self._servers.append(server)
        self._closers.append(server.close)

    def begin(self) -> None:
        """Serve those who connect: the machine has been started, what they ask for is there."""
        for server in self._servers:
            server.start()

    def close(self) -> None:
        """Detach all; the machine has ended."""
        while self._closers:
            self._closers.pop()()
