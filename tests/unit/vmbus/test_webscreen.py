"""-display web: frames and input over HTTP, and whoever else may come to a port of this host."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import threading
import time

import pytest
from PIL import Image
from seat_sim import SeatSim

from pyhv import options, webscreen
from pyhv.errors import ConfigError, HostError
from pyhv.vmbus.mouse import RANGE
from pyhv.webscreen import CODES, CONNECTIONS, parse_events

RED, BLUE = b"\xff\0\0", b"\0\0\xff"


@pytest.fixture
def seat(make_guest):
    """A seat that is served; at its end no thread and no descriptor is left."""
    before, threads = set(os.listdir("/proc/self/fd")), set(threading.enumerate())
    made = SeatSim(make_guest)
    opened = set(os.listdir("/proc/self/fd"))
    made.serve_display()
    yield made
    made.display.close()
    made.display.close()
    assert set(threading.enumerate()) <= threads
    assert len(os.listdir("/proc/self/fd")) == len(opened) >= len(before)


def ask(seat, path: str = "", method: str = "GET", body: bytes | None = None, **headers):
    """Return the answer to a request with the token in front of *path*, read."""
    client = http.client.HTTPConnection("127.0.0.1", seat.display.port, timeout=10)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    client.request(method, f"/{seat.display.token}/{path}", body, names)
    answer = client.getresponse()
    answer.data = answer.read()
    client.close()
    return answer


def raw(seat, data: bytes) -> bytes:
    """Return all that comes back for *data* until the end."""
    with socket.create_connection(("127.0.0.1", seat.display.port), timeout=10) as client:
        client.sendall(data)
        return b"".join(iter(lambda: client.recv(65536), b""))


def post(seat, *events):
    return ask(seat, "input", "POST", json.dumps(events).encode())


def test_frames(seat, tmp_path) -> None:
    """A new one when the guest has drawn or changed its mode, nothing while it has not."""
    nothing = ask(seat, "frame?after=0")
    assert (nothing.status, nothing.getheader("X-State"), nothing.data) == (204, "nothing", b"")
    number = nothing.getheader("X-Frame")
    for width, height, colour in ((1024, 768, RED), (1024, 768, BLUE), (640, 480, BLUE)):
        seat.draw(width, height, colour * (width * height))
        answer = ask(seat, f"frame?after={number}")
        assert (answer.status, answer.getheader("X-State")) == (200, "shown")
        assert answer.data == seat.screenshot().png()
        (tmp_path / "x.png").write_bytes(answer.data)
        with Image.open(tmp_path / "x.png") as picture:
            assert picture.size == (width, height)
            assert picture.getpixel((width - 1, height - 1)) == tuple(colour)
        assert answer.getheader("X-Frame") != number
        number = answer.getheader("X-Frame")


def test_an_idle_screen_is_not_copied(seat, monkeypatch) -> None:
    monkeypatch.setattr(webscreen, "POLL_S", 0.5)
    seat.draw(640, 480, RED * (640 * 480))
    first = ask(seat, "frame?after=0")
    for _ in range(2):
        again = ask(seat, f"frame?after={first.getheader('X-Frame')}")
        assert (again.status, again.data) == (204, b"")
    assert ask(seat, "frame?after=0").data == first.data  # another browser
    assert seat.screenshots == 1


def test_input_in_its_order(seat) -> None:
    events = [
        ["key", "ShiftLeft", True], ["key", "KeyA", True], ["key", "KeyA", False],
        ["mouse", 0, RANGE, 1, 0], ["mouse", 5, 6, 0, -2],
        ["key", "ShiftLeft", False], ["key", "ArrowUp", True], ["key", "NoSuchKey", True],
    ]  # fmt: skip
    assert post(seat, *events).status == 204
    assert seat.strokes() == [(0x2A, 0), (0x1E, 0), (0x1E, 2), (0x2A, 2), (0x48, 4)]
    assert seat.reports() == [(1, 0, RANGE, 0), (0, 5, 6, -2)]


def test_every_key_has_a_code_of_its_own() -> None:
    assert len(set(CODES.values())) == len(CODES) == 104
    assert all(0 < scan < 0x80 and info in (0, 4) for scan, info in CODES.values())


def test_a_guest_without_a_driver_says_so(seat, monkeypatch) -> None:
    monkeypatch.setattr(webscreen, "DRIVER_S", 0.1)
    seat.keys.keyboard.ready = False
    answer = post(seat, ["key", "KeyA", True])
    assert answer.status == 409
    assert answer.data == b"keyboard: after 0.1 s the guest has no driver for it\n"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"{}", b"[1]", b"[" * 60000, b"\xff", b'[["key", "KeyA"]]', b"9" * 5000,
        b'[["key", "KeyA", 1]]', b'[["mouse", -1, 0, 0, 0]]', b'[["mouse", 0, 32768, 0, 0]]',
        b'[["mouse", 0, 0, 32, 0]]', b'[["mouse", 0, 0, 0, 128]]', b'[["mouse", 0.5, 0, 0, 0]]',
        b'[["mouse", NaN, 0, 0, 0]]', json.dumps([["key", "KeyA", True]] * 513).encode(),
    ],
)  # fmt: skip
def test_bodies_that_are_none(seat, body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_events(body)
    assert ask(seat, "input", "POST", body).status == 400
    assert seat.strokes() == seat.reports() == []


@pytest.mark.parametrize("length", ["65537", "-1", "x", "99999999999", "٣"])
def test_bodies_too_long_are_not_read(seat, length: str) -> None:
    head = f"POST /{seat.display.token}/input HTTP/1.1\r\nHost: 127.0.0.1:{seat.display.port}\r\n"
    assert raw(seat, f"{head}Content-Length: {length}\r\n\r\n".encode())[:12] == b"HTTP/1.1 413"
    assert raw(seat, f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())[:12] == b"HTTP/1.1 413"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:PORT", "127.0.0.1", "127.0.0.1:1", "localhost:PORT.evil.example",
     "0.0.0.0:PORT", "[::1]:PORT", "", "127.0.0.1:PORT\r\nHost: evil.example"],
)  # fmt: skip
def test_another_host_name_gets_nothing(seat, host: str) -> None:
    """A page whose name was bent to 127.0.0.1 may even have learnt the token."""
    host = host.replace("PORT", str(seat.display.port))
    request = f"GET /{seat.display.token}/ HTTP/1.1\r\nHost: {host}\r\n\r\n"
    assert raw(seat, request.encode())[:12] == b"HTTP/1.1 403"
    assert ask(seat, Host=f"localhost:{seat.display.port}").status == 200


@pytest.mark.parametrize(
    "path",
    ["/", "//", "/x/", "/favicon.ico", "/TOKENx/", "/xTOKEN/", "/token/TOKEN/", "TOKEN/",
     "http://127.0.0.1/TOKEN/", "/%00/", "/\xff/", "*"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_the_token_nothing(seat, path: str, method: str) -> None:
    path = path.replace("TOKEN", seat.display.token)
    request = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{seat.display.port}\r\n\r\n"
    assert raw(seat, request.encode("latin-1"))[:12] == b"HTTP/1.1 403"


@pytest.mark.parametrize(
    "data",
    [b"\0" * 100000, b"GET", b"GET / HTTP/9.9\r\n\r\n", b"\r\n", b"\xff\xfe\r\n\r\n",
     b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 1000 + b"\r\n", b"GET /" + b"x" * 70000 + b"\r\n\r\n",
     b"BREW / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n: \r\n\r\n"],
)  # fmt: skip
def test_what_is_no_request(seat, data: bytes, capfd) -> None:
    """Whatever is sent, the next client is served and standard error stays the user's."""
    with socket.create_connection(("127.0.0.1", seat.display.port), timeout=10) as client:
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
        except ConnectionError:  # let go before all was sent
            pass
    assert ask(seat).status == 200
    assert capfd.readouterr().err == ""


