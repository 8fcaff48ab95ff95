"""Show an OpenAPI description as a page that loads nothing from other machines."""

from typing import Any

import jinja2


def render_page(openapi: dict[str, Any]) -> str:
    """Return the page for a description of `FastAPI.openapi`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segic_jax.server"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    routes = [
        {
            "method": method.upper(),
            "path": path,
            "text": route.get("description", ""),
            "fields": [*_parameters(route), *_form_fields(route)],
            "answers": {code: item["description"] for code, item in route["responses"].items()},
        }
        for path, methods in openapi["paths"].items()
        for method, route in methods.items()
    ]
    return environment.get_template("routes.html.j2").render(info=openapi["info"], routes=routes)


def _parameters(route: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "name": item["name"],
            "where": item["in"],
            "type": _type(item["schema"]),
            "text": item.get("description", ""),
        }
        for item in route.get("parameters", [])
    ]


def _form_fields(route: dict[str, Any]) -> list[dict[str, str]]:
    content = route.get("requestBody", {}).get("content", {})
    fields = content.get("multipart/form-data", {}).get("schema", {}).get("properties", {})
    return [
        {"name": name, "where": "form", "type": _type(schema), "text": schema.get("description", "")}
        for name, schema in fields.items()
    ]


def _type(schema: dict[str, Any]) -> str:
    """Describe a schema in a few words."""
    if "anyOf" in schema:
        return " or ".join(_type(item) for item in schema["anyOf"] if item.get("type") != "null")
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"{_type(schema['items'])}, repeated"
    return "file" if schema.get("format") == "binary" else str(schema.get("type", ""))
