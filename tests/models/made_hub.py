"""A hub on loopback: the few endpoints that fetching a model uses, with faults on request."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """``files`` by repository and name; ``requests`` is what was asked, in order.

    ``cut_after``: a download ends without warning after so many bytes, once.
    ``stall_after``: it stops there without ending, until ``released`` is set.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.token: str | None = None
        self.cut_after: int | None = None
        self.stall_after: int | None = None
        self.stalled = threading.Event()
        self.released = threading.Event()
        self.wrong_digest = False
        self.requests: list[tuple[str, str, str | None]] = []
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def downloads(self) -> list[tuple[str, str | None]]:
        """Path and ``Range`` of every download."""
        return [
            (path, ranged)
            for method, path, ranged in self.requests
            if method == "GET" and "/resolve/" in path
        ]

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        if self.hub.token is not None and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._error(401, "RepoNotFound", body)
        if path.startswith("/api/models/"):
            repo = "/".join(path.split("/")[3:5])
            if repo not in self.hub.repos:
                return self._error(404, "RepoNotFound", body)
            if "/revision/" in path and path.rpartition("/")[2] not in ("main", COMMIT):
                return self._error(404, "RevisionNotFound", body)
            return self._send(
                json.dumps(self._info(repo)).encode(), {"Content-Type": "application/json"}, body
            )
        parts = path.lstrip("/").split("/", 4)
        files = self.hub.repos.get("/".join(parts[:2]), {})
        if len(parts) < 5 or parts[2] != "resolve" or parts[4] not in files:
            return self._error(404, "EntryNotFound", body)
        data = files[parts[4]]
        headers = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        return self._send(data, headers, body, ranged=True)

    def _info(self, repo: str) -> dict[str, Any]:
        siblings = []
        for name, data in self.hub.repos[repo].items():
            digest = "0" * 64 if self.hub.wrong_digest else hashlib.sha256(data).hexdigest()
            lfs = {"sha256": digest, "size": len(data), "pointerSize": 100}
            siblings.append({"rfilename": name, "size": len(data), "lfs": lfs})
        return {"id": repo, "sha": COMMIT, "private": False, "downloads": 0, "tags": [], "siblings": siblings}

    def _send(self, data: bytes, headers: dict[str, str], body: bool, ranged: bool = False) -> None:
        begin, total = 0, len(data)
        asked = self.headers.get("Range") if ranged else None
        if asked is not None:
            begin = int(asked.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if asked is not None else 200)
        if asked is not None:
            self.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(total - begin))
        self.end_headers()
        if not body:
            return
        end = total
        if ranged and self.hub.cut_after is not None:
            end, self.hub.cut_after = begin + self.hub.cut_after, None
        if ranged and self.hub.stall_after is not None:
            self.wfile.write(data[begin : begin + self.hub.stall_after])
            self.wfile.flush()
            begin, self.hub.stall_after = begin + self.hub.stall_after, None
            self.hub.stalled.set()
            self.hub.released.wait(60)
        with contextlib.suppress(OSError):
            self.wfile.write(data[begin:end])
        if end < total:
            self.close_connection = True

    def _error(self, status: int, code: str, body: bool) -> None:
        data = json.dumps({"error": code}).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)
