"""Serve the page with its command, and open it in Debian's Chromium."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT = 120_000  # milliseconds; a busy machine is slow, and a test that waits for a state does not mind
# Gradio mounts the components one by one.
PARTS = [
    "#reference-upload input[type=file]",
    "#samples button",
    "#context-upload",
    "#target-upload input[type=file]",
    "#find",
]


@contextmanager
def served(home: Path):
    """Run `segic app` on a free port, with all its folders in `home`, and yield its address."""
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
def chromium(executable: str):
    """Start a headless browser with a fresh profile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


def open_page(browser, address: str, width: int = 1280, height: int = 900, **options):
    """Open the page as a new visitor, and wait until it is ready.

    `page.requested` collects the addresses of all requests, `page.errors` the page's errors.
    """
    page = browser.new_context(viewport={"width": width, "height": height}, **options).new_page()
    page.set_default_timeout(TIMEOUT)
    page.requested, page.errors = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(address)
    page.wait_for_function(
        "parts => window.segicMarks && parts.every((part) => document.querySelector(part))", arg=PARTS
    )
    return page


def select_sample(page, number: int = 0) -> None:
    """Choose a sample, and wait for the painter."""
    before = page.locator("#painter canvas").evaluate("canvas => canvas.dataset.ready")
    page.locator("#samples button").nth(number).click()
    page.wait_for_function(
        "old => document.querySelector('#painter canvas').dataset.ready !== old", arg=before
    )
    page.locator("#targets img").first.wait_for()


def find(page) -> None:
    """Search, and wait for the first result."""
    page.get_by_role("button", name="Find it").click()
    page.locator("#overlay img").wait_for()
    page.locator("#presence table").wait_for()


def paint(page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag on the painter; positions are fractions of its width and height."""
    canvas = page.locator("#painter canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=5)
    page.mouse.up()
