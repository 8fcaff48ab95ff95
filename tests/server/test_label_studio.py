"""Test the service as an ML backend of Label Studio, with requests as Label Studio 1.23 sends them."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pytest
import tiny
from requirements import require_module
from test_service import URL, refused

from segic_jax.data.annotations import brush
from segic_jax.data.annotations.label_studio_interface import read_interface
from segic_jax.inference.example import Example

CONFIG = """<View><Image name="photo" value="$image"/>
<{kind}Labels name="tag" toName="photo">
<Label value="Disk"/><Label value="dog" predicted_values="disk 2, x"/>
</{kind}Labels>
</View>"""
BRUSH, POLYGON, RECTANGLE = (CONFIG.format(kind=kind) for kind in ("Brush", "Polygon", "Rectangle"))
STUDIO = f"{URL}/disks/label-studio"


def uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def tasks(*addresses: object, config: str = BRUSH) -> dict:
    """Return a request for predictions."""
    return {
        "tasks": [
            {"id": 7 + i, "data": {"image": address}, "project": 3, "meta": {}}
            for i, address in enumerate(addresses)
        ],
        "project": "3.1764540000",
        "label_config": config,
        "params": {"login": None, "password": None, "context": None},
    }


def annotated(files, action="ANNOTATION_CREATED", number=11, mask=None, **fields) -> dict:
    """Return a webhook's request about a brush stroke on the reference."""
    mask = tiny.random_image(0, 50, 70)[1] if mask is None else mask
    height, width = mask.shape
    region = {
        "id": "b1",
        "type": "brushlabels",
        "from_name": "tag",
        "to_name": "photo",
        "origin": "manual",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": brush.encode(mask), "brushlabels": ["Disk"]},
    }
    return {
        "action": action,
        "project": {"id": 3, "label_config": BRUSH, "title": "Disks"},
        "task": {"id": 7, "data": {"image": uri(files.image)}, "project": 3},
        "annotation": {"id": number, "result": [region], "was_cancelled": False, "ground_truth": False}
        | fields,
    }


@pytest.fixture
def context(client, files):
    sent = client.post(URL, files=files.reference(), data={"names": "disk", "id": "disks"})
    assert sent.status_code == 201, sent.text


def test_setup_and_health(client, context):
    assert client.get(f"{STUDIO}/health").json()["status"] == "UP"
    setup = {"project": "3.1764540000", "schema": BRUSH, "hostname": "http://localhost:8080"}
    setup |= {"access_token": "x", "extra_params": None}
    assert client.post(f"{STUDIO}/setup", json=setup).json()["model_version"].startswith("disks-")
    for config, words in (
        ("<View/>", "no Image with PolygonLabels"),
        ("<View>", "labelling interface is damaged"),
        ("<!DOCTYPE x><View/>", "declares entities"),
    ):
        refused(client.post(f"{STUDIO}/setup", json=setup | {"schema": config}), 422, words)
    refused(client.post(f"{STUDIO}/setup", json={}), 422, "schema: Field required")
    refused(client.post(f"{STUDIO}/setup", content=b"{"), 422, "Invalid JSON")


def test_predictions_are_those_of_the_api(client, context, files, segmenter):
    image, mask = tiny.random_image(0, 50, 70)
    expected = segmenter.predict(
        tiny.random_image(1, 41, 60)[0], segmenter.fit(Example(image, mask, name="disk"))
    )
    response = client.post(f"{STUDIO}/predict", json=tasks(uri(files.targets[0]), uri(files.targets[1])))
    assert response.status_code == 200, response.text
    first, second = response.json()["results"]
    assert first["model_version"] == second["model_version"]
    assert first["score"] == pytest.approx(float(expected.scores[0]), abs=1e-3)
    drawn = np.zeros((41, 60), bool)
    for item in first["result"]:
        assert (item["from_name"], item["to_name"], item["type"]) == ("tag", "photo", "brushlabels")
        assert (item["original_height"], item["original_width"]) == (41, 60)
        assert item["value"]["brushlabels"] == ["Disk"]
        drawn |= brush.decode(item["value"]["rle"], 41, 60)
    agreed = (drawn & expected.mask(0)).sum() / (drawn | expected.mask(0)).sum()
    assert agreed > 0.98  # specks are left out


@pytest.mark.parametrize("config", [BRUSH, POLYGON, RECTANGLE])
def test_the_sdk_takes_the_predictions(client, context, files, config):
    pytest.importorskip("label_studio_sdk", exc_type=ImportError)
    from label_studio_sdk.label_interface import LabelInterface
    from label_studio_sdk.label_interface.objects import PredictionValue

    sent = client.post(f"{STUDIO}/predict", json=tasks(uri(files.targets[0]), config=config))
    (prediction,) = sent.json()["results"]
    assert prediction["result"]
    assert LabelInterface(config).validate_prediction(prediction, return_errors=True) == []
    assert PredictionValue(**prediction).model_version == prediction["model_version"]


