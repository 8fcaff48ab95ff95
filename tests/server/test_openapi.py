"""Test the service against its own OpenAPI: whatever requests schemathesis makes of it, none breaks it."""

from requirements import require_module

schemathesis = require_module("schemathesis")
require_module("fastapi")
from hypothesis import HealthCheck, given, settings

EXAMPLES = 20  # requests of each route
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def test_no_request_breaks_the_service(make_client, files):
    client = make_client()
    assert client.post("/v1/contexts", files=files.reference(), data={"id": "a"}).status_code == 201
    statuses: dict[str, set[int]] = {}

    def check(case) -> None:
        if len(str((case.path_parameters or {}).get("id", ""))) % 2 and case.method != "DELETE":
            case.path_parameters["id"] = "a"  # else hardly any request would name a context
        response = case.call()
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            assert " " in response.json()["detail"]
        route = f"{case.method} {case.operation.path}"
        statuses.setdefault(route, set()).add(response.status_code)

    schema = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    for operation in (result.ok() for result in schema.get_all_operations()):
        SETTINGS(given(case=operation.as_strategy())(check))()
    assert len(statuses) == sum(map(len, client.get("/openapi.json").json()["paths"].values()))
    assert 200 in statuses["GET /v1/contexts/{id}"]
