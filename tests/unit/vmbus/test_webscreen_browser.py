"""The page of -display web in chromium: what is drawn, typed and pointed, pixel for pixel."""

from __future__ import annotations

import base64
import os
import threading
import time

import pytest
from seat_sim import SeatSim

from pyhv.vmbus.mouse import RANGE

PIXELS = """() => { const c = document.getElementById("screen");
    const copy = new OffscreenCanvas(c.width, c.height).getContext("2d");
    copy.drawImage(c, 0, 0);
    const data = copy.getImageData(0, 0, c.width, c.height).data;
    let text = ""; for (let i = 0; i < data.length; i += 4)
        text += String.fromCharCode(data[i], data[i + 1], data[i + 2]);
    return btoa(text); }"""


@pytest.fixture
def seat(make_guest):
    made = SeatSim(make_guest)
    made.serve_display()
    yield made
    made.display.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("display")]


@pytest.fixture
def page(browser, seat, request: pytest.FixtureRequest):
    """The page, open; nothing may complain, and nothing but pyhv be asked."""
    context = browser.new_context(**getattr(request, "param", {}))
    shown, trouble, asked = context.new_page(), [], []
    shown.on("console", lambda message: trouble.append(message.text))
    shown.on("pageerror", lambda error: trouble.append(str(error)))
    shown.on("request", lambda one: asked.append(one.url))
    shown.goto(seat.display.url)
    yield shown
    context.close()
    assert trouble == []
    assert [url for url in asked if not url.startswith((seat.display.url, "data:"))] == []


def wait(met) -> None:
    """Until *met* says so; Playwright's own way needs eval(), which the page's policy forbids."""
    deadline = time.monotonic() + 10
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def told(page, text: str) -> None:
    """Wait until the page says *text*."""
    wait(lambda: page.inner_text("#state").startswith(text))


def drawn(page, seat, width: int, height: int) -> bytes:
    """Draw noise of that size, wait for it, return what was drawn."""
    noise = os.urandom(3 * width * height)
    before = page.get_attribute("#screen", "data-frame")
    seat.draw(width, height, noise)
    told(page, f"{width} × {height}")
    wait(lambda: page.get_attribute("#screen", "data-frame") != before)
    return noise


def until(look, wanted) -> None:
    """Collect what *look* returns until it is as long as *wanted*, which it must be."""
    found, deadline = [], time.monotonic() + 10
    while len(found) < len(wanted) and time.monotonic() < deadline:
        found += look()
        time.sleep(0.02)
    assert found == wanted


def test_pixel_for_pixel_in_every_mode(page, seat) -> None:
    told(page, "the guest shows nothing; its driver")
    for width, height in ((1024, 768), (640, 480), (1280, 1024)):
        noise = drawn(page, seat, width, height)
        assert base64.b64decode(page.evaluate(PIXELS)) == noise


def test_keys(page, seat) -> None:
    page.wait_for_selector("#screen:focus")
    page.keyboard.down("ControlLeft")
    page.keyboard.press("KeyC")
    page.keyboard.up("ControlLeft")
    until(seat.strokes, [(0x1D, 0), (0x2E, 0), (0x2E, 2), (0x1D, 2)])
    page.keyboard.press("Tab")  # the guest's, not the browser's
    page.keyboard.press("ArrowLeft")
    until(seat.strokes, [(0x0F, 0), (0x0F, 2), (0x4B, 4), (0x4B, 6)])
    page.keyboard.type("Hi")
    until(seat.strokes, [(0x23, 0), (0x23, 2), (0x17, 0), (0x17, 2)])
    page.click("#cad")
    until(seat.strokes, [(0x1D, 0), (0x38, 0), (0x53, 4), (0x53, 6), (0x38, 2), (0x1D, 2)])


def test_what_is_held_is_let_go(page, seat) -> None:
    page.wait_for_selector("#screen:focus")
    page.keyboard.down("AltLeft")
    page.keyboard.down("ShiftLeft")
    until(seat.strokes, [(0x38, 0), (0x2A, 0)])
    page.evaluate("document.getElementById('screen').blur()")
    until(seat.strokes, [(0x38, 2), (0x2A, 2)])
    page.focus("#screen")
    page.keyboard.down("ControlLeft")
    until(seat.strokes, [(0x1D, 0)])
    page.goto("about:blank")  # as when its tab is closed
    until(seat.strokes, [(0x1D, 2)])


@pytest.mark.parametrize(
    "page", [{}, {"viewport": {"width": 400, "height": 700}}], indirect=True, ids=["whole", "small"]
)
def test_the_mouse_hits_the_pixel(page, seat) -> None:
    """Also where the picture is shown smaller than it is."""
    drawn(page, seat, 1024, 768)
    box = page.locator("#screen").bounding_box()
    scale = box["width"] / 1024
    x, y = 300, 200
    page.mouse.move(box["x"] + (x + 0.5) * scale, box["y"] + (y + 0.5) * scale)
    page.mouse.down(button="right")
    page.mouse.up(button="right")
    reports: list[tuple[int, ...]] = []

    def buttons() -> list[int]:
        reports.extend(seat.reports())
        return [one[0] for one in reports]

    wait(lambda: buttons()[-2:] == [2, 0])
    for _, at, down, _ in reports[-2:]:
        assert abs(at * 1024 // (RANGE + 1) - x) <= 1
        assert abs(down * 768 // (RANGE + 1) - y) <= 1
    page.mouse.wheel(0, 100)
    wait(lambda: buttons() and any(one[3] for one in reports))
    assert [one[3] for one in reports if one[3]] == [-1]


@pytest.mark.parametrize(
    ("page", "dark"),
    [({"color_scheme": "light"}, False), ({"color_scheme": "dark"}, True)],
    indirect=["page"],
)
def test_both_colour_schemes(page, dark: bool) -> None:
    text = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, text.strip("rgb()").split(", "))) < 80) is dark


def test_the_end_is_told(page, seat) -> None:
    seat.ended = object()
    told(page, "the machine has stopped")
