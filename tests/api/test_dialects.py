"""What all dialects share: the table of their fields, and errors in their shape wherever they arise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from starlette.testclient import TestClient

from runtime.api.app import create_app
from runtime.api.checking import schema
from runtime.api.dialects.table import DIALECTS, markdown
from runtime.api.endpoints import ENDPOINTS
from runtime.api.openapi import document
from runtime.api.service import Settings

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "dialects.md"
KEY = "a key of sixteen characters"
PATHS = [e.path for e in ENDPOINTS if e.method == "POST" and e.path.startswith(("/api/", "/v1/messages"))]


def fields(rule: dict) -> Iterator[tuple[str, dict]]:
    for name, what in rule.get("properties", {}).items():
        yield name, what
        yield from fields(what)
        yield from fields(what.get("items", {}))
        yield from fields(what.get("items", {}).get("then", {}))


def test_the_table_of_fields_is_current():
    assert DOCUMENT.read_text() == markdown(), "python -m runtime.api.dialects.table > docs/dialects.md"


@pytest.mark.parametrize("name", DIALECTS)
def test_every_field_says_what_it_becomes_or_why_it_is_not_there(name):
    silent = [
        field
        for field, what in fields(schema(name))
        if not {"x-becomes", "x-unsupported-value", "properties"} & what.keys()
        and "properties" not in what.get("items", {})
    ]
    assert silent == []


def shape_of(path: str) -> dict:
    """The schema of a path's errors in the OpenAPI document."""
    operation = document()["paths"][path]["post"]
    name = operation["responses"]["503"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    return document()["components"]["schemas"][name]


@pytest.mark.parametrize("path", PATHS)
def test_errors_before_and_within_an_endpoint_have_its_shape(build, path):
    service = build(settings=Settings(api_key=KEY))
    key = {"Authorization": f"Bearer {KEY}"}
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        replies = [
            client.post(path, json={}),
            client.post(path, json={}, headers={"Host": "elsewhere", **key}),
            client.post(path, content=b"{", headers=key),
            client.post(path, json={"modell": "story"}, headers=key),
            client.put(path, headers=key),
            client.post(path + "/nothing", json={}, headers=key),
        ]
    statuses = [reply.status_code for reply in replies]
    assert statuses == [401, 403, 400, 400, 405, 404]
    for reply in replies:
        jsonschema.validate(reply.json(), shape_of(path))
