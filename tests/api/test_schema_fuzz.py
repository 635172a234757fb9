"""schemathesis against the OpenAPI document: what it generates never meets a 5xx or a hang."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip("schemathesis")

from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import status_code_conformance  # noqa: E402

from runtime.api.app import create_app  # noqa: E402
from runtime.api.endpoints import ENDPOINTS  # noqa: E402
from runtime.api.service import Service, Settings  # noqa: E402
from runtime.api.telemetry import Telemetry  # noqa: E402
from runtime.control.plane import ControlPlane  # noqa: E402
from runtime.control.records import RecordStore  # noqa: E402
from runtime.metrics.energy import EnergyMeter  # noqa: E402
from runtime.shelf.proposals import Proposals  # noqa: E402
from tests.fake_service import FakeEngine, served_bundle  # noqa: E402


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    folder.chmod(0o700)
    telemetry = Telemetry()
    with RecordStore(folder / "records.sqlite") as records:
        plane = ControlPlane(
            records=records,
            meter=EnergyMeter("none", (), reason="no energy counter"),
            settled=telemetry.settled,
            stepped=telemetry.stepped,
        )
        plane.serve(served_bundle("story", FakeEngine()))
        plane.start()
        hosts = ("testserver", "localhost")
        proposals = Proposals(plane, {}, load=lambda path: served_bundle("never"))
        app = create_app(Service(plane, Settings(allowed_hosts=hosts), telemetry, proposals))
        yield schemathesis.openapi.from_asgi("/openapi.json", app)
        plane.stop()


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=str)
@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda e: f"{e.method} {e.path}")
def test_no_generated_request_breaks_the_server(api, endpoint, mode):
    operation = api[endpoint.path][endpoint.method]
    bounded = endpoint.body or any(set(p["schema"]) - {"type"} for p in endpoint.parameters)
    if mode is schemathesis.GenerationMode.NEGATIVE and not bounded:
        pytest.skip("nothing of this request can be wrong")

    @settings(max_examples=10, deadline=20_000, suppress_health_check=list(HealthCheck), database=None)
    @given(operation.as_strategy(generation_mode=mode))
    def exercise(case):
        # A generated name is no served plan's; half of the requests are given one that is.
        if isinstance(case.body, dict) and len(str(case.body)) % 2 and "model" in case.body:
            case.body["model"] = "story"
        response = case.call()
        case.validate_response(response, checks=(not_a_server_error, status_code_conformance))

    exercise()
