"""A service over fake engines: in process, and behind a real server on a loopback port."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import uvicorn
from starlette.testclient import TestClient

from runtime.api.app import create_app
from runtime.api.service import Service, Settings
from runtime.api.telemetry import Telemetry
from runtime.control.plane import ControlPlane
from runtime.control.records import RecordStore
from runtime.metrics.energy import EnergyMeter
from tests.fake_service import FakeEngine, served_bundle


@pytest.fixture
def records(tmp_path) -> Iterator[RecordStore]:
    tmp_path.chmod(0o700)
    with RecordStore(tmp_path / "records.sqlite") as store:
        yield store


@pytest.fixture
def build(records) -> Iterator[Callable[..., Service]]:
    """Builds services; all are stopped at the end."""
    planes = []

    def make(
        *engines: FakeEngine,
        settings: Settings | None = None,
        queue_limit: int = 64,
        names: tuple[str, ...] = ("story",),
        changes: tuple[dict[str, object], ...] = ({},),
    ) -> Service:
        telemetry = Telemetry()
        plane = ControlPlane(
            settled=telemetry.settled,
            stepped=telemetry.stepped,
            records=records,
            meter=EnergyMeter("none", (), reason="no energy counter"),
            queue_limit=queue_limit,
        )
        for name, engine, change in zip(names, engines or (FakeEngine(),), changes, strict=True):
            plane.serve(served_bundle(name, engine, **change))
        plane.start()
        planes.append(plane)
        settings = settings or Settings()
        hosts = (*settings.allowed_hosts, "testserver")
        return Service(plane, Settings(**{**vars(settings), "allowed_hosts": hosts}), telemetry)

    yield make
    for plane in planes:
        plane.stop()


@pytest.fixture
def service(build) -> Service:
    return build()


@pytest.fixture
def client(service) -> Iterator[TestClient]:
    with TestClient(create_app(service), raise_server_exceptions=False) as found:
        yield found


@dataclass
class Live:
    """A running server."""

    url: str
    port: int
    service: Service


@pytest.fixture
def serve() -> Iterator[Callable[[Service], Live]]:
    """Puts a service behind uvicorn on a free loopback port."""
    from runtime.api.server import BoundedProtocol

    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(service: Service) -> Live:
        config = uvicorn.Config(
            create_app(service),
            host="127.0.0.1",
            port=0,
            log_level="error",
            http=BoundedProtocol,
            lifespan="off",
            timeout_keep_alive=60,  # a starved client would meet a connection that has just ended
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        running.append((server, thread))
        return Live(f"http://127.0.0.1:{port}", port, service)

    yield start
    for server, thread in running:
        server.should_exit = True
        server.force_exit = True
        thread.join(10)
