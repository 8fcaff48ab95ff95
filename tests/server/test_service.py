"""Test what the service answers: contexts, predictions, and a sentence for every bad request."""

import base64
import copy
import html
import io
import json
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiny
from PIL import Image
from server_files import png

from segic_jax.data import masks
from segic_jax.inference.example import Example
from segic_jax.server.store import ContextStore

URL = "/v1/contexts"


def refused(response, status: int, words: str) -> None:
    """Check that a request was refused with a sentence that names nothing of this machine."""
    assert response.status_code == status, response.text
    detail = response.json()["detail"]
    assert words in detail, detail
    assert "segic_serve_" not in detail
    assert detail.strip().endswith((".", ")"))


@pytest.fixture
def context(client, files):
    response = client.post(URL, files=files.reference(), data={"names": "disk", "id": "disks"})
    assert response.status_code == 201, response.text
    return response.json()


def test_a_context_is_made_listed_described_and_deleted(client, context):
    assert context["id"] == "disks"
    assert context["classes"] == [{"name": "disk", "examples": 1, "negatives": 0}]
    assert [reference["source"] for reference in context["references"]] == ["photo.png"]
    assert client.get(URL).json() == {"contexts": ["disks"]}
    assert client.get(f"{URL}/disks").json() == context | {"warnings": []}
    assert client.get("/health").json()["contexts"] == 1
    assert client.delete(f"{URL}/disks").status_code == 204
    refused(client.delete(f"{URL}/disks"), 404, "There is no context disks")
    refused(client.get(f"{URL}/disks"), 404, "There is no context disks")


def test_predictions_are_those_of_the_api(client, context, files, segmenter):
    image, mask = tiny.random_image(0, 50, 70)
    expected = segmenter.predict(
        tiny.random_image(1, 41, 60)[0], segmenter.fit(Example(image, mask, name="disk"))
    )
    response = client.post(f"{URL}/disks/predict", files=files.images(3))
    assert response.status_code == 200, response.text
    coco = response.json()
    assert [image["file_name"] for image in coco["images"]] == ["target0.png", "target1.png", "target2.png"]
    first = [item for item in coco["annotations"] if item["image_id"] == 1]
    decoded = masks.decode(first[0]["segmentation"], 41, 60)
    np.testing.assert_array_equal(decoded, expected.mask(0))
    assert first[0]["score"] == round(float(expected.scores[0]), 4)


def test_explanations_are_those_of_the_api(client, context, files, segmenter):
    image, mask = tiny.random_image(0, 50, 70)
    target = tiny.random_image(1, 41, 60)[0]
    (expected,) = segmenter.explain(target, segmenter.fit(Example(image, mask, name="disk")), matches=3)
    response = client.post(f"{URL}/disks/explain", files=files.images(), params={"matches": 3})
    assert response.status_code == 200, response.text
    explained = response.json()
    assert explained["image"] == {"file_name": "target0.png", "height": 41, "width": 60}
    assert explained["references"] == ["photo.png"]
    (disk,) = explained["classes"]
    assert (disk["name"], disk["present"]) == ("disk", True)
    assert [match["reference"] for match in disk["matches"]] == [0, 0, 0]
    for found, match in zip(disk["matches"], expected.matches, strict=True):
        assert tuple(found["target"]) == match.target
        assert found["similarity"] == pytest.approx(match.similarity, abs=1e-5)
    heat = np.asarray(Image.open(io.BytesIO(base64.b64decode(disk["similarity_map"]))), np.float32)
    np.testing.assert_allclose(2 * heat / 255 - 1, expected.heat, atol=1 / 255 + 1e-4)
    drawn = client.post(f"{URL}/disks/explain", files=files.images(), params={"format": "png"})
    assert drawn.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(drawn.content)).size[0] > 600
    refused(client.post(f"{URL}/none/explain", files=files.images()), 404, "There is no context none")
    refused(client.post(f"{URL}/disks/explain", files=files.images(2)), 400, "Too many files")
    refused(client.post(f"{URL}/disks/explain", files=files.images(), params={"matches": 0}), 422, "matches")


def test_png_and_archives(client, context, files):
    url = f"{URL}/disks/predict"
    one = client.post(url, files=files.images(), params={"format": "png"})
    assert one.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(one.content)).size == (60, 41)
    for format, name in (
        ("png", "target1.png"),
        ("labelme", "target1.json"),
        ("coco", "annotations.json"),
        ("cvat", "annotations.xml"),
        ("label-studio", "tasks.json"),
        ("yolo", "labels/target1.txt"),
        ("voc", "SegmentationClass/target1.png"),
        ("masks", "disk/target1.png"),
    ):
        response = client.post(url, files=files.images(2), params={"format": format})
        assert response.status_code == 200, response.text
        archive = zipfile.ZipFile(io.BytesIO(response.content))
        assert name in archive.namelist()
        assert not any(b"segic_serve_" in archive.read(item) for item in archive.namelist())


