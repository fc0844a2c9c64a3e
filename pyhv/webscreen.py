"""The guest's screen as a page for a browser on this host; what is typed and pointed there goes in.

Only 127.0.0.1, and only who knows the URL: it has a token, and any page of the web may try. A page
asks for the next frame and waits (a long poll), so a screen that does not change sends nothing,
and one that nobody looks at is not looked at here either.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import socket
import threading
import time
import weakref
from functools import partial
from http.server import BaseHTTPRequestHandler
from itertools import groupby

from .boot.bios_keyboard import ROWS
from .errors import HostError, PyhvError
from .keyboard import IS_BREAK, IS_E0, KEYS
from .vmbus.mouse import RANGE, Motion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .seat import Seat

HERE = os.path.dirname(os.path.abspath(__file__))
LOOK_S = 0.05  # between two looks whether the guest has drawn, while a client waits
FRAME_S = 0.1  # between two frames: a PNG of 1024x768 takes a fifth of that
POLL_S = 20.0  # how long a client waits for a frame
PATIENCE_S = 30.0  # for a client that sends, or takes, nothing
DRIVER_S = 1.0  # for the guest's driver: a key is taken or lost, as on a PC
CONNECTIONS = 32  # from here on strangers are let go, oldest first; at twice that all are refused
BODY_BYTES, EVENTS = 65536, 512
BUTTONS = 31

#: KeyboardEvent.code (W3C UI Events) -> scan code of set 1 and IS_E0, as KEYS has it
CODES = {
    **{f"Key{char.upper()}": (first + plain.index(char), 0)
       for first, plain, _ in ROWS for char in plain if char.isalpha()},
    **{f"Digit{char}": (0x02 + i, 0) for i, char in enumerate("1234567890")},
    **{f"F{i}": KEYS[f"f{i}"] for i in range(1, 13)},
    **{f"Arrow{name.title()}": KEYS[name] for name in ("up", "down", "left", "right")},
    **{name: KEYS[name.lower()] for name in (
        "Backspace", "Tab", "Enter", "Space", "Home", "End", "PageUp", "PageDown", "Insert",
        "Delete")},
    **{f"Numpad{name}": (0x47 + i, 0) for i, name in enumerate((
        "7", "8", "9", "Subtract", "4", "5", "6", "Add", "1", "2", "3", "0", "Decimal"))},
    "NumpadMultiply": (0x37, 0), "NumpadDivide": (0x35, IS_E0), "NumpadEnter": (0x1C, IS_E0),
    "Escape": KEYS["esc"], "Minus": (0x0C, 0), "Equal": (0x0D, 0), "BracketLeft": (0x1A, 0),
    "BracketRight": (0x1B, 0), "Semicolon": (0x27, 0), "Quote": (0x28, 0), "Backquote": (0x29, 0),
    "Backslash": (0x2B, 0), "Comma": (0x33, 0), "Period": (0x34, 0), "Slash": (0x35, 0),
    "IntlBackslash": (0x56, 0), "ShiftLeft": KEYS["shift"], "ShiftRight": (0x36, 0),
    "ControlLeft": KEYS["ctrl"], "ControlRight": (0x1D, IS_E0), "AltLeft": KEYS["alt"],
    "AltRight": KEYS["altgr"], "MetaLeft": (0x5B, IS_E0), "MetaRight": (0x5C, IS_E0),
    "ContextMenu": (0x5D, IS_E0), "CapsLock": (0x3A, 0), "NumLock": (0x45, 0),
    "ScrollLock": (0x46, 0), "PrintScreen": (0x37, IS_E0),
}  # fmt: skip


class WebScreen:
    """Serves one machine's screen until :meth:`close`; ``url`` is where.

    :param port: of 127.0.0.1; 0 takes a free one.
    :raises HostError: it cannot be had.
    """

    def __init__(self, machine: Seat, port: int = 0) -> None:
        try:
            self.listener = socket.create_server(("127.0.0.1", port), backlog=CONNECTIONS)
        except (OSError, OverflowError) as error:
            number = getattr(error, "errno", None)
            reason = os.strerror(number) if number else error
            raise HostError(f"-display web={port}: {reason}; web takes a free port") from error
        self.port = self.listener.getsockname()[1]
        self.token = secrets.token_urlsafe()
        self.url = f"http://127.0.0.1:{self.port}/{self.token}/"
        self.machine = weakref.ref(machine)  # whose end ends this: no reference back
        self.closing = threading.Event()
        self._lock, self._frame_lock = threading.Lock(), threading.Lock()
        self._threads: dict[socket.socket, threading.Thread] = {}
        self._known: set[socket.socket] = set()  # those that have shown the token
        self._key: object = None
        self._serial, self._png, self._made_at = 0, b"", 0.0
        self._thread = threading.Thread(target=self._accept, name="display", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let all clients go, end the threads."""
        self.closing.set()
        try:
            self.listener.shutdown(socket.SHUT_RDWR)  # accept() returns
        except OSError:
            pass
        if self._thread is not threading.current_thread():
            self._thread.join()
        self.listener.close()
        with self._lock:
            for connection in self._threads:
                _hang_up(connection)
            threads = list(self._threads.values())
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                connection, _ = self.listener.accept()
            except OSError:  # closed; or no descriptor is left
                self.closing.wait(LOOK_S)
                continue
            with self._lock:
                self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        if len(self._threads) >= CONNECTIONS:
            strangers = [one for one in self._threads if one not in self._known]
            for stranger in strangers[: len(self._threads) + 1 - CONNECTIONS]:
                _hang_up(stranger)
        thread = threading.Thread(
            target=self._serve, args=(connection,), name="display client", daemon=True
        )
        try:
            if len(self._threads) < 2 * CONNECTIONS:
                thread.start()
                self._threads[connection] = thread
                return
        except RuntimeError:  # the limit of threads
            pass
        connection.close()

    def _serve(self, connection: socket.socket) -> None:
        try:
            Handler(connection, ("127.0.0.1", 0), self)  # type: ignore[arg-type]
        except (OSError, ValueError):  # it went away; ValueError: wrote on what was closed
            pass
        finally:
            with self._lock:
                self._threads.pop(connection, None)
                self._known.discard(connection)
                connection.close()

    def trust(self, connection: socket.socket) -> None:
        """Note that this client has shown the token."""
        with self._lock:
            self._known.add(connection)

    def next_frame(self, after: int) -> tuple[str, int, bytes]:
        """Return (state, number, PNG) once the number is not *after*, or after POLL_S.

        State: "shown"; "nothing", the guest shows none; "stopped". No PNG: nothing new.
        """
        deadline = time.monotonic() + POLL_S
        while True:
            state, serial, png = self._look(after)
            if serial != after or time.monotonic() >= deadline or self.closing.wait(LOOK_S):
                return state, serial, png

    def _look(self, after: int) -> tuple[str, int, bytes]:
        machine = self.machine()
        with self._frame_lock:
            state, key = _state(machine)
            due = time.monotonic() - self._made_at >= FRAME_S
            if key != self._key and (due or state != "shown"):
                self._png = b""
                if state == "shown":
                    try:
                        self._png = machine.screenshot().png()  # type: ignore[union-attr]
                    except PyhvError:  # gone just now: the next look says so
                        return "nothing", after, b""
                self._key, self._made_at = key, time.monotonic()
                self._serial += 1
            return state, self._serial, self._png if self._serial != after else b""

    def give(self, events: list[tuple[str, object]]) -> None:
        """Give input to the guest, in order: ("keyboard", strokes) and ("mouse", motions).

        :raises PyhvError, TimeoutError: no device, or nobody takes it.
        """
        machine = self.machine()
        if machine is None:
            return
        for name, group in groupby(events, lambda event: event[0]):
            batch = [event for _, event in group]
            machine.hand(name, partial(INPUTS[name], batch), DRIVER_S)


