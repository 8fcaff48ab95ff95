"""Take the screenshots in docs/app.md: python tests/app/screenshots.py."""

import io
import tempfile
from pathlib import Path

from browser import chromium, find, open_page, paint, select_sample, served
from PIL import Image

DOCS = Path(__file__).parents[2] / "docs"


def shoot(page, name: str, full: bool = True) -> None:
    """Save a screenshot as a palette PNG, which has a fifth of the size."""
    page.wait_for_timeout(700)
    image = Image.open(io.BytesIO(page.screenshot(full_page=full))).convert("RGB")
    image.quantize(192, dither=Image.Dither.NONE).save(DOCS / f"app_{name}.png", optimize=True)


def main() -> None:
    """Take all screenshots."""
    with (
        tempfile.TemporaryDirectory() as home,
        served(Path(home)) as address,
        chromium("/usr/bin/chromium") as browser,
    ):
        page = open_page(browser, address, 1280, 900)
        select_sample(page)
        shoot(page, "mark")
        page.get_by_role("button", name="Add example").click()
        page.locator("#shots img").wait_for()
        select_sample(page, 1)
        find(page)
        page.locator("#targets button").nth(1).click()
        page.get_by_role("button", name="Show matches").click()
        page.locator("#matches img").nth(1).wait_for()
        shoot(page, "found")
        page.context.close()

        phone = open_page(browser, address, 390, 844)
        select_sample(phone)
        paint(phone, (0.1, 0.9), (0.3, 0.9))
        shoot(phone, "phone")
        phone.context.close()

        dark = open_page(browser, address, 1280, 900, color_scheme="dark")
        select_sample(dark, 1)
        find(dark)
        shoot(dark, "dark")


main()