def test_equal_file_names_are_no_conflict(client, context, files):
    twice = [("images", ("same.png", files.targets[0])), ("images", ("same.png", files.targets[1]))]
    response = client.post(f"{URL}/disks/predict", files=twice, params={"format": "png"})
    assert zipfile.ZipFile(io.BytesIO(response.content)).namelist() == ["same.png", "same_2.png"]


def test_options_reach_the_model(client, context, files):
    url = f"{URL}/disks/predict"
    areas = {
        threshold: sum(
            item["area"]
            for item in client.post(url, files=files.images(), params={"threshold": threshold}).json()[
                "annotations"
            ]
        )
        for threshold in (0.01, 0.5)
    }
    assert areas[0.01] > areas[0.5]
    for params in ({"tiles": "2"}, {"tiles": "auto"}, {"instances": "peaks"}, {"together": True}):
        assert client.post(url, files=files.images(), params=params).status_code == 200


def test_a_project_of_a_labelling_tool_makes_a_context(client, files):
    project = [("project", ("set/photo.json", files.labelme)), ("project", ("set/photo.png", files.image))]
    response = client.post(URL, files=project)
    assert response.status_code == 201, response.text
    assert response.json()["classes"] == [{"name": "disk", "examples": 1, "negatives": 0}]
    assert response.json()["references"][0]["source"] == "set/photo.png"
    assert len(response.json()["id"]) == 16


def test_several_classes_and_negatives(client, files):
    pairs = [*files.reference("a.png"), *files.reference("b.png"), *files.reference("c.png")]
    data = {"names": ["cat", "dog", "cat"], "negative": ["false", "false", "true"]}
    response = client.post(URL, files=pairs, data=data)
    assert response.status_code == 201, response.text
    assert response.json()["classes"] == [
        {"name": "cat", "examples": 1, "negatives": 1},
        {"name": "dog", "examples": 1, "negatives": 0},
    ]


def test_doubts_about_references_are_returned(client, files):
    masked = [
        ("images", ("photo.png", files.image)),
        ("masks", ("m.png", png(np.full((50, 70), 255, np.uint8)))),
    ]
    (doubt,) = client.post(URL, files=masked).json()["warnings"]
    assert "m.png covers 100.0 % of the image" in doubt
    assert "segic_serve_" not in doubt


def test_bad_contexts_are_refused(client, files, context):
    image, mask = files.reference()
    text = ("images", ("photo.png", b"no image"))
    cut = ("images", ("photo.png", files.image[:-40]))
    for sent, data, status, words in (
        ([], {}, 422, "Send images and masks"),
        ([image], {}, 422, "send a mask for each image"),
        ([image, mask], {"names": ["a", "b"]}, 422, "names is given 2 times for 1 images"),
        ([image, mask], {"names": " "}, 422, "must be a string that is not empty"),
        ([image, mask], {"negative": "maybe"}, 422, "negative is true or false"),
        ([image, mask], {"names": "x" * 200}, 422, "at most 100 characters"),
        ([text, mask], {}, 422, "photo.png is damaged or not an image"),
        ([cut, mask], {}, 422, "photo.png is cut off or damaged"),
        ([image, ("masks", ("m.png", files.targets[0]))], {}, 422, "m.png"),
        ([("images", ("photo.png", b"")), mask], {}, 422, "photo.png is empty"),
        ([image, mask, ("project", ("a.json", b"{}"))], {}, 422, "Send images and masks"),
        ([("project", ("a.json", b"{}"))], {}, 422, "has no annotations of"),
        ([("project", ("a.json", b"{")), ("project", ("b.png", files.image))], {}, 422, "a.json is damaged"),
        ([("project", ("a.json", files.labelme))], {}, 422, "its image photo.png is missing"),
        ([("project", ("a.json", files.labelme))], {"format": "word"}, 422, "There is no format 'word'"),
        ([image, mask], {"id": "disks"}, 409, "There is a context disks already"),
        ([image, mask], {"id": ["a", "b"]}, 422, "id is given 2 times"),
    ):
        refused(client.post(URL, files=sent, data=data), status, words)
    assert client.get(URL).json() == {"contexts": ["disks"]}


