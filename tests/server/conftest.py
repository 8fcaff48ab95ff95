"""Provide a service on the small model, and files to send."""

import warnings

import pytest
import tiny
from requirements import require_module
from server_files import Files


@pytest.fixture(scope="session")
def files() -> Files:
    return Files()


@pytest.fixture(scope="session")
def segmenter():
    """Return the small model; every class counts as present."""
    require_module("fastapi")
    from segic_jax.inference.presence import EVIDENCE
    from segic_jax.inference.segmenter import Segmenter

    bundle = tiny.bundle()
    bundle.notes["presence"] = {"weights": dict.fromkeys(EVIDENCE, 0.0), "bias": 0.0, "least": 0.5}
    return Segmenter(bundle)


@pytest.fixture
def make_client(segmenter, tmp_path):
    """Return a function that starts a service, with limits and a token, and returns a client of it."""
    require_module("httpx")
    from starlette.testclient import TestClient

    from segic_jax.runtime.limits import Limits
    from segic_jax.runtime.notices import route_warnings
    from segic_jax.server.application import make_app

    show, clients = warnings.showwarning, []
    route_warnings()

    def make(token=None, folder=tmp_path / "contexts", model=segmenter, **limits):
        client = TestClient(make_app(model, folder, Limits(**limits), token=token))
        clients.append(client.__enter__())
        return client

    yield make
    warnings.showwarning = show
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(make_client):
    return make_client()
