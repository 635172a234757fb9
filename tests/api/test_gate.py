"""What keeps strangers out: Host, Origin, key, bounds on bodies, depth, time and connections."""

from __future__ import annotations

import contextlib
import json
import socket
import time

import httpx
import pytest
from starlette.testclient import TestClient

from runtime.api import body as body_module
from runtime.api import server as server_module
from runtime.api.app import create_app
from runtime.api.security import host_name
from runtime.api.service import Settings
from tests.fake_service import FakeEngine

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
KEY = "0123456789abcdef0123456789abcdef"


def code(reply) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "",
        "[::2]:80",
        "localhost:1@evil.com",
        "localhost@evil.com",
        "localhost:80:80",
        "localhost:",
        "localhost:x",
        "localhost/",
        "[::1]evil",
        "[::1",
        "localhost:999999",
        "localhost#",
        "loc\\alhost",
    ],
)
def test_another_name_in_the_host_header_is_refused(client, host):
    assert code(client.get("/v1/models", headers={"Host": host})) == (403, "host_not_allowed")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080"])
def test_loopback_names_are_accepted(client, host):
    assert client.get("/v1/models", headers={"Host": host}).status_code == 200


def test_pages_of_other_origins_are_refused(client):
    for origin in ("https://evil.example", "null", "http://testserver:3000", "file://"):
        assert code(client.get("/v1/models", headers={"Origin": origin})) == (403, "origin_not_allowed")
    assert client.get("/v1/models", headers={"Origin": "http://testserver"}).status_code == 200


def test_an_allowed_origin_may_call(build):
    service = build(settings=Settings(allowed_origins=("https://weos.example",)))
    client = TestClient(create_app(service))
    assert client.get("/v1/models", headers={"Origin": "https://weos.example"}).status_code == 200


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", f"Basic {KEY}", "Bearer", f"Bearer {KEY}x", "Bearer ü"]
)
def test_a_key_is_required_where_there_is_one(build, header):
    client = TestClient(create_app(build(settings=Settings(api_key=KEY))))
    headers = {"Authorization": header.encode()} if header else {}
    reply = client.get("/v1/models", headers=headers)
    assert code(reply) == (401, "unauthorized")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert client.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert client.get("/health").json() == {"status": "ok"}


def test_health_is_503_while_loading_and_while_stopping(client, service):
    service.loading = True
    assert code(client.get("/health")) == (503, "loading")
    reply = client.post("/v1/runs", json={"model": "story", "prompt": "x"})
    assert code(reply) == (503, "loading")
    assert "retry-after" in reply.headers
    service.loading, service.stopping = False, True
    assert code(client.get("/health")) == (503, "shutting_down")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 50 + b"1" + b"}" * 50, "nested"),
        (b'{"model": "story", "model": "story", "prompt": ""}', "twice"),
        (b'{"model": "story", "prompt": "x", "sampling": {"top_p": NaN}}', "NaN"),
        (b'{"model": "story", "prompt": "x", "sampling": {"top_p": 1e999}}', "too large"),
        (b'{"model": "story", "prompt": "x", "sampling": {"seed": ' + b"9" * 5000 + b"}}", "digits"),
        (b'\xff\xfe', "UTF-8"),
        (b"", "not JSON"),
    ],
)  # fmt: skip
def test_json_that_means_harm_is_refused(client, data, words):
    reply = client.post("/v1/runs", content=data, headers={"Content-Type": "application/json"})
    assert code(reply) == (400, "invalid_json")
    assert words in reply.json()["error"]["message"]


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_a_body_that_is_no_object_is_refused(client, value):
    assert client.post("/v1/runs", json=value).status_code == 400


def test_brackets_in_texts_are_not_depth(client):
    prompt = "[" * 200 + '\\"{{'
    assert client.post("/tokenize", json={"content": prompt}).status_code == 200


def test_a_lone_surrogate_in_a_prompt_is_a_typed_error(build):
    client = TestClient(create_app(build()))
    reply = client.post("/v1/runs", content=b'{"model": "story", "prompt": "\\ud800"}')
    assert code(reply) == (400, "invalid_json")


def test_a_form_is_refused(client):
    reply = client.post("/v1/runs", content=b"{}", headers={"Content-Type": "text/plain"})
    assert code(reply) == (415, "not_json")


def test_a_gigantic_body_is_refused_early(build, serve):
    live = serve(build(settings=Settings(max_body_bytes=10_000)))
    sent = 0

    def flood():
        nonlocal sent
        for _ in range(1000):
            sent += 10_000
            yield b"x" * 10_000

    reply = httpx.post(f"{live.url}/v1/runs", content=flood(), headers={"Content-Type": "application/json"})
    assert code(reply) == (413, "body_too_large")
    assert reply.headers["connection"] == "close"
    assert live.service.intake.held == 0


