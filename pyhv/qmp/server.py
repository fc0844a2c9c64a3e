"""A QMP monitor at a socket: greeting, negotiation, commands and events of one client."""

from __future__ import annotations

from ..errors import PyhvError
from ..listening import Server
from .commands import ARGUMENTS, COMMANDS
from .protocol import GREETING, QmpError, Reader, encode, failure, stamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..machine import Machine

NEGOTIATE = "qmp_capabilities"
#: ending -> ShutdownCause of QEMU's qapi/run-state.json
CAUSES = {
    "poweroff": "guest-shutdown", "exit": "guest-shutdown", "reset": "guest-reset",
    "hv-crash": "guest-panic", "triple-fault": "guest-reset", "quit": "host-qmp-quit",
    "kvm-error": "host-error", "error": "host-error", "no-boot": "host-error",
    "time-limit": "host-signal", "stuck": "host-error",
}  # fmt: skip
GUEST_CAUSES = ("guest-shutdown", "guest-reset", "guest-panic")


class QmpServer(Server):
    """Serves QMP at an address like ``unix:PATH``; :meth:`start` before the machine does."""

    name = "qmp"

    def __init__(self, machine: Machine, text: str) -> None:
        super().__init__("-qmp", text)
        self.machine = machine
        self._ready = False  # the client has negotiated
        self._reader = Reader()
        machine.control.listeners.append(self._event)

    def opened(self) -> None:
        """Greet."""
        self._ready, self._reader = False, Reader()
        self.send(encode(GREETING))

    def closed(self) -> None:
        """The next client is greeted anew."""
        self._ready = False

    def received(self, data: bytes) -> None:
        """Answer what is whole."""
        for message in self._reader.feed(data):
            if self.connection is None:
                return
            self.send(encode(self._answer(message)))

    def _answer(self, message: object) -> dict[str, object]:
        if isinstance(message, QmpError):
            return failure(str(message))
        if not isinstance(message, dict):
            return failure("QMP input must be a JSON object")
        try:
            reply = {"return": self._execute(message)}
        except QmpError as error:
            reply = failure(str(error), error.kind)
        except PyhvError as error:
            reply = failure(str(error))
        if "id" in message:
            reply["id"] = message["id"]
        return reply

    def _execute(self, message: dict[str, Any]) -> object:
        for key in message:
            if key not in ("execute", "arguments", "id"):
                raise QmpError(f"QMP input member '{key}' is unexpected")
        name, arguments = message.get("execute"), message.get("arguments", {})
        if not isinstance(name, str):
            raise QmpError("QMP input lacks member 'execute'")
        if not isinstance(arguments, dict):
            raise QmpError("QMP input member 'arguments' must be an object")
        if not self._ready and name != NEGOTIATE:
            text = "Expecting capabilities negotiation with 'qmp_capabilities'"
            raise QmpError(text, "CommandNotFound")
        command = COMMANDS.get(name)
        if command is None or (self._ready and name == NEGOTIATE):
            what = "Capabilities negotiation is already complete, command ignored"
            if command is None:
                what = f"The command {name[:60]} has not been found"
            raise QmpError(what, "CommandNotFound")
        for key in arguments:
            if key not in ARGUMENTS.get(name, ()):
                raise QmpError(f"Parameter '{key}' is unexpected")
        if arguments.get("enable"):
            raise QmpError(f"Capability '{arguments['enable'][0]}' is not available")
        self._ready = self._ready or name == NEGOTIATE
        return command(self.machine, arguments)

    # events

    def _event(self, event: str, data: dict[str, Any]) -> None:
        """Take an event of the machine; on its event loop, which must not wait for a client."""
        if event == "SHUTDOWN":
            for name, fields in self._endings():
                self.call(lambda name=name, fields=fields: self._tell(name, fields))
            return
        if event == "RESET":
            guest = bool(data.get("guest"))
            reason = "guest-reset" if guest else "host-qmp-system-reset"
            data = {"guest": guest, "reason": reason}
        self.call(lambda: self._tell(event, data))

    def _endings(self) -> list[tuple[str, dict[str, Any]]]:
        ended = self.machine.ended
        if ended is None:
            return []
        cause = CAUSES.get(ended.kind, "host-error")
        found: list[tuple[str, dict[str, Any]]] = []
        if ended.kind == "hv-crash":
            names = ("arg1", "arg2", "arg3", "arg4", "arg5")
            values = (*ended.details.get("parameters", ()), 0, 0, 0, 0, 0)
            info = {"type": "hyper-v"} | dict(zip(names, values, strict=False))
            found.append(("GUEST_PANICKED", {"action": "poweroff", "info": info}))
        found.append(("SHUTDOWN", {"guest": cause in GUEST_CAUSES, "reason": cause}))
        return found

    def _tell(self, name: str, data: dict[str, Any]) -> None:
        if self._ready:
            event: dict[str, object] = {"event": name, "timestamp": stamp()}
            if data:
                event["data"] = data
            self.send(encode(event))
