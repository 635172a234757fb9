"""What every endpoint shares: the control plane, the operator's settings, the state of loading."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from runtime.api.intake import Intake
from runtime.control.plane import ControlPlane
from runtime.control.requests import match_bundle, overridden
from runtime.control.types import ServedBundle
from runtime.errors import EngineError

if TYPE_CHECKING:
    from runtime.api.telemetry import Telemetry
    from runtime.shelf.proposals import Proposals


@dataclass(frozen=True)
class Settings:
    """What the operator decided when starting the server.

    ``api_key``: the bearer key, None for none. ``allowed_hosts``: names accepted in the Host
    header. ``allowed_origins``: origins of pages that may call. ``max_in_flight``: requests
    at once. ``send_seconds``: how long a client may leave its stream unread. ``keep_watts``:
    refuse a request's ``max_watts`` where there is no meter, instead of recording it as
    advisory. ``allow_compile``: requests may compile plans.
    """

    api_key: str | None = None
    allowed_hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
    allowed_origins: tuple[str, ...] = ()
    max_body_bytes: int = 4 << 20
    max_in_flight: int = 256
    send_seconds: float = 30.0
    heartbeat_seconds: float = 15.0
    keep_watts: bool = False
    allow_compile: bool = False
    max_plans: int = 8


@dataclass
class Service:
    """The application's state. ``loading``: bundles that are still being opened."""

    plane: ControlPlane
    settings: Settings = field(default_factory=Settings)
    telemetry: Telemetry | None = None
    proposals: Proposals | None = None
    loading: bool = False
    stopping: bool = False
    intake: Intake = field(default_factory=Intake)

    def check_ready(self) -> None:
        """Raises ``loading``, ``shutting_down`` or ``executor_failed`` where nothing can be run."""
        if self.loading:
            raise EngineError("loading", "the plans are still being loaded", hint="try again in a moment")
        if self.stopping:
            raise EngineError("shutting_down", "the server is stopping")
        if self.plane.executor.failure is not None:
            raise self.plane.executor.failure

    def bundle(self, model: str | None, **execution: str | None) -> ServedBundle:
        """The served bundle a request means; without a model, the only one there is."""
        self.check_ready()
        infos = self.plane.infos()
        if model is None:
            if len(infos) == 1:
                return self.plane.bundle(infos[0].name)
            raise EngineError(
                "invalid_request",
                "model is missing, and several plans are served" if infos else "no plan is served",
                path="model",
                allowed=", ".join(info.name for info in infos) or None,
            )
        try:
            return self.plane.bundle(match_bundle(infos, model, **execution).name)
        except EngineError as error:
            if error.code == "plan_not_compiled" and self.proposals is not None:
                wanted = execution.get("backend"), execution.get("quantization")
                if (command := self.proposals.command_for(model, *wanted)) is not None:
                    error.hint = f"whoever runs this server can serve it beside: `{command}`"
            raise

    def override(self, bundle: ServedBundle, **wishes: Any) -> tuple[Any, tuple[str, ...]]:
        """The bundle's plan with a request's wishes in it, and notes; see :func:`overridden`."""
        meter = self.plane.meter
        return overridden(
            bundle.info.plan,
            has_energy_meter=meter.available,
            keep_watts=self.settings.keep_watts,
            energy_reason=meter.reason,
            **wishes,
        )


def service_of(request: Request) -> Service:
    """The service that a request reached."""
    service: Service = request.app.state.service
    return service
