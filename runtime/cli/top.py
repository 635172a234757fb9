"""``engine top``: a live view of a server, from its API."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from runtime.cli.output import print_json
from runtime.errors import EXIT_USAGE, EngineError


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
    from rich.text import Text

    console = Console()
    with Live(console=console, auto_refresh=False, screen=console.is_terminal and count is None) as live:
        for _ in _looks(count, every):
            text = view(history.add(look(url)), url, console.width)
            live.update(Text(text, no_wrap=True), refresh=True)


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
                "kv": samples.get(("engine_kv_cache_usage_perc", plan), 0.0),
                "looked_up": samples.get(("engine_prefix_cache_queries_total", plan), 0.0),
                "reused": samples.get(("engine_prefix_cache_hits_total", plan), 0.0),
                "drafted": samples.get(("engine_spec_decode_num_draft_tokens_total", plan), 0.0),
                "kept": samples.get(("engine_spec_decode_num_accepted_tokens_total", plan), 0.0),
            }
            for (name, plan), value in sorted(samples.items())
            if name == "engine_num_requests_running"
        ],
        "watts": next((v for (name, _), v in samples.items() if name == "engine_power_watts"), None),
        "metered": any(name == "engine_energy_joules_total" for name, _ in samples),
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

    last: tuple[float, float, dict[str, int]] | None = field(default=None)

    def add(self, now: dict[str, Any]) -> dict[str, Any]:
        """The look with ``tokens_per_sec_now`` of every live execution and of all, None in the first
        look. That of all is the server's own count: it holds what came and went between two looks."""
        tokens = {run["execution_id"]: run["tokens_total"] for run in now["runs"]["live"]}
        generated = sum(plan["generated"] for plan in now["plans"])
        seconds = now["time"] - self.last[0] if self.last is not None else 0.0
        for run in now["runs"]["live"]:
            run["tokens_per_sec_now"] = None
            if self.last is not None and seconds > 0:
                before = self.last[2].get(run["execution_id"], 0)
                run["tokens_per_sec_now"] = (run["tokens_total"] - before) / seconds
        total = None
        if self.last is not None and seconds > 0 and generated >= self.last[1]:  # else it was restarted
            total = (generated - self.last[1]) / seconds
        self.last = (now["time"], generated, tokens)
        return {**now, "tokens_per_sec_now": total}


def view(state: dict[str, Any], url: str, width: int) -> str:
    """The look as text of lines of at most ``width`` characters.

    Ids and numbers are shown whole, whatever the width: an id is what one cancels by.
    """
    watts = state["watts"]
    power = f"{watts:.1f} W" if watts is not None else "- W" if state["metered"] else "no meter"
    rate = state["tokens_per_sec_now"]
    running = sum(plan["running"] for plan in state["plans"])
    waiting = sum(plan["waiting"] for plan in state["plans"])
    head = (
        f"{running:.0f} of {len(state['slots'])} slots, {waiting:.0f} waiting, "
        f"{'-' if rate is None else f'{rate:.1f}'} tokens/s, {power}"
    )
    kv = max((plan["kv"] for plan in state["plans"]), default=0.0)
    looked_up = sum(plan["looked_up"] for plan in state["plans"])
    reused = sum(plan["reused"] for plan in state["plans"]) / looked_up if looked_up else 0.0
    cache = f"KV pages {kv:.0%} in use, {reused:.0%} of all prompt tokens reused"
    if drafted := sum(plan["drafted"] for plan in state["plans"]):
        cache += f", {sum(plan['kept'] for plan in state['plans']) / drafted:.0%} of drafts kept"
    live = [
        (
            run["execution_id"],
            run["bundle"],
            run["status"],
            run["scheduler_policy"],
            str(run["prompt_tokens"]),
            str(run["tokens_total"]),
            "-" if (now := run["tokens_per_sec_now"]) is None else f"{now:.1f}",
            f"{run['age_seconds']:.1f}",
        )
        for run in state["runs"]["live"]
    ]
    ended = [
        (
            run["execution_id"],
            run["plan"],
            run["stop_reason"],
            str(run["metrics"].get("tokens_total", "-")),
            _number(run["metrics"].get("tokens_per_sec")),
            _number(run["metrics"].get("watts_avg")),
            _number(run["metrics"].get("tokens_per_watt")),
        )
        for run in state["runs"]["data"]
    ]
    names = ("EXECUTION", "PLAN", "STATUS", "POLICY", "PROMPT", "TOKENS", "TOK/S", "AGE S")
    titles = ("ENDED", "PLAN", "BY", "TOKENS", "TOK/S", "WATTS", "TOK/W")
    lines = [url[:width], head[:width], cache[:width], "", *_columns([names, *live], (1, 3), 4, width)]
    return "\n".join([*lines, "", *_columns([titles, *ended], (1, 2), 3, width)])


def _columns(
    rows: list[tuple[str, ...]], yielding: tuple[int, ...], numbers: int, width: int
) -> Iterator[str]:
    """Rows as aligned lines; columns from ``numbers`` on to the right. Where the width does not
    suffice, the ``yielding`` columns are cut, the widest first."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    while sum(widths) + 2 * (len(widths) - 1) > width and max(widths[i] for i in yielding) > 4:
        widths[max(yielding, key=lambda i: widths[i])] -= 1
    for row in rows:
        cells = [
            (cell if len(cell) <= size else cell[: size - 1] + "…").ljust(size)
            if i < numbers
            else cell.rjust(size)
            for i, (cell, size) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


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