def test_a_declared_length_is_enough_to_be_refused_and_the_reply_arrives(build, serve):
    live = serve(build())
    with socket.create_connection(("127.0.0.1", live.port)) as sock:
        sock.sendall(b"POST /v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n")
        sock.sendall(b"x" * 300_000)
        answer = reply_of(sock)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"body_too_large"' in answer


def reply_of(sock: socket.socket) -> bytes:
    """Everything until the server closes; a reset is an error."""
    sock.settimeout(30)
    found = b""
    while part := sock.recv(65536):
        found += part
    return found


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (GET + b"X-A: " + b"a" * 40_000 + b"\r\n\r\n", 431, "head_too_large"),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431, "head_too_large"),
        (GET + b"X-A: " + b"a" * 70_000, 431, "head_too_large"),
        (b"NONSENSE\r\n\r\n", 400, "invalid_http"),
        (b"\x16\x03\x01\x02\x00\x01", 400, "invalid_http"),
        (b"GET /health HTTP/1.1\r\n\r\n", 400, "invalid_http"),
        (GET + b"Host: b\r\n\r\n", 400, "invalid_http"),
        (GET + b"Transfer-Encoding: gzip\r\n\r\n", 400, "invalid_http"),
        (b"HEAD" + GET[3:] + b"X-A: " + b"a" * 40_000 + b"\r\n\r\n", 431, None),
    ],
)  # fmt: skip
def test_what_is_no_http_gets_the_one_shape_and_no_line_in_the_log(build, serve, caplog, head, status, code):
    live = serve(build())
    with socket.create_connection(("127.0.0.1", live.port)) as sock:
        sock.sendall(head)
        answer = reply_of(sock)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    if code is not None:
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert (error["code"], error["type"]) == (code, "invalid_request_error")
    assert caplog.text == ""


def test_a_body_that_never_arrives_times_out(build, serve, monkeypatch):
    monkeypatch.setattr(body_module, "BODY_SECONDS", 0.2)
    live = serve(build())
    with socket.create_connection(("127.0.0.1", live.port)) as sock:
        sock.sendall(b"POST /v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        sock.settimeout(5)
        assert b"408" in sock.recv(4096)


def test_a_connection_that_sends_nothing_is_closed(build, serve, monkeypatch):
    monkeypatch.setattr(server_module, "IDLE_SECONDS", 0.2)
    live = serve(build())
    with socket.create_connection(("127.0.0.1", live.port)) as sock:
        sock.sendall(b"GET /health HTT")
        sock.settimeout(server_module.IDLE_SECONDS + 30)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(100) == b""


def test_connections_beyond_the_bound_are_closed(build, serve, monkeypatch):
    live = serve(build())
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", server_module.BoundedProtocol.open_connections + 3)
    socks = [socket.create_connection(("127.0.0.1", live.port)) for _ in range(6)]
    try:
        answered = 0
        for sock in socks:
            sock.settimeout(30)
            try:
                sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                answered += b"200" in sock.recv(4096)
            except OSError:
                pass
        assert answered == 3
    finally:
        for sock in socks:
            sock.close()
    deadline = time.monotonic() + 5
    while httpx.get(f"{live.url}/health").status_code != 200:
        assert time.monotonic() < deadline


def test_too_many_requests_at_once_are_refused(build):
    client = TestClient(create_app(build(settings=Settings(max_in_flight=0))))
    reply = client.get("/v1/models")
    assert code(reply) == (503, "overloaded")
    assert "retry-after" in reply.headers


def test_a_client_that_does_not_read_is_cut_off(build, serve, records):
    engine = FakeEngine(context=100_000)
    service = build(engine, settings=Settings(send_seconds=0.3), changes=({"execution__context": 100_000},))
    live = serve(service)
    body = json.dumps(
        {"model": "story", "prompt": "Go", "max_tokens": 90_000, "stream": True, "logprobs": 20}
    ).encode()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", live.port))
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        deadline = time.monotonic() + 30
        while not (service.plane.live() or records.list()):
            time.sleep(0.01)
        while service.plane.live():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert records.list()[0]["stop_reason"] == "cancelled"
    assert engine.free_slots == engine.limits.slots


def test_unknown_paths_and_methods_have_the_one_shape(client):
    assert code(client.get("/nothing")) == (404, "not_found")
    reply = client.put("/v1/runs")
    assert code(reply) == (405, "method_not_allowed")
    assert set(reply.headers["allow"].split(", ")) >= {"GET", "POST"}


def test_a_defect_is_a_typed_500_without_internals(client, service, monkeypatch):
    monkeypatch.setattr(service.plane, "infos", lambda: 1 / 0)
    reply = client.get("/v1/models")
    assert code(reply) == (500, "internal_error")
    assert "division" not in reply.text


@pytest.mark.parametrize(
    ("header", "name"), [("a:1", "a"), ("[::1]:80", "::1"), ("::1", "::1"), ("A.B", "a.b"), ("[::1", "")]
)
def test_host_names(header, name):
    assert host_name(header) == name
