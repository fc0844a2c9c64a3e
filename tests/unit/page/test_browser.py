"""pyhv report in a real browser (Debian's chromium): what it shows, asks for, does by keyboard."""

from __future__ import annotations

import pathlib

import pytest

from pyhv.lookup.commands import run

TRACE = pathlib.Path(__file__).parents[2] / "baseline" / "trace_debian.jsonl"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    run("report", [str(TRACE), "-o", str(path)])
    return path


@pytest.fixture
def page(browser, file: pathlib.Path, request: pytest.FixtureRequest):
    """The report, open; nothing may complain, and nothing but the file be asked for."""
    context = browser.new_context(**getattr(request, "param", {}))
    shown, trouble, asked = context.new_page(), [], []
    shown.on("console", lambda message: trouble.append(message.text))
    shown.on("pageerror", lambda error: trouble.append(str(error)))
    shown.on("request", lambda one: asked.append(one.url))
    shown.goto(file.as_uri())
    yield shown
    context.close()
    assert trouble == []
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]


def _light(page, selector: str) -> float:
    """The brightness of a background, 0..255."""
    text = page.eval_on_selector(selector, "e => getComputedStyle(e).backgroundColor")
    return sum(int(part) for part in text.strip("rgba()").split(",")[:3]) / 3


@pytest.mark.parametrize(
    ("page", "dark"),
    [({"color_scheme": "light"}, False), ({"color_scheme": "dark"}, True)],
    indirect=["page"],
)
def test_both_colour_schemes(page, dark: bool) -> None:
    assert (_light(page, "body") < 80) is dark
    page.click("#theme")  # light
    assert _light(page, "body") > 200
    page.click("#theme")  # dark
    assert _light(page, "body") < 80


def test_sections_and_names(page) -> None:
    assert [item.inner_text() for item in page.query_selector_all("nav a")] == [
        "Boot", "Exits", "CPUID", "MSRs", "Hypercalls", "VMBus", "Memory",
    ]  # fmt: skip
    for item in page.query_selector_all("nav a"):
        assert page.query_selector(item.get_attribute("href")) is not None
    assert page.locator("#boot .miles li").count() == page.locator("#boot g.m").count() > 10
    assert page.locator("#msrs").get_by_text("HV_X64_MSR_SIMP", exact=True).count() == 1
    assert page.locator(".rung.up").count() > 20
    assert page.locator(".map .ram").count() == 2


UNNAMED = """() => [...document.querySelectorAll("svg, [role=region]")]
    .filter(e => !e.getAttribute("aria-label")).length"""
UNLABELLED = """() => [...document.querySelectorAll("input, select")]
    .filter(e => !e.labels.length).length"""
DOUBLE_IDS = """() => { const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
    return ids.length - new Set(ids).size; }"""


@pytest.mark.parametrize("question", [UNNAMED, UNLABELLED, DOUBLE_IDS])
def test_everything_has_a_name(page, question: str) -> None:
    """Inputs, drawings and scrolling regions say what they are; ids are unique."""
    assert page.evaluate(question) == 0
    assert page.eval_on_selector("html", "e => e.lang") == "en"


def test_keyboard(page) -> None:
    """Tab comes to a link over the head first; arrows move the chart; Enter sorts and hides."""
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.focus("#bin")
    before = page.inner_text("#told")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert page.inner_text("#told") != before
    assert "port in" in page.inner_text("#told")
    page.focus(".key")
    page.keyboard.press("Enter")
    assert page.get_attribute(".key", "aria-pressed") == "false"
    assert not page.is_visible("#chart g.s0")
    page.focus("#msrs th .sort")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    names = page.locator("#msrs tbody tr td:first-child").all_inner_texts()
    assert names == sorted(names)
    assert page.get_attribute("#msrs th", "aria-sort") == "ascending"


def test_finding_on_the_bus(page) -> None:
    rows = page.locator("#bus-list > li:visible")
    everything = rows.count()
    page.fill("#find", "openchannel_result")
    assert rows.count() == 5
    page.fill("#find", "")
    page.uncheck("#rings")
    assert 10 < rows.count() < everything
    page.check("#rings")
    page.select_option("#chan", "2")
    shown = page.locator("#bus-list > li:visible .ch").all_text_contents()
    assert set(shown) == {"heartbeat 2"}


@pytest.mark.parametrize("page", [{"viewport": {"width": 390, "height": 800}}], indirect=True)
def test_a_phone_does_not_scroll_sideways(page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
