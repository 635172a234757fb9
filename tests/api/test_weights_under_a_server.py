"""The mapped weights of one plan are truncated by another process: its runs fail, the server goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from compiler import compile_plan
from runtime.api.service import Service, Settings
from runtime.api.telemetry import Telemetry
from runtime.bundle.reader import open_bundle
from runtime.control.plane import ControlPlane
from runtime.control.records import RecordStore
from runtime.metrics.energy import EnergyMeter
from runtime.shelf.loading import load_bundle

ROOT = Path(__file__).resolve().parents[2]
PLAN = """version: 1
name: {name}
model: {root}/plans/models/storyteller-f16.gguf
backend: reference
quantization: q8_0
execution: {{context: 512, slots: 2, step_tokens: 64, threads: 2}}
"""


def copied(folder: Path, name: str) -> Path:
    """A bundle whose files are its own: those of a cache are linked to one another."""
    plan = folder / f"{name}.yaml"
    plan.write_text(PLAN.format(name=name, root=ROOT))
    return Path(shutil.copytree(compile_plan(plan), folder / name))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    tmp_path.chmod(0o700)
    telemetry = Telemetry()
    plane = ControlPlane(
        records=RecordStore(tmp_path / "records.sqlite"),
        meter=EnergyMeter("none", (), reason="no energy counter"),
        settled=telemetry.settled,
        stepped=telemetry.stepped,
    )
    for name in ("hurt", "other"):
        plane.serve(load_bundle(open_bundle(copied(tmp_path, name)), residence="mapped"))
    plane.start()
    yield Service(plane, Settings(), telemetry)
    plane.stop()
    plane.records.close()


def run(url: str, name: str, **more: object) -> httpx.Response:
    body = {"model": name, "prompt": "Once upon a time", "execution": {"limits": {"max_tokens": 16}}, **more}
    return httpx.post(f"{url}/v1/runs", json=body, timeout=60)


def test_the_run_ends_with_an_error_and_the_server_serves_on(service: Service, serve, tmp_path: Path) -> None:
    url = serve(service).url
    before = run(url, "other").json()["result"]
    weights = tmp_path / "hurt" / "weights.bin"
    weights.chmod(0o600)
    body = {
        "model": "hurt",
        "prompt": "Once upon a time",
        "stream": True,
        "execution": {"limits": {"max_tokens": 480, "min_tokens": 480}},
    }
    kinds: list[str] = []
    with httpx.stream("POST", f"{url}/v1/runs", json=body, timeout=60) as reply:
        assert reply.status_code == 200, reply.read()
        for line in reply.iter_lines():
            if line.startswith("event: "):
                kinds.append(line.removeprefix("event: "))
            elif line.startswith("data: "):
                last = json.loads(line.removeprefix("data: "))
            if len(kinds) == 4:
                subprocess.run(["truncate", "-s", "0", str(weights)], check=True)
    assert kinds[-1] == "error"
    assert last["error"]["code"] == "weights_changed"
    assert run(url, "other").json()["result"] == before
    again = run(url, "hurt")
    assert (again.status_code, again.json()["error"]["code"]) == (500, "weights_changed")
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    ends = [record["stop_reason"] for record in service.plane.records.list()]
    assert ends == ["error", "max_tokens", "error", "max_tokens"]
