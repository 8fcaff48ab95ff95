"""The page served by its command, and Debian's Chromium on it."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def served(home: Path):
    """`segic app` on a free port, its home, working folder and temporary folder in `home`: its address."""
    for name in ("work", "tmp"):
        (home / name).mkdir()
    environment = {
        **os.environ,
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "PYTHONPATH": str(Path.cwd()),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "segic_jax", "app", "--port", "0"],
        cwd=home / "work",
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line, line
        yield line.split()[4]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@contextmanager
def chromium():
    """A headless browser with a fresh profile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def open_page(browser, address: str, width: int = 1280, height: int = 900, **options):
    """A new visitor; `page.requested` collects the hosts of all requests, `page.errors` the page's errors."""
    page = browser.new_context(viewport={"width": width, "height": height}, **options).new_page()
    page.set_default_timeout(30_000)
    page.requested, page.errors = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(address)
    page.wait_for_function("window.segicMarks")
    return page


def start_from_scene(page, number: int = 0) -> None:
    """Choose one of the examples inside, and wait for the painter."""
    before = page.locator("#painter canvas").evaluate("canvas => canvas.dataset.ready")
    page.locator("#samples button").nth(number).click()
    page.wait_for_function(
        "old => document.querySelector('#painter canvas').dataset.ready !== old", arg=before
    )
    page.locator("#targets img").first.wait_for()


def find(page) -> None:
    """Search, and wait for the result."""
    page.get_by_role("button", name="Find it").click()
    page.locator("#overlay img").wait_for()
    page.locator("#presence table").wait_for()


def paint(page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag on the painter; places are fractions of it."""
    canvas = page.locator("#painter canvas")
    canvas.scroll_into_view_if_needed()
    frame = canvas.bounding_box()
    places = [(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]) for x, y in (start, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=5)
    page.mouse.up()