#: device -> (batch, device, taken) as Seat.hand calls it
INPUTS = {
    "keyboard": lambda batch, device, taken: device.strike(batch, taken),
    "mouse": lambda batch, device, taken: device.move(batch, taken),
}


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def _state(machine: Seat | None) -> tuple[str, object]:
    """Return the state, and what changes when the picture does; reads only, on any thread."""
    if machine is None or machine.ended is not None:
        return "stopped", "stopped"
    board = machine.board
    device = board.offered.get("screen") if board is not None else None
    situation = device.situation if device is not None else None
    if situation is None or not machine.started:
        return "nothing", "nothing"
    return "shown", (weakref.ref(device), device.dirts, situation)


def parse_events(body: bytes) -> list[tuple[str, object]]:
    """Return the input in *body*: a JSON list of ["key", code, down] and ["mouse", x, y, buttons,
    wheel], x and y 0..RANGE, buttons the mask of all that are down; unknown keys are left out.

    :raises ValueError: anything else.
    """
    try:
        rows = json.loads(body)
    except RecursionError as error:
        raise ValueError("too deep") from error
    if not isinstance(rows, list) or len(rows) > EVENTS:
        raise ValueError(f"a list of at most {EVENTS} events")
    found: list[tuple[str, object]] = []
    for row in rows:
        match row:
            case ["key", str(code), bool(down)]:
                if code in CODES:
                    scan, info = CODES[code]
                    found.append(("keyboard", (scan, info if down else info | IS_BREAK)))
            case ["mouse", int(x), int(y), int(buttons), int(wheel)] if (
                0 <= x <= RANGE and 0 <= y <= RANGE
                and 0 <= buttons <= BUTTONS and -127 <= wheel <= 127
            ):  # fmt: skip
                found.append(("mouse", Motion(x, y, buttons, BUTTONS & ~buttons, wheel)))
            case _:
                raise ValueError("no event")
    return found


