"""A small client of the engine's API, and the journal every agent keeps. Standard library only."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from statistics import median
from typing import Any


class ApiError(Exception):
    """A reply that is an error; ``code``, ``path`` and ``hint`` as the engine gave them."""

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(f"{status} {error.get('code')}: {error.get('message')}")
        self.status = status
        self.code = str(error.get("code"))
        self.path = error.get("path")
        self.hint = error.get("hint")


class EngineClient:
    """Requests as JSON. ``key`` defaults to ``$ENGINE_API_KEY``."""

    def __init__(self, url: str, key: str | None = None, timeout: float = 600.0) -> None:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"not an http address: {url}")
        self._url = url.rstrip("/")
        self._key = key or os.environ.get("ENGINE_API_KEY")
        self._timeout = timeout

    def call(self, method: str, path: str, body: object | None = None) -> Any:
        """The JSON reply; waits and tries again where the server says that waiting helps."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        for attempt in range(8):
            request = urllib.request.Request(self._url + path, data, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=self._timeout) as reply:
                    return json.load(reply)
            except urllib.error.HTTPError as failure:
                text = failure.read()
                try:
                    error = json.loads(text)["error"]
                except (ValueError, KeyError, TypeError):
                    error = {"code": "http_error", "message": text[:200].decode(errors="replace")}
                if failure.code not in (429, 503) or attempt == 7:
                    raise ApiError(failure.code, error) from None
                time.sleep(min(30.0, float(failure.headers.get("Retry-After") or 1) * (attempt + 1)))
        raise AssertionError("the loop returns or raises")

    def run(self, model: str, prompt: str, execution: dict[str, Any] | None = None) -> dict[str, Any]:
        """A Run Request to its end."""
        body = {"model": model, "prompt": prompt, "execution": execution or {}}
        reply: dict[str, Any] = self.call("POST", "/v1/runs", body)
        return reply

    def plans(self) -> list[dict[str, Any]]:
        """What is served."""
        found: list[dict[str, Any]] = self.call("GET", "/v1/plans")["data"]
        return found

    def plan(self, name: str) -> dict[str, Any]:
        """One served plan. Raises ``KeyError``."""
        return next(plan for plan in self.plans() if plan["name"] == name)


class Journal:
    """One JSON object a line, appended and flushed at once; every line names agent and engine version."""

    def __init__(self, path: Path, agent: str) -> None:
        self._path = path
        self._agent = agent
        self.engine_version: str | None = None

    def write(self, event: str, **details: Any) -> None:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "agent": self._agent,
            "engine_version": self.engine_version,
            "event": event,
            **details,
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def kpi_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The KPI of repetitions: tokens per watt, or tokens per second where no meter spoke, and why.

    ``median`` and ``spread`` (largest minus smallest, over the median) of ``samples``.
    """
    name, reason = "tokens_per_watt", None
    if any(run["metrics"]["tokens_per_watt"] is None for run in runs):
        name = "tokens_per_sec"
        reason = next(
            (
                run["diagnostics"]["unknown"].get("tokens_per_watt", "tokens_per_watt is unknown")
                for run in runs
                if run["metrics"]["tokens_per_watt"] is None
            ),
            None,
        )
    samples = [run["metrics"][name] for run in runs if run["metrics"][name] is not None]
    middle = median(samples) if samples else None
    return {
        "name": name,
        "reason": reason,
        "samples": samples,
        "median": middle,
        "spread": (max(samples) - min(samples)) / middle if middle else None,
    }


def read_workload(path: Path | None) -> list[str]:
    """Prompts, one a line of the file (JSON strings or plain text); a few stories without one."""
    if path is None:
        return ["Once upon a time", "Era uma vez", "On a cold morning in the village,"]
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [json.loads(line) if line.startswith('"') else line for line in lines]