def test_bad_predictions_are_refused(client, context, files):
    url = f"{URL}/disks/predict"
    refused(client.post(f"{URL}/none/predict", files=files.images()), 404, "There is no context none")
    refused(client.post(url), 422, "Send the images to segment")
    refused(client.post(url, data={"images": "text"}), 422, "The field images takes files")
    refused(
        client.post(url, content=b"abc", headers={"content-type": "multipart/form-data"}), 400, "boundary"
    )
    for params, words in (
        ({"threshold": 1}, "threshold: Input should be less than 1"),
        ({"threshold": "nan"}, "threshold"),
        ({"format": "exe"}, "format"),
        ({"tiles": "99"}, "tiles"),
        ({"instances": "x"}, "instances"),
    ):
        refused(client.post(url, files=files.images(), params=params), 422, words)
    refused(client.get("/nothing"), 404, "There is no such address")
    refused(client.put(URL), 405, "does not take this method")


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/x.png",
        "/etc/x.png",
        "a/../../x.png",
        "..\\..\\x.png",
        ".hidden.png",
        "x" * 300,
        ".",
    ],
)
def test_names_of_files_lead_nowhere(client, context, files, name, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    response = client.post(f"{URL}/disks/predict", files=[("images", (name, files.targets[0]))])
    refused(response, 422, "is no name for a file here")
    refused(client.post(URL, files=[("project", (name, files.image))]), 422, "is no name for a file here")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "id", ["../secret", "%2e%2e%2fsecret", "a%2Fb", "..", "a.b", "x" * 65, "a%00", "a%0A", "~root"]
)
def test_ids_lead_nowhere(client, files, id, tmp_path):
    (tmp_path / "secret.segic").write_bytes(b"secret")
    for response in (
        client.get(f"{URL}/{id}"),
        client.delete(f"{URL}/{id}"),
        client.post(f"{URL}/{id}/predict", files=files.images()),
    ):
        assert response.status_code in (404, 405, 422), response.text
        assert " " in response.json()["detail"]
    sent = client.post(URL, files=files.reference(), data={"id": id.replace("%2F", "/").replace("%00", "\0")})
    assert sent.status_code == 422, sent.text
    assert (tmp_path / "secret.segic").exists()


@pytest.mark.parametrize(
    "path", ["../secret.png", "../../../../secret.png", "{root}/secret.png", "file://{root}/secret.png"]
)
def test_annotations_name_no_image_of_the_server(client, files, path, tmp_path):
    (tmp_path / "secret.png").write_bytes(files.image)
    annotated = json.loads(files.labelme) | {"imagePath": path.format(root=tmp_path)}
    response = client.post(URL, files=[("project", ("a.json", json.dumps(annotated).encode()))])
    refused(response, 422, "is missing")


