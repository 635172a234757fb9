"""The server as a process: drained by SIGTERM, cut by a second signal, killed while it streams."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from runtime.control.records import RecordStore

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    url: str
    records: Path


class Starter:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[Running] = []

    def __call__(self, drain_seconds: float = 10.0) -> Running:
        port_file = self.folder / f"port{len(self.running)}"
        records = self.folder / "records.sqlite"
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.api.serve_fake", str(port_file), str(records), str(drain_seconds)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
        )
        deadline = time.monotonic() + 30
        while not port_file.exists():
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        found = Running(process, port_file.read_text(), records)
        self.running.append(found)
        return found


@pytest.fixture
def start(tmp_path) -> Iterator[Starter]:
    tmp_path.chmod(0o700)
    starter = Starter(tmp_path)
    yield starter
    for running in starter.running:
        running.process.kill()
        running.process.wait()
        running.process.stderr.close()


def body(count: int, stream: bool = False) -> dict:
    return {
        "model": "story", "prompt": "Go", "stream": stream, "execution": {"limits": {"max_tokens": count}},
    }  # fmt: skip


def wait_until_it_drains(server) -> None:
    """Until the signal has arrived: from then on everything new is refused."""
    deadline = time.monotonic() + 30
    while httpx.get(f"{server.url}/health").json().get("error", {}).get("code") != "shutting_down":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_sigterm_lets_executions_end_and_exits_0(start):
    server = start()
    replies = []
    client = threading.Thread(
        target=lambda: replies.append(httpx.post(f"{server.url}/v1/runs", json=body(100), timeout=30))
    )
    client.start()
    while not httpx.get(f"{server.url}/v1/runs").json()["live"]:
        time.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)
    wait_until_it_drains(server)
    client.join(20)
    assert replies[0].json()["stop_reason"] == "max_tokens"
    assert server.process.wait(20) == 0
    with RecordStore(server.records) as store:
        assert store.get(replies[0].json()["execution_id"])["stop_reason"] == "max_tokens"


def test_a_deadline_or_a_second_signal_cuts_and_records(start):
    for drain_seconds, signals in ((0.2, 1), (60.0, 2)):
        server = start(drain_seconds)
        replies = []
        url = f"{server.url}/v1/runs"
        client = threading.Thread(
            target=lambda url=url, replies=replies: replies.append(
                httpx.post(url, json=body(480), timeout=30)
            )
        )
        client.start()
        while not httpx.get(f"{server.url}/v1/runs").json()["live"]:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        if signals == 2:
            wait_until_it_drains(server)  # two signals before the first is handled are one
            server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        client.join(10)
        assert replies[0].json()["stop_reason"] == "cancelled"
        with RecordStore(server.records) as store:
            assert store.list()[0]["stop_reason"] == "cancelled"


def stream_until_killed(url: str, acknowledged: set[str]) -> None:
    """Streams one short execution after the other; notes those whose final object arrived."""
    try:
        with httpx.Client(base_url=url, timeout=10) as client:
            while True:
                with client.stream("POST", "/v1/runs", json=body(random.randint(1, 20), True)) as reply:
                    event = ""
                    for line in reply.iter_lines():
                        if line.startswith("event: "):
                            event = line[7:]
                        elif line.startswith("data: ") and event == "result":
                            acknowledged.add(json.loads(line[6:])["execution_id"])
    except httpx.HTTPError:
        return


def test_every_acknowledged_execution_outlives_a_kill(start):
    acknowledged: set[str] = set()
    for _ in range(3):
        server = start()
        clients = [
            threading.Thread(target=stream_until_killed, args=(server.url, acknowledged)) for _ in range(4)
        ]
        for client in clients:
            client.start()
        enough, deadline = len(acknowledged) + random.randint(2, 10), time.monotonic() + 60
        while len(acknowledged) < enough and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(random.random() * 0.02)
        server.process.kill()
        server.process.wait()
        for client in clients:
            client.join(10)
        with RecordStore(server.records) as store:
            recorded = {record["execution_id"] for record in store.list(limit=100_000)}
            head, faults = store.verify()
        assert acknowledged <= recorded
        assert not faults
        assert head.count == len(recorded)
    assert len(acknowledged) >= 6


def test_a_port_that_is_taken_is_a_typed_error():
    from runtime.api.server import _listen
    from runtime.errors import EngineError

    first = _listen("127.0.0.1", 0)
    with first, pytest.raises(EngineError) as error:
        _listen("127.0.0.1", first.getsockname()[1])
    assert error.value.code == "address_in_use"