class Handler(BaseHTTPRequestHandler):
    """One client's requests, one after the other."""

    protocol_version = "HTTP/1.1"
    timeout = PATIENCE_S
    disable_nagle_algorithm = True
    server: WebScreen  # type: ignore[assignment]

    def log_message(self, *_: object) -> None:
        """Say nothing: standard error is the user's."""

    def _admitted(self) -> str | None:
        """Return the path behind the token; None: refused.

        The Host header names us, or another name was bent to 127.0.0.1 and its page asks.
        """
        server, hosts = self.server, self.headers.get_all("Host") or []
        _, token, *path = (*self.path.partition("?")[0].split("/", 2), "")[:3]
        ours = len(hosts) == 1 and hosts[0] in (
            f"127.0.0.1:{server.port}", f"localhost:{server.port}",
        )  # fmt: skip
        right = hmac.compare_digest(token.encode(errors="replace"), server.token.encode())
        if not ours or not right:
            self.close_connection = True
            self._answer(403, b"The address is the one that pyhv printed, with its token.\n")
            return None
        server.trust(self.connection)
        return path[0]

    def do_GET(self) -> None:
        """The page, or the next frame: ``frame?after=N``."""
        path = self._admitted()
        if path == "":
            self._page()
        elif path == "frame":
            after = self.path.partition("?after=")[2]
            number = int(after) if after.isascii() and after.isdecimal() and len(after) < 18 else 0
            state, serial, png = self.server.next_frame(number)
            more = {"X-State": state, "X-Frame": str(serial)}
            self._answer(200 if png else 204, png, "image/png", more)
        elif path is not None:
            self._answer(404, b"There is no such page.\n")

    def do_POST(self) -> None:
        """Take ``input``, see parse_events."""
        path = self._admitted()
        if path is None:
            return
        length = self.headers.get("Content-Length", "")
        digits = length.isascii() and length.isdecimal() and len(length) < 10
        if not digits or int(length) > BODY_BYTES:
            self.close_connection = True
            self._answer(413, b"A body of 64 KiB at most, with its Content-Length.\n")
            return
        body = self.rfile.read(int(length))
        if path != "input":
            self._answer(404, b"There is no such page.\n")
            return
        try:
            self.server.give(parse_events(body))
        except ValueError:
            self._answer(400, b"This is no list of events.\n")
        except (PyhvError, TimeoutError) as error:
            self._answer(409, f"{error}\n".encode())
        else:
            self._answer(204, b"")

    def _page(self) -> None:
        with open(os.path.join(HERE, "page", "screen.html"), encoding="utf-8") as file:
            nonce = secrets.token_urlsafe(12)
            page = file.read().replace("NONCE", nonce).encode()
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "connect-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
        )
        self._answer(200, page, "text/html", {"Content-Security-Policy": policy})

    def _answer(
        self, status: int, body: bytes, kind: str = "text/plain",
        more: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.send_response_only(status)
        headers = {
            "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin",
            **(more or {}),
        }  # fmt: skip
        if status != 204:
            headers |= {
                "Content-Type": kind + "; charset=utf-8" * kind.startswith("text"),
                "Content-Length": str(len(body)),
            }
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
