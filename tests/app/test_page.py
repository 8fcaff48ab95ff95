"""The page end to end: `segic app` in a process of its own, and a real browser on it."""

import http.client
import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")
pytest.importorskip("playwright")

from browser import CHROMIUM, chromium, find, open_page, paint, served, start_from_scene

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def address(home):
    with served(home) as address:
        yield address
    # Stopped: nothing of the visitors is left, and nothing was written beside the page's own folder.
    assert list((home / "tmp").iterdir()) == []
    assert list((home / "work").iterdir()) == []


@pytest.fixture(scope="module")
def browser(address):
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    page = open_page(browser, address)
    yield page
    outside = [url for url in page.requested if not url.startswith((address, "data:", "blob:"))]
    assert outside == []
    assert page.errors == []
    page.context.close()


def ask(address, path, method="GET", **headers):
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    connection.putrequest(method, path, skip_host="host" in headers)
    for key, value in headers.items():
        connection.putheader(key.replace("_", "-"), value)
    connection.endheaders()
    response = connection.getresponse()
    response.read()
    return response


def test_the_server_gives_no_other_file_and_bounds_requests(address):
    for path in ("/etc/passwd", str(Path.cwd() / "pyproject.toml"), "../../etc/passwd"):
        assert ask(address, f"/gradio_api/file={path}").status in (403, 404)
    for path in ("/docs", "/openapi.json", "/monitoring", "/gradio_api/proxy=http://example.com"):
        assert ask(address, path).status in (400, 403, 404), path
    answer = ask(address, "/")
    assert answer.status == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert ask(address, "/", host="rebound.example").status == 400
    assert ask(address, "/gradio_api/queue/join", "POST", content_length=str(41 * 2**20)).status == 413
    assert ask(address, "/gradio_api/upload", "POST", transfer_encoding="chunked").status == 411


def test_a_request_cannot_name_a_file_of_the_server_as_its_upload(address, tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "private.png")

    def event(path):
        """What the server answers when the file at `path` is given as the uploaded image."""
        upload = {"path": str(path), "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
        body = {"data": [None, upload], "fn_index": number, "session_hash": "abc", "trigger_id": trigger}
        headers = {"content-type": "application/json"}
        post = urllib.request.Request(f"{address}/gradio_api/queue/join", json.dumps(body).encode(), headers)
        urllib.request.urlopen(post).read()
        with urllib.request.urlopen(f"{address}/gradio_api/queue/data?session_hash=abc") as stream:
            return next(line for line in stream if b"process_completed" in line)

    config = json.load(urllib.request.urlopen(f"{address}/config"))
    bring = next(one for one in config["dependencies"] if len(one["inputs"]) == 2)
    number, trigger = bring["id"], bring["targets"][0][0]
    for path in (tmp_path / "private.png", "http://127.0.0.1:9/a.png"):
        answer = event(path)
        assert b'"success":false' in answer
        assert b"data-picture" not in answer


def test_paint_search_threshold_correct_and_download(page, tmp_path):
    from segic_jax.app.scenes import scenes

    scene = scenes()[0]
    files = []
    for picture in (scene.picture, *scene.targets[:2]):
        files.append(tmp_path / picture.name)
        Image.fromarray(picture.image).save(files[-1])
    page.locator("#reference-upload input[type=file]").set_input_files(files[0])
    page.locator("#marking canvas[data-ready]").wait_for()
    rows, columns = np.nonzero(scene.mask)
    place = (columns.mean() / scene.mask.shape[1], rows.mean() / scene.mask.shape[0])
    paint(page, place, (place[0] + 0.08, place[1]))
    page.get_by_label("Its name").fill("<b>pet</b>")
    page.locator("#target-upload input[type=file]").set_input_files(files[1:])
    page.locator("#targets img").nth(1).wait_for()  # what is painted stays meanwhile
    find(page)
    assert page.locator("#presence tbody tr").count() == 1
    assert "<b>pet</b>" in page.locator("#presence").inner_text()  # as text
    assert page.locator("#shots img").count() == 1

    shown = page.locator("#overlay img").get_attribute("src")
    asked = len([url for url in page.requested if "/queue/join" in url])
    page.locator("#threshold input[type=range]").focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    page.wait_for_function("old => document.querySelector('#overlay img').src !== old", arg=shown)
    assert len([url for url in page.requested if "/queue/join" in url]) > asked

    page.get_by_role("button", name="Downloads").click()
    link = page.locator("#files a", has_text="KB").nth(2)
    with page.expect_download() as download:
        link.click()
    content = json.loads(Path(download.value.path()).read_text())
    assert [one["name"] for one in content["categories"]] == ["<b>pet</b>"]
    assert len(content["images"]) == 2

    page.get_by_role("button", name="Show matches").click()
    page.locator("#matches img").nth(1).wait_for()

    # A correction is the next example: found with at once, or added first, which drops the results so far.
    page.get_by_role("button", name="Correct mask").click()
    page.locator("#marking canvas").wait_for()
    find(page)
    page.locator("#shots img").nth(1).wait_for()
    assert not page.locator("#marking").is_visible()
    page.get_by_role("button", name="Correct mask").click()
    page.locator("#marking canvas").wait_for()
    page.get_by_role("button", name="Add this example").click()
    page.locator("#shots img").nth(2).wait_for()
    assert not page.locator("#overlay").is_visible()


def test_wrong_uploads_are_said_and_nothing_breaks(page, tmp_path):
    good = Image.new("RGB", (50, 40), "red")
    good.save(tmp_path / "good.png")
    (tmp_path / "text.png").write_text("no image")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    upload = page.locator("#reference-upload input[type=file]")
    for name, said in (("text", "is not an image"), ("cut", "cut.png"), ("huge", "million pixels")):
        upload.set_input_files(tmp_path / f"{name}.png")
        page.locator(".toast-body", has_text=said).wait_for()
    # Of several, those that can be read are taken.
    page.locator("#target-upload input[type=file]").set_input_files(
        [tmp_path / "good.png", tmp_path / "text.png"]
    )
    page.locator("#targets img").wait_for()
    assert page.locator("#targets img").count() == 1
    upload.set_input_files(tmp_path / "good.png")
    page.locator("#marking canvas[data-ready]").wait_for()
    page.get_by_role("button", name="Add this example").click()
    page.locator(".toast-body", has_text="Nothing is marked").wait_for()
    assert page.locator("#marking").is_visible()


def test_everything_can_be_done_with_the_keyboard(page):
    focused = "() => document.activeElement.closest('[id]')?.id"
    seen = []
    for _ in range(14):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(focused))
    assert {"samples", "target-upload", "find"} <= set(seen)
    page.locator("#find").focus()
    assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.locator("#samples button").first.focus()
    page.keyboard.press("Enter")
    page.locator("#marking canvas[data-ready]").wait_for()
    page.get_by_role("button", name="Clear").focus()
    page.keyboard.press("Enter")
    empty = page.evaluate("segicMarks()")
    page.get_by_role("button", name="Box").focus()
    page.keyboard.press("Enter")
    page.locator("#painter canvas").focus()
    for key in ("Space", *["ArrowRight"] * 4, *["ArrowDown"] * 4, "Space"):
        page.keyboard.press(key)
    left, top, right, bottom = json.loads(page.evaluate("segicMarks()"))["box"]
    assert right > left
    assert bottom > top
    page.get_by_role("button", name="Brush").focus()
    page.keyboard.press("Enter")
    page.locator("#painter canvas").focus()
    for key in ("Space", "ArrowRight", "Space"):
        page.keyboard.press(key)
    assert json.loads(page.evaluate("segicMarks()"))["mask"] != json.loads(empty)["mask"]