def test_classes_without_a_label_are_left_out(client, files):
    client.post(URL, files=files.reference(), data={"names": "cat", "id": "disks"})
    (prediction,) = client.post(f"{STUDIO}/predict", json=tasks(uri(files.targets[0]))).json()["results"]
    assert prediction["result"] == []


def test_labels_are_those_of_the_interface():
    interface = read_interface(BRUSH)
    assert interface.image == "image"
    names = ("disk", "Disk", "dog", "x", "cat")
    labels = [interface.of(name) for name in names]
    assert [found["brush"].label if found else None for found in labels] == [
        "Disk",
        "Disk",
        "dog",
        "dog",
        None,
    ]


def test_annotations_are_learned_updated_and_forgotten(client, files):
    ask = tasks(uri(files.targets[0]))
    (nothing,) = client.post(f"{STUDIO}/predict", json=ask).json()["results"]
    assert nothing["result"] == []
    learned = client.post(f"{STUDIO}/webhook", json=annotated(files))
    assert learned.status_code == 201, learned.text
    assert learned.json()["context"] == "disks-annotation-11"
    assert learned.json()["classes"] == ["Disk"]
    described = client.get(f"{URL}/disks-annotation-11").json()
    assert [reference["source"] for reference in described["references"]] == ["task 7"]
    (one,) = client.post(f"{STUDIO}/predict", json=ask).json()["results"]
    assert one["result"]
    assert one["model_version"] != nothing["model_version"]
    # A changed annotation replaces what was learned from it.
    other = np.zeros((50, 70), bool)
    other[5:20, 5:20] = True
    client.post(f"{STUDIO}/webhook", json=annotated(files, "ANNOTATION_UPDATED", mask=other))
    assert client.get(URL).json() == {"contexts": ["disks-annotation-11"]}
    (changed,) = client.post(f"{STUDIO}/predict", json=ask).json()["results"]
    assert changed["model_version"] != one["model_version"]
    client.post(f"{STUDIO}/webhook", json=annotated(files, number=12))
    deleted = {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 11}], "project": {"id": 3}}
    answer = client.post(f"{STUDIO}/webhook", json=deleted).json()
    assert answer["deleted"] == ["disks-annotation-11"]
    client.post(f"{STUDIO}/webhook", json=annotated(files, number=12, was_cancelled=True))
    assert client.get(URL).json() == {"contexts": []}
    ignored = {"action": "START_TRAINING", "project": {"id": 3}}
    assert client.post(f"{STUDIO}/webhook", json=ignored).json()["status"] == "ignored"


def test_bad_annotations_are_refused(make_client, files):
    client = make_client(contexts=1)
    other_size = np.zeros((10, 10), bool)
    other_size[2:5, 2:5] = True
    bomb = annotated(files)
    bomb["annotation"]["result"][0]["value"]["rle"] = [42, 170, 170, 170, 57, 200]
    for sent, words in (
        (annotated(files, mask=other_size), "10"),
        (bomb, "damaged"),
        (annotated(files, number=-1), "greater than or equal to 0"),
        (annotated(files, result=[{"type": "choices"}]), "no annotation of Label Studio"),
        ({"action": "ANNOTATION_CREATED"}, "Field required"),
        ({"action": "ANNOTATIONS_DELETED"}, "Field required"),
    ):
        refused(client.post(f"{STUDIO}/webhook", json=sent), 422, words)
    long = f"{URL}/{'x' * 60}/label-studio/webhook"
    refused(client.post(long, json=annotated(files)), 422, "shorter id")
    assert client.post(f"{STUDIO}/webhook", json=annotated(files)).status_code == 201
    refused(client.post(f"{STUDIO}/webhook", json=annotated(files, number=12)), 409, "the limit")


