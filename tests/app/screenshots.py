"""python tests/app/screenshots.py: the images of the page in docs/app.md, made anew."""

import io
import tempfile
from pathlib import Path

from browser import chromium, find, open_page, paint, served, start_from_scene
from PIL import Image

DOCS = Path(__file__).parents[2] / "docs"


def shoot(page, name: str, full: bool = True) -> None:
    """A palette PNG: a fifth of the size, and nobody sees it."""
    page.wait_for_timeout(700)
    picture = Image.open(io.BytesIO(page.screenshot(full_page=full))).convert("RGB")
    picture.quantize(192, dither=Image.Dither.NONE).save(DOCS / f"app_{name}.png", optimize=True)


def main() -> None:
    """All of them."""
    with tempfile.TemporaryDirectory() as home, served(Path(home)) as address, chromium() as browser:
        page = open_page(browser, address, 1280, 900)
        start_from_scene(page)
        shoot(page, "mark")
        page.get_by_role("button", name="Add this example").click()
        page.locator("#shots img").wait_for()
        start_from_scene(page, 2)
        find(page)
        page.locator("#targets button").nth(3).click()
        page.get_by_role("button", name="Show matches").click()
        page.locator("#matches img").nth(1).wait_for()
        shoot(page, "found")
        page.context.close()

        phone = open_page(browser, address, 390, 844)
        start_from_scene(phone)
        paint(phone, (0.1, 0.9), (0.3, 0.9))
        shoot(phone, "phone")
        phone.context.close()

        dark = open_page(browser, address, 1280, 900, color_scheme="dark")
        start_from_scene(dark, 1)
        find(dark)
        shoot(dark, "dark")


main()