def test_a_data_set_names_no_folder_of_the_server(client, files, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/secret.png").write_bytes(files.image)
    yaml = f"path: {tmp_path}\ntrain: images\nnames: [disk]\n".encode()
    project = [("project", ("data.yaml", yaml)), ("project", ("labels/secret.txt", b"0 0.5 0.5 0.2 0.2\n"))]
    response = client.post(URL, files=project)
    assert response.status_code == 422, response.text
    assert "secret" in response.json()["detail"]
    complete = [*project, ("project", ("images/secret.png", files.image))]
    assert client.post(URL, files=complete).status_code == 201


def test_limits_are_kept(make_client, files):
    client = make_client(
        images=2, references=2, contexts=2, classes=1, file_megabytes=1, request_megabytes=2, megapixels=1
    )
    pair = files.reference()
    assert client.post(URL, files=pair, data={"id": "a"}).status_code == 201
    refused(client.post(URL, files=pair * 2, data={"names": ["a", "b"]}), 413, "2 classes: at most 1")
    refused(client.post(f"{URL}/a/predict", files=files.images(3)), 400, "Too many files")
    sent = [("images", ("large.png", png(np.zeros((1001, 1000), np.uint8))))]
    refused(client.post(f"{URL}/a/predict", files=sent), 422, "million pixels together")
    refused(client.post(URL, files=[*sent, pair[1]]), 422, "million pixels together")
    heavy = [("images", ("heavy.png", b"0" * (1 << 20 | 1)))]
    refused(client.post(f"{URL}/a/predict", files=heavy), 422, "the limit is 1 MB")
    refused(client.post(URL, content=b"0" * (2 << 20 | 1)), 413, "at most 2 MB")
    refused(client.post(URL, content=iter([b"0"])), 411, "Content-Length")
    refused(client.request("GET", URL, content=b"0"), 413, "may have no content")
    assert client.post(URL, files=pair, data={"id": "b"}).status_code == 201
    refused(client.post(URL, files=pair), 409, "There are 2 contexts")


def test_a_token_is_needed(make_client, files):
    client = make_client(token="0123456789abcdef")
    for path in ("/health", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
    for response in (
        client.get(URL),
        client.get("/metrics"),
        client.post(URL, files=files.reference()),
        client.get(URL, headers={"authorization": "Bearer 0123456789abcdeX"}),
        client.get(URL, headers={"authorization": "0123456789abcdef"}),
        client.get(URL, headers={"authorization": "Bearer ÿ".encode("latin-1")}),
    ):
        refused(response, 401, "The token is missing or wrong")
    assert client.get(URL, headers={"authorization": "Bearer 0123456789abcdef"}).status_code == 200


@pytest.fixture
def slow(segmenter):
    """Return a model whose predictions wait for the event `go`; it notes how many images come at once."""
    model = copy.copy(segmenter)
    model.go, model.batches = threading.Event(), []

    def predict_many(images, context, **options):
        model.go.wait(30)
        images = list(images)
        model.batches.append(len(images))
        return segmenter.predict_many(images, context, **options)

    model.predict_many = predict_many
    return model


def test_a_busy_service_says_so_and_segments_what_waits_together(make_client, files, slow):
    client = make_client(model=slow, images=1, pending_images=4)
    assert client.post(URL, files=files.reference(), data={"id": "a"}).status_code == 201
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(client.post, f"{URL}/a/predict", files=files.images()) for _ in range(8)]
        busy = []
        while len(busy) < 4:
            busy = [future for future in sent if future.done()]
        for future in busy:
            refused(future.result(), 429, "send the request again later")
            assert future.result().headers["retry-after"] == "1"
        slow.go.set()
        assert sum(future.result().status_code == 200 for future in sent) == 4
    assert sum(slow.batches) == 4
    assert len(slow.batches) < 4
    metrics = client.get("/metrics").text
    assert 'segic_requests_total{method="POST",route="/v1/contexts/{id}/predict",status="429"} 4.0' in metrics
    assert "segic_pending_images 0.0" in metrics
    assert "segic_contexts 1.0" in metrics


def test_a_slow_prediction_ends_with_a_sentence(make_client, files, slow):
    client = make_client(model=slow, seconds=1)
    assert client.post(URL, files=files.reference(), data={"id": "a"}).status_code == 201
    refused(client.post(f"{URL}/a/predict", files=files.images()), 503, "took more than 1 s")
    slow.go.set()
    assert client.post(f"{URL}/a/predict", files=files.images()).status_code == 200


def test_contexts_survive_and_are_shared(make_client, files, tmp_path):
    first = make_client()
    first.post(URL, files=files.reference(), data={"id": "a"})
    second = make_client()
    assert second.get(URL).json() == {"contexts": ["a"]}
    assert second.post(f"{URL}/a/predict", files=files.images()).status_code == 200
    first.delete(f"{URL}/a")
    refused(second.post(f"{URL}/a/predict", files=files.images()), 404, "There is no context a")


def test_one_of_many_processes_gets_an_id(segmenter, tmp_path):
    image, mask = tiny.random_image(0, 50, 70)
    context = segmenter.fit(Example(image, mask, name="disk"))
    stores = [ContextStore(tmp_path, segmenter) for _ in range(8)]
    for id in ("a", "b", "c"):
        with ThreadPoolExecutor(8) as pool:
            added = list(pool.map(lambda store, id=id: store.add(id, context), stores))
        assert added.count(True) == 1
        assert stores[0].get(id).names == ("disk",)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda store, id=id: store.put(id, context), stores))
        assert stores[1].get(id).names == ("disk",)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.segic", "b.segic", "c.segic"]


def test_damaged_and_foreign_files_in_the_folder_are_named(client, context, files, tmp_path):
    folder = tmp_path / "contexts"
    (folder / "broken.segic").write_bytes((folder / "disks.segic").read_bytes()[:1000])
    (folder / "disks.segic.part").write_bytes(b"")
    (folder / "not an id.segic").write_bytes(b"")
    assert client.get(URL).json() == {"contexts": ["broken", "disks"]}
    refused(client.get(f"{URL}/broken"), 422, "Context broken is damaged")


def test_the_page_and_openapi_describe_every_route(client):
    openapi = client.get("/openapi.json").json()
    page = client.get("/docs").text
    for path, methods in openapi["paths"].items():
        for method, route in methods.items():
            assert f"{method.upper()} {path}" in page
            assert html.escape(route["description"], quote=False).replace("'", "&#39;") in page
    assert "http://" not in page
    assert "https://" not in page
