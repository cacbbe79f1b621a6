"""The page in a real browser: light, dark and narrow, quiet, complete, and usable with mouse and keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilth.report import page

pytestmark = pytest.mark.slow

PLOT = "document.querySelectorAll('figure svg')[%d].getBoundingClientRect().toJSON()"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, build_run: Callable[..., Path]) -> Path:
    return page.write(build_run(tmp_path_factory.mktemp("browser") / "run", steps=400, second=100))


@pytest.fixture
def at_charts(browser: Any, report: Path) -> Any:
    browser.open(report, 1200, 1000)
    browser.js("document.querySelector('.charts').scrollIntoView()")
    browser.settle()
    return browser


@pytest.mark.parametrize(
    ("width", "scheme"), [(1200, "light"), (1200, "dark"), (390, "light"), (390, "dark"), (700, "light")]
)
def test_quiet_whole_and_no_wider_than_the_window(
    browser: Any, report: Path, width: int, scheme: str, tmp_path: Path
) -> None:
    browser.open(report, width, scheme=scheme)
    browser.js("document.querySelectorAll('details').forEach(d => d.open = true)")
    browser.settle()
    assert browser.complaints() == []
    assert browser.requests() == [report.resolve().as_uri()]
    assert browser.js("document.documentElement.scrollWidth") == width
    assert browser.js("document.documentElement.dataset.charts") == "6"
    assert browser.js("document.querySelectorAll('figure path.main').length") >= 7
    ground = browser.js("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(251, 250, 246)", "dark": "rgb(21, 21, 18)"}[scheme]
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000


def test_nothing_from_the_data_runs(browser: Any, report: Path) -> None:
    browser.open(report)
    assert browser.js("[...document.querySelectorAll('pre')].some(p => p.textContent.includes('<script>alert(1)'))")
    assert browser.js("(() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
                      "document.body.append(s); return window.ran })()") is None  # fmt: skip


def test_pointing_shows_the_numbers_of_that_step_in_all_charts(at_charts: Any) -> None:
    box = at_charts.js(PLOT % 0)
    assert at_charts.js("document.querySelectorAll('.tip:not([hidden])').length") == 0
    at_charts.mouse("mouseMoved", box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    tips = at_charts.js("[...document.querySelectorAll('.tip:not([hidden])')].map(t => t.innerText)")
    assert len(tips) == 1 and "step " in tips[0] and "pretrain" in tips[0] and "this step" in tips[0]
    assert at_charts.js("document.querySelectorAll('.cursor line').length") == 6
    assert at_charts.js("[...document.querySelectorAll('.readout')].every(r => /\\d/.test(r.textContent))")
    # The crosshair stands under the pointer.
    line = at_charts.js("document.querySelector('.cursor line').getBoundingClientRect().x")
    assert abs(line - (box["x"] + box["width"] * 0.5)) < 3
    at_charts.mouse("mouseMoved", 5, 5)
    assert at_charts.js("document.querySelectorAll('.tip:not([hidden])').length") == 0


def test_the_tooltip_stays_inside_at_both_edges(at_charts: Any) -> None:
    box = at_charts.js(PLOT % 0)
    for share in (0.07, 0.98):
        at_charts.mouse("mouseMoved", box["x"] + box["width"] * share, box["y"] + 60)
        tip = at_charts.js("document.querySelector('.tip:not([hidden])').getBoundingClientRect().toJSON()")
        assert tip["left"] >= box["left"] - 1 and tip["right"] <= box["right"] + 1


def test_arrow_keys_walk_the_steps_and_say_them(at_charts: Any) -> None:
    at_charts.js("document.querySelectorAll('figure svg')[0].focus()")
    now = "document.activeElement.getAttribute('aria-valuenow')"
    for key, expected in (
        ("ArrowRight", "1"),
        ("ArrowRight", "2"),
        ("End", "500"),
        ("ArrowLeft", "499"),
        ("Home", "1"),
    ):
        at_charts.key(key)
        assert at_charts.js(now) == expected
    assert at_charts.js("document.activeElement.getAttribute('aria-valuetext')").startswith("step 1, loss ")
    at_charts.key("Escape")
    assert at_charts.js("document.querySelectorAll('.cursor line').length") == 0


def test_dragging_zooms_and_the_button_shows_all_again(at_charts: Any) -> None:
    box = at_charts.js(PLOT % 0)
    ticks = "[...document.querySelectorAll('figure')[0].querySelectorAll('.tick')].map(t => t.textContent).join()"
    before, y = at_charts.js(ticks), box["y"] + box["height"] / 2
    at_charts.mouse("mouseMoved", box["x"] + box["width"] * 0.4, y)
    at_charts.mouse("mousePressed", box["x"] + box["width"] * 0.4, y, button="left", clickCount=1)
    at_charts.mouse("mouseMoved", box["x"] + box["width"] * 0.6, y, button="left", buttons=1)
    assert at_charts.js("+document.querySelector('.brush').getAttribute('width')") > 100
    at_charts.mouse("mouseReleased", box["x"] + box["width"] * 0.6, y, button="left", clickCount=1)
    assert at_charts.js(ticks) != before
    assert at_charts.js("document.querySelector('.reset').hidden") is False
    at_charts.js("document.querySelector('.reset').click()")
    assert at_charts.js(ticks) == before


def test_logarithmic_steps_move_the_early_ones_apart(at_charts: Any) -> None:
    dots = "[...document.querySelectorAll('figure')[1].querySelectorAll('.point')].map(c => +c.getAttribute('cx'))"
    linear = at_charts.js(dots)
    at_charts.js("document.querySelector('button.log').click()")
    assert at_charts.js("document.querySelector('button.log').getAttribute('aria-pressed')") == "true"
    logarithmic = at_charts.js(dots)
    # 3 domains' points at 150, 300, 450, 500: on a logarithmic axis 150 lies further right, 500 stays.
    assert logarithmic[0] > linear[0] + 50 and abs(logarithmic[3] - linear[3]) < 0.5
    assert at_charts.complaints() == []


def test_it_prints(browser: Any, report: Path, tmp_path: Path) -> None:
    browser.open(report, scheme="light")
    browser.pdf(tmp_path / "page.pdf")
    raw = (tmp_path / "page.pdf").read_bytes()
    assert raw.startswith(b"%PDF") and raw.count(b"/Type /Page\n") + raw.count(b"/Type /Page ") >= 2