def test_a_flood_of_strangers(seat) -> None:
    """They are let go, oldest first; who has shown the token stays connected."""
    known = http.client.HTTPConnection("127.0.0.1", seat.display.port, timeout=10)
    known.request("GET", f"/{seat.display.token}/")
    known.getresponse().read()
    strangers = [
        socket.create_connection(("127.0.0.1", seat.display.port), timeout=10)
        for _ in range(4 * CONNECTIONS)
    ]
    assert strangers[0].recv(1) == b""
    assert len(threading.enumerate()) < 2 * CONNECTIONS + 10
    known.request("GET", f"/{seat.display.token}/")
    assert known.getresponse().read()[:15] == b"<!doctype html>"
    known.close()
    assert ask(seat).status == 200
    for one in strangers:
        one.close()


def test_a_slow_client_holds_up_nobody(seat, monkeypatch) -> None:
    """It sends a header, or takes a frame, for ever: until its time is over."""
    monkeypatch.setattr(webscreen.Handler, "timeout", 0.5)
    seat.draw(1024, 768, os.urandom(3 * 1024 * 768))  # a PNG that no socket buffer holds
    head = f"GET /{seat.display.token}/frame HTTP/1.1\r\nHost: 127.0.0.1:{seat.display.port}\r\n"
    slow = [socket.socket() for _ in range(2)]
    for one, text in zip(slow, (head, head + "\r\n" * 1), strict=True):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.settimeout(10)
        one.connect(("127.0.0.1", seat.display.port))
        one.sendall(text.encode())
    start = time.monotonic()
    assert post(seat, ["key", "KeyA", True]).status == 204
    assert len(ask(seat, "frame?after=0").data) > 1 << 21
    assert time.monotonic() - start < 5
    deadline = time.monotonic() + 10
    while seat.display._threads and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not seat.display._threads
    for one in slow:
        one.close()


