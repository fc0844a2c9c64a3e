"""What watches or steers a run from outside, as the command line asks: trace, gdb, QMP.

Imported only when one of these options is given.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .machine import Machine
    from .options import Parsed


def target(address: str) -> str:
    """Return what gdb calls *address*, a value of ``-gdb``."""
    kind, _, rest = address.split(",")[0].partition(":")
    return rest if kind == "unix" else rest if rest[:1] != ":" else f"localhost{rest}"


def attach(machine: Machine, parsed: Parsed, say: Callable[[str], None]) -> Callable[[], None]:
    """Attach what *parsed* names to *machine*, which has not been started; return what ends it.

    :raises PyhvError: a value that cannot be, a file or a socket that cannot be made.
    """
    closers: list[Callable[[], None]] = []
    if "trace" in parsed or "trace-file" in parsed or "top" in parsed:
        from .trace.session import TraceSession

        get = parsed.get
        form, top = get("trace-format") or "text", "top" in parsed
        closers.append(TraceSession(machine, get("trace"), form, get("trace-file"), top, say).close)
    if "audit" in parsed:
        from .lookup.live import LiveAudit

        closers.append(LiveAudit(machine, say).close)

    if "gdb" in parsed or "s" in parsed:
        from .gdb.server import GdbServer

        address = parsed.get("gdb") or "tcp::1234"
        server = GdbServer(machine, address, say)
        closers.append(server.close)
        say(f"gdb: target remote {target(address)}")
        server.start()
    if "qmp" in parsed:
        from .qmp.server import QmpServer

        monitor = QmpServer(machine, parsed.get("qmp"))
        closers.append(monitor.close)
        monitor.start()
    if "S" in parsed:
        machine.pause()

    def close() -> None:
        for closer in reversed(closers):
            closer()

    return close
