"""``engine top``: a live view of a server, from its API."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli.output import print_json
from runtime.errors import EXIT_USAGE, EngineError

if TYPE_CHECKING:
    from rich.console import RenderableType


def register(app: typer.Typer) -> None:
    """Adds the command ``top``."""
    app.command()(top)


def top(
    url: Annotated[str, typer.Option(help="The server's address.")] = "http://127.0.0.1:8080",
    every: Annotated[float, typer.Option("--every", "-d", min=0.1, help="Seconds between looks.")] = 1.0,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="Stop after so many looks.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a look.")] = False,
) -> None:
    """Watch a server: running executions, queue, tokens a second, watts. Ctrl-C ends it.

    The key, if the server asks for one, is taken from ENGINE_API_KEY.
    """
    history = History()
    if as_json:
        for _ in _looks(count, every):
            print_json(history.add(look(url)))
        return
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with Live(console=console, auto_refresh=False, screen=console.is_terminal and count is None) as live:
        for _ in _looks(count, every):
            live.update(view(history.add(look(url)), url), refresh=True)


def _looks(count: int | None, every: float) -> Any:
    done = 0
    while True:
        yield done
        done += 1
        if count is not None and done >= count:
            return
        time.sleep(every)


def look(url: str) -> dict[str, Any]:
    """What the server says of this moment. Raises ``server_unreachable`` or the server's own error."""
    samples = parse_samples(_get(url, "/metrics").decode())
    return {
        "time": time.monotonic(),
        "runs": json.loads(_get(url, "/v1/runs?limit=10")),
        "slots": json.loads(_get(url, "/slots")),
        "plans": [
            {
                "plan": plan,
                "running": value,
                "waiting": samples.get(("engine_num_requests_waiting", plan), 0.0),
                "generated": samples.get(("engine_generation_tokens_total", plan), 0.0),
            }
            for (name, plan), value in sorted(samples.items())
            if name == "engine_num_requests_running"
        ],
        "watts": next((v for (name, _), v in samples.items() if name == "engine_power_watts"), None),
    }


def parse_samples(text: str) -> dict[tuple[str, str], float]:
    """Prometheus text as (name, value of its first label) → value."""
    found: dict[tuple[str, str], float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            head, _, value = line.rpartition(" ")
            name, _, labels = head.partition("{")
            found[name, labels.partition('"')[2].partition('"')[0]] = float(value)
    return found


@dataclass
class History:
    """Looks one after the other, for rates."""

    last: tuple[float, dict[str, int]] | None = field(default=None)

    def add(self, now: dict[str, Any]) -> dict[str, Any]:
        """The look with ``tokens_per_sec`` of every live execution (None in its first look) and in all."""
        tokens = {run["execution_id"]: run["tokens_total"] for run in now["runs"]["live"]}
        total = 0.0
        for run in now["runs"]["live"]:
            rate = None
            if self.last is not None and now["time"] > self.last[0]:
                before = self.last[1].get(run["execution_id"], 0)
                rate = (run["tokens_total"] - before) / (now["time"] - self.last[0])
                total += rate
            run["tokens_per_sec_now"] = rate
        known = self.last is not None
        self.last = (now["time"], tokens)
        return {**now, "tokens_per_sec_now": total if known else None}


def view(state: dict[str, Any], url: str) -> RenderableType:
    """The look as tables."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    watts = "no meter" if state["watts"] is None else f"{state['watts']:.1f} W"
    rate = state["tokens_per_sec_now"]
    running = sum(plan["running"] for plan in state["plans"])
    waiting = sum(plan["waiting"] for plan in state["plans"])
    head = Text(
        f"{url}   running {running:.0f}   waiting {waiting:.0f}   "
        f"{'-' if rate is None else f'{rate:.1f}'} tokens/s   {watts}"
    )
    live = Table(title="executions", title_justify="left", expand=True)
    for name in ("execution", "plan", "status", "policy", "prompt", "tokens", "tokens/s", "age s"):
        live.add_column(
            name, justify="right" if name in ("prompt", "tokens", "tokens/s", "age s") else "left"
        )
    for run in state["runs"]["live"]:
        now = run["tokens_per_sec_now"]
        live.add_row(
            run["execution_id"],
            run["bundle"],
            run["status"],
            run["scheduler_policy"],
            str(run["prompt_tokens"]),
            str(run["tokens_total"]),
            "-" if now is None else f"{now:.1f}",
            f"{run['age_seconds']:.1f}",
        )
    done = Table(title="ended", title_justify="left", expand=True)
    for name in ("execution", "plan", "stop reason", "tokens", "tokens/s", "tokens/W"):
        done.add_column(name, justify="right" if name.startswith("tokens") else "left")
    for run in state["runs"]["data"]:
        metrics = run["metrics"]
        done.add_row(
            run["execution_id"],
            run["plan"],
            run["stop_reason"],
            str(metrics.get("tokens_total", "-")),
            _number(metrics.get("tokens_per_sec")),
            _number(metrics.get("tokens_per_watt")),
        )
    return Group(head, live, done)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _get(url: str, path: str) -> bytes:
    if not url.startswith(("http://", "https://")):
        raise EngineError(
            "invalid_option", f"{url!r} is no address", path="--url", allowed="http://…", exit_code=EXIT_USAGE
        )
    request = urllib.request.Request(url.rstrip("/") + path)
    if key := os.environ.get("ENGINE_API_KEY"):
        request.add_header("Authorization", f"Bearer {key.strip()}")
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            data: bytes = reply.read()
            return data
    except urllib.error.HTTPError as failure:
        try:
            error = json.loads(failure.read())["error"]
        except (ValueError, KeyError, TypeError):
            error = {"code": "http_error", "message": f"status {failure.code}"}
        raise EngineError(error["code"], error["message"], path=url + path, hint=error.get("hint")) from None
    except (OSError, ValueError) as cause:
        raise EngineError(
            "server_unreachable",
            f"the server does not answer: {getattr(cause, 'reason', cause)}",
            path=url,
            hint="start one with `engine serve PLAN`, or name another with --url",
        ) from None