class _Studio(BaseHTTPRequestHandler):
    """Give an image to whoever has the token, and note what is asked for."""

    asked: ClassVar[list[str]] = []
    content = b""

    def do_POST(self):
        """Exchange a personal access token."""
        asked = self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fine = asked == ("/api/token/refresh", {"refresh": "personal.access.token"})
        answer = json.dumps({"access": "studio"} if fine else {}).encode()
        self.send_response(200 if fine else 401)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self):
        self.asked.append(self.path)
        if self.path.startswith("/data/upload/redirect"):
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/secret.png")
        elif self.headers["Authorization"] not in ("Token studio", "Bearer studio"):
            self.send_response(401)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def studio(files):
    """Return the address of a machine that gives images as Label Studio does."""
    _Studio.asked.clear()
    _Studio.content = files.targets[0]
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Studio)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_images_come_from_label_studio_only(segmenter, tmp_path, files, studio):
    require_module("httpx")
    from starlette.testclient import TestClient

    from segic_jax.runtime.limits import Limits
    from segic_jax.server.application import make_app
    from segic_jax.server.task_images import read_address

    (tmp_path / "secret.png").write_bytes(files.image)
    where = read_address(studio, "studio")
    port = studio.rpartition(":")[2]
    with TestClient(make_app(segmenter, tmp_path / "c", Limits(), label_studio=where)) as client:
        client.post(URL, files=files.reference(), data={"names": "disk", "id": "disks"})
        for address in ("/data/upload/3/a%20b.png", f"{studio}/data/local-files/?d=a/b.png"):
            sent = client.post(f"{STUDIO}/predict", json=tasks(address))
            assert sent.status_code == 200, sent.text
        assert _Studio.asked == ["/data/upload/3/a%20b.png", "/data/local-files/?d=a/b.png"]
        for address in (
            str(tmp_path / "secret.png"),
            f"file://{tmp_path}/secret.png",
            "http://169.254.169.254/latest/meta-data/",
            "http://127.0.0.1:1/data/a.png",
            f"https://127.0.0.1:{port}/data/a.png",
            f"http://localhost:{port}/data/a.png",
            f"http://127.0.0.1:{port}@example.com/data/a.png",
            f"http://user@127.0.0.1:{port}/data/a.png",
            "//example.com/data/a.png",
            "/\\example.com/data/a.png",
            "/data/../api/users",
            "/data/%2e%2e/api/users",
            "/data/%252e%252e/api/users",
            "/data/a.png\r\nX: y",
            "/api/users",
            "s3://bucket/a.png",
            "http://[",
        ):
            refused(client.post(f"{STUDIO}/predict", json=tasks(address)), 422, "no data: URI, nor a file of")
        for address, words in (
            ("/data/upload/redirect.png", "status 302"),
            ("", "has no image"),
            (5, "has no image"),
            ("data:image/png;base64,a", "encode the file in base64"),
            ("data:,abc", "encode the file in base64"),
            (uri(b"no image"), "the image of task 7 is damaged or not an image"),
            (uri(files.image[:-40]), "the image of task 7 is cut off or damaged"),
        ):
            refused(client.post(f"{STUDIO}/predict", json=tasks(address)), 422, words)
        assert len(_Studio.asked) == 3


def test_a_personal_access_token_is_exchanged(studio, files):
    require_module("fastapi")
    from segic_jax.errors import ConfigError, InputError
    from segic_jax.server.task_images import TaskImages, read_address

    images = TaskImages(read_address(f"{studio}/", "personal.access.token"), 1)
    for _ in range(2):
        assert images.read("/data/upload/1/a.png", "task 1") == files.targets[0]
    refusing = TaskImages(read_address(studio, "wrong.access.token"), 1)
    with pytest.raises(InputError, match="refuses the token of LABEL_STUDIO_API_KEY"):
        refusing.read("/data/upload/1/a.png", "task 1")
    for address in ("localhost:8080", "ftp://a", "http://a:b@c", "http://[", "http://a?b"):
        with pytest.raises(ConfigError, match="is no address"):
            read_address(address, None)


def test_without_an_address_images_are_in_the_tasks(client, context):
    refused(client.post(f"{STUDIO}/predict", json=tasks("/data/upload/a.png")), 422, "--label-studio")


def test_limits_and_the_token(make_client, files):
    client = make_client(token="0123456789abcdef", references=1, file_megabytes=1, request_megabytes=3)
    key = base64.b64encode(b"anybody:0123456789abcdef").decode()
    wrong = base64.b64encode(b"0123456789abcdef:anybody").decode()
    for given in (f"Basic {wrong}", "Basic ?", "Basic", f"Digest {key}"):
        refused(client.get(f"{STUDIO}/health", headers={"authorization": given}), 401, "missing or wrong")
    headers = {"authorization": f"Basic {key}"}
    assert client.get(f"{STUDIO}/health", headers=headers).status_code == 200
    client.post(URL, files=files.reference(), data={"names": "disk", "id": "disks"}, headers=headers)
    sent = tasks(uri(files.image), uri(files.image))
    refused(client.post(f"{STUDIO}/predict", json=sent, headers=headers), 413, "2 tasks were sent: at most 1")
    sent = tasks(uri(bytes(1 << 20 | 1)))
    refused(client.post(f"{STUDIO}/predict", json=sent, headers=headers), 422, "more than 1 MB")
    sent = tasks(uri(bytes(4 << 20)))
    refused(client.post(f"{STUDIO}/predict", json=sent, headers=headers), 413, "at most 3 MB")