def test_go_on_from_a_saved_context(browser, address, tmp_path):
    """On a phone: a foreign file is said; a Context is loaded, searched with, recoloured, removed."""
    from segic_jax import Example, Segmenter
    from segic_jax.app.scenes import scenes

    segmenter, scene = Segmenter.load(), scenes()[0]
    segmenter.fit(Example(scene.picture.image, scene.mask, name="pet")).save(tmp_path / "pets.segic")
    Image.fromarray(scene.targets[0].image).save(tmp_path / "target.png")
    page = open_page(browser, address, 390, 844)

    def upload(name):
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Load a Context").click()
        chooser.value.set_files(tmp_path / name)

    upload("target.png")
    page.locator(".toast-body", has_text="target.png is damaged or no saved context").wait_for()
    upload("pets.segic")
    page.locator("#legend li", has_text="1 example").wait_for()
    page.locator("#target-upload input[type=file]").set_input_files(tmp_path / "target.png")
    page.locator("#targets img").wait_for()
    find(page)
    assert "pet" in page.locator("#presence").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390

    shown = page.locator("#overlay img").get_attribute("src")
    page.get_by_label("Colour of pet").fill("#0000ff")
    page.wait_for_function("old => document.querySelector('#overlay img').src !== old", arg=shown)
    page.locator('#presence [style*="#0000ff"]').wait_for()

    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Remove pet").focus()
    page.keyboard.press("Enter")
    page.locator("#overlay").wait_for(state="hidden")
    assert not page.locator("#legend").is_visible()
    assert page.errors == []
    page.context.close()


def test_a_phone_scrolls_in_one_direction_only(browser, address):
    page = open_page(browser, address, 390, 844)
    start_from_scene(page)
    find(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.context.close()


def test_visitors_see_only_their_own(browser, address):
    first, second = (open_page(browser, address) for _ in range(2))
    start_from_scene(first)
    find(first)
    second.get_by_role("button", name="Find it").click()
    second.locator(".toast-body", has_text="Show first what to find").wait_for()
    assert not second.locator("#targets").is_visible()
    assert not second.locator("#overlay").is_visible()
    for page in (first, second):
        page.context.close()


def test_images_can_be_pasted(page):
    page.evaluate(
        """async () => {
          const canvas = new OffscreenCanvas(40, 30);
          canvas.getContext("2d").fillRect(5, 5, 9, 9);
          const transfer = new DataTransfer();
          transfer.items.add(new File([await canvas.convertToBlob()], "pasted.png", { type: "image/png" }));
          const paste = new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
          document.body.dispatchEvent(paste);
        }"""
    )
    page.locator("#marking canvas[data-ready]").wait_for()
