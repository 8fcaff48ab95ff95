"""Test the page end to end: `segic app` in its own process, and a real browser."""

import http.client
import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from browser import chromium, find, open_page, paint, select_sample, served
from PIL import Image
from requirements import require_chromium, require_gradio

require_gradio()
CHROMIUM = require_chromium()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def address(home):
    with served(home) as address:
        yield address
    # After the server has stopped, no file of a visitor is left, and none was written outside its folder.
    assert list((home / "tmp").iterdir()) == []
    assert list((home / "work").iterdir()) == []


@pytest.fixture(scope="module")
def browser(address):
    with chromium(CHROMIUM) as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    page = open_page(browser, address)
    yield page
    outside = [url for url in page.requested if not url.startswith((address, "data:", "blob:"))]
    assert outside == []
    assert page.errors == []
    page.context.close()


def request(address, path, method="GET", **headers):
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
        assert request(address, f"/gradio_api/file={path}").status in (403, 404)
    for path in ("/docs", "/openapi.json", "/monitoring", "/gradio_api/proxy=http://example.com"):
        assert request(address, path).status in (400, 403, 404), path
    answer = request(address, "/")
    assert answer.status == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert request(address, "/", host="rebound.example").status == 400
    assert request(address, "/gradio_api/queue/join", "POST", content_length=str(41 * 2**20)).status == 413
    assert request(address, "/gradio_api/upload", "POST", transfer_encoding="chunked").status == 411