def test_close_while_clients_wait(seat) -> None:
    seat.draw(640, 480, RED * (640 * 480))
    number = ask(seat, "frame?after=0").getheader("X-Frame")
    done = []

    def wait() -> None:
        try:
            done.append(ask(seat, f"frame?after={number}"))
        except (OSError, http.client.HTTPException) as error:
            done.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.3)
    start = time.monotonic()
    seat.display.close()
    waiting.join()
    assert time.monotonic() - start < 2
    assert len(done) == 1


def test_the_page_asks_nobody_else(seat) -> None:
    page = ask(seat)
    policy = page.getheader("Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", policy)[1]
    assert page.data.count(f'nonce="{nonce}"'.encode()) == 2
    assert nonce not in ask(seat).data.decode()
    assert b"http" not in page.data
    assert seat.display.token.encode() not in page.data
    assert page.getheader("Referrer-Policy") == "no-referrer"


def test_the_machine_has_stopped(seat) -> None:
    seat.ended = object()
    assert ask(seat, "frame?after=0").getheader("X-State") == "stopped"
    assert post(seat, ["key", "KeyA", True]).data == b"keyboard: the machine has stopped\n"


def test_ports(seat) -> None:
    assert seat.serve_display(1) == seat.display.url
    assert seat.display.url == f"http://127.0.0.1:{seat.display.port}/{seat.display.token}/"
    port = seat.display.port
    with pytest.raises(HostError) as caught:
        webscreen.WebScreen(seat, port)
    assert str(caught.value) == (
        f"-display web={port}: Address already in use; web takes a free port"
    )


def test_a_machine_without_a_screen(seat) -> None:
    seat.board.offered = {"screen": None}
    with pytest.raises(ConfigError, match="screen: this machine has none; -vga hyperv gives it"):
        seat.serve_display()
    seat.events = None
    with pytest.raises(ConfigError, match="-display web: the machine is closed"):
        seat.serve_display()


@pytest.mark.parametrize(
    ("text", "port"), [("none", None), ("web", 0), ("web=1", 1), ("web=65535", 65535)]
)
def test_spellings(text: str, port: int | None) -> None:
    assert options.display(text) == port


@pytest.mark.parametrize("text", ["gtk", "", "web=", "web=0", "web=65536", "web=x", "vnc=:1"])
def test_spellings_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="pyhv has none, web and web=PORT"):
        options.display(text)