def test_a_request_cannot_name_a_file_of_the_server_as_its_upload(address, tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "private.png")

    def event(path):
        """Name the file at `path` as the uploaded image; return the server's answer."""
        upload = {"path": str(path), "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
        body = {"data": [None, upload], "fn_index": number, "session_hash": "abc", "trigger_id": trigger}
        headers = {"content-type": "application/json"}
        post = urllib.request.Request(f"{address}/gradio_api/queue/join", json.dumps(body).encode(), headers)
        urllib.request.urlopen(post).read()
        with urllib.request.urlopen(f"{address}/gradio_api/queue/data?session_hash=abc") as stream:
            return next(line for line in stream if b"process_completed" in line)

    config = json.load(urllib.request.urlopen(f"{address}/config"))
    upload = next(event for event in config["dependencies"] if len(event["inputs"]) == 2)
    number, trigger = upload["id"], upload["targets"][0][0]
    for path in (tmp_path / "private.png", "http://127.0.0.1:9/a.png"):
        answer = event(path)
        assert b'"success":false' in answer
        assert b"data-image" not in answer


def test_paint_search_threshold_correct_and_download(page, tmp_path):
    from segic_jax.app.samples import samples

    sample = samples()[0]
    files = []
    for image in (sample.image, *sample.targets[:2]):
        files.append(tmp_path / image.name)
        Image.fromarray(image.pixels).save(files[-1])
    page.locator("#reference-upload input[type=file]").set_input_files(files[0])
    page.locator("#marking canvas[data-ready]").wait_for()
    rows, columns = np.nonzero(sample.mask)
    centre = (columns.mean() / sample.mask.shape[1], rows.mean() / sample.mask.shape[0])
    paint(page, centre, (centre[0] + 0.08, centre[1]))
    page.get_by_label("Class name").fill("<b>pet</b>")
    page.locator("#target-upload input[type=file]").set_input_files(files[1:])
    page.locator("#targets img").nth(1).wait_for()  # the paint stays meanwhile
    find(page)
    assert page.locator("#presence tbody tr").count() == 1
    assert "<b>pet</b>" in page.locator("#presence").inner_text()  # as text
    assert page.locator("#shots img").count() == 1

    before = page.locator("#overlay img").get_attribute("src")
    events = len([url for url in page.requested if "/queue/join" in url])
    page.locator("#threshold input[type=range]").focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    page.wait_for_function("old => document.querySelector('#overlay img').src !== old", arg=before)
    assert len([url for url in page.requested if "/queue/join" in url]) > events

    page.get_by_role("button", name="Downloads").click()
    link = page.locator("#files a", has_text="KB").nth(2)
    with page.expect_download() as download:
        link.click()
    content = json.loads(Path(download.value.path()).read_text())
    assert [category["name"] for category in content["categories"]] == ["<b>pet</b>"]
    assert len(content["images"]) == 2

    page.get_by_role("button", name="Show matches").click()
    page.locator("#matches img").nth(1).wait_for()

    # Clicks on the result change its mask.
    page.get_by_label("Belongs to it").check()
    before = page.locator("#overlay img").get_attribute("src")
    page.locator("#overlay img").click(position={"x": 60, "y": 60})
    page.wait_for_function("old => document.querySelector('#overlay img').src !== old", arg=before)
    before = page.locator("#overlay img").get_attribute("src")
    page.get_by_role("button", name="Undo corrections").click()
    page.wait_for_function("old => document.querySelector('#overlay img').src !== old", arg=before)

    # A corrected mask becomes an example: at the next search, or when it is added, which drops all results.
    page.get_by_role("button", name="Correct mask").click()
    page.locator("#marking canvas").wait_for()
    find(page)
    page.locator("#shots img").nth(1).wait_for()
    page.locator("#marking").wait_for(state="hidden")
    page.get_by_role("button", name="Correct mask").click()
    page.locator("#marking canvas").wait_for()
    page.get_by_role("button", name="Add example").click()
    page.locator("#shots img").nth(2).wait_for()
    page.locator("#overlay").wait_for(state="hidden")


def test_wrong_uploads_are_reported_and_nothing_breaks(page, tmp_path):
    image = Image.new("RGB", (50, 40), "red")
    image.save(tmp_path / "good.png")
    (tmp_path / "text.png").write_text("not an image")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "intact.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "intact.png").read_bytes()[:3000])
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    upload = page.locator("#reference-upload input[type=file]")
    for name, message in (("text", "is not an image"), ("cut", "cut.png"), ("huge", "million pixels")):
        upload.set_input_files(tmp_path / f"{name}.png")
        page.locator(".toast-body", has_text=message).wait_for()
    # Of several files, those that can be read are added.
    page.locator("#target-upload input[type=file]").set_input_files(
        [tmp_path / "good.png", tmp_path / "text.png"]
    )
    page.locator("#targets img").wait_for()
    assert page.locator("#targets img").count() == 1
    upload.set_input_files(tmp_path / "good.png")
    page.locator("#marking canvas[data-ready]").wait_for()
    page.get_by_role("button", name="Add example").click()
    page.locator(".toast-body", has_text="Nothing is marked").wait_for()
    assert page.locator("#marking").is_visible()


def test_everything_can_be_done_with_the_keyboard(page):
    # Tab until the focus is back at the start.
    focused = "() => document.activeElement.closest('[id]')?.id ?? 'page'"
    reached = []
    while reached.count("reference-upload") < 2 and len(reached) < 100:
        page.keyboard.press("Tab")
        reached.append(page.evaluate(focused))
    assert {"samples", "context-upload", "target-upload", "find"} <= set(reached)
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


def test_the_banner_names_the_model(browser, address):
    banner = open_page(browser, address).locator(".banner").inner_text()
    assert banner.startswith("The model photo runs on the CPU")


def test_continue_from_a_saved_context(browser, address, tmp_path):
    """On a phone: refuse another file; load a context, search with it, change its colour, remove it."""
    from segic_jax import Example, Segmenter
    from segic_jax.app.samples import samples

    segmenter, sample = Segmenter.load(), samples()[0]
    segmenter.fit(Example(sample.image.pixels, sample.mask, name="pet")).save(tmp_path / "pets.segic")
    Image.fromarray(sample.targets[0].pixels).save(tmp_path / "target.png")
    page = open_page(browser, address, 390, 844)

    def upload(name):
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Load context").click()
        chooser.value.set_files(tmp_path / name)

    upload("target.png")
    page.locator(".toast-body", has_text="target.png is damaged or not a saved context").wait_for()
    upload("pets.segic")
    page.locator("#classes li", has_text="1 example").wait_for()
    page.locator("#target-upload input[type=file]").set_input_files(tmp_path / "target.png")
    page.locator("#targets img").wait_for()
    find(page)
    assert "pet" in page.locator("#presence").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390

    before = page.locator("#overlay img").get_attribute("src")
    page.get_by_label("Colour of pet").fill("#0000ff")
    page.wait_for_function("old => document.querySelector('#overlay img').src !== old", arg=before)
    page.locator('#presence [style*="#0000ff"]').wait_for()

    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Remove pet").focus()
    page.keyboard.press("Enter")
    page.locator("#overlay").wait_for(state="hidden")
    page.locator("#classes").wait_for(state="hidden")
    assert page.errors == []
    page.context.close()


def test_a_phone_scrolls_in_one_direction_only(browser, address):
    page = open_page(browser, address, 390, 844)
    select_sample(page)
    find(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.context.close()


def test_visitors_see_only_their_own_images(browser, address):
    first, second = (open_page(browser, address) for _ in range(2))
    select_sample(first)
    find(first)
    second.get_by_role("button", name="Find it").click()
    second.locator(".toast-body", has_text="Add an example first").wait_for()
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
