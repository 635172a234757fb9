"""The example agents and ``engine top`` against a live server: clients of the API only."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from plans.agents.client import ApiError, EngineClient, Journal, kpi_of
from plans.agents.experimenter import experiment
from plans.agents.observer import patterns, read_runs
from plans.agents.optimiser import Bounds, Optimiser
from runtime.api.service import Settings
from runtime.cli import build_app
from runtime.cli.top import History, look, view
from runtime.errors import EngineError
from runtime.shelf.proposals import Proposal
from tests.fake_service import FakeEngine, resolved_plan, served_bundle


class FakeProposals:
    """Proposals without a compiler: every plan is a fake engine whose speed its quantization decides."""

    def __init__(self, plane, seconds: dict[str, float]) -> None:
        self.plane = plane
        self.seconds = seconds
        self.served: set[str] = set()

    def predict(self, document) -> Proposal:
        if document["quantization"]["recipe"] not in self.seconds:
            raise EngineError("invalid_plan", "no such recipe", path="quantization.recipe")
        plan = resolved_plan(document["name"], quantization__recipe=document["quantization"]["recipe"])
        memory = {"weights_bytes": 10, "kv_bytes": 10, "arena_bytes": 10}
        cost = {"weight_bytes": 10, "kv_bytes_per_token": 1, "flops_per_token": 20}
        return Proposal(document, plan, memory, cost, 5, True, 1000)

    def compile_and_serve(self, proposal: Proposal, most: int):
        recipe = proposal.plan.quantization.recipe
        engine = FakeEngine(step_seconds=self.seconds[recipe])
        bundle = served_bundle(proposal.plan.name, engine, quantization__recipe=recipe)
        self.plane.serve(bundle)
        self.served.add(bundle.info.name)
        return bundle.info

    def retire(self, name: str) -> None:
        self.plane.retire(name)
        self.served.discard(name)

    def command_for(self, *wanted: object) -> str | None:
        return None


@pytest.fixture
def live(build, serve):
    service = build(FakeEngine(step_seconds=0.004), settings=Settings(allow_compile=True))
    service.proposals = FakeProposals(service.plane, {"q8_0": 0.012, "q6_k": 0.0015})
    return serve(service)


def journal_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def optimiser(live, path, **bounds) -> Optimiser:
    return Optimiser(
        EngineClient(live.url),
        Journal(path, "optimiser"),
        ["Go", "Once"],
        Bounds(repetitions=2, max_tokens=8, **bounds),
        start="story",
        places=4,
    )


def test_the_optimiser_keeps_what_improves_and_says_why_it_discards(live, tmp_path):
    path = tmp_path / "journal.jsonl"
    best = optimiser(live, path).search([("quantization", "q8_0"), ("quantization", "q6_k")])
    assert best.plan.endswith("recipe-q6-k")
    lines = journal_of(path)
    assert [line["event"] for line in lines] == [
        "start", "proposed", "discarded", "proposed", "kept", "end",
    ]  # fmt: skip
    assert all(line["engine_version"] == "0.1.0" for line in lines)
    assert lines[0]["note"] == "the KPI is tokens_per_sec: no energy counter"
    assert "tokens_per_sec changes by -" in lines[2]["reason"]
    assert lines[2]["gain"] < 0 < lines[4]["gain"]
    assert len(lines[4]["executions"]) == 4
    assert lines[4]["best"]["plan"] == "story"
    # What was not kept is not served any longer.
    assert [plan["name"] for plan in EngineClient(live.url).plans()] == ["story", best.plan]


def test_a_faster_plan_below_the_quality_bound_is_discarded(live, tmp_path, monkeypatch):
    path = tmp_path / "journal.jsonl"
    found = optimiser(live, path)
    inner = Optimiser._next

    def worse(self, plan, ids):
        expected, top = inner(self, plan, ids)
        return (expected, top) if plan == "story" else (expected, "something else")

    monkeypatch.setattr(Optimiser, "_next", worse)
    assert found.search([("quantization", "q6_k")]).plan == "story"
    assert "agree at 0% of the places" in journal_of(path)[-2]["reason"]


def test_where_compiling_is_not_allowed_the_refusal_is_journalled(build, serve, tmp_path):
    service = build(FakeEngine())
    service.proposals = FakeProposals(service.plane, {"q8_0": 0.0})
    path = tmp_path / "journal.jsonl"
    assert optimiser(serve(service), path).search([("quantization", "q8_0")]).plan == "story"
    refused = next(line for line in journal_of(path) if line["event"] == "refused")
    assert refused["code"] == "compile_not_allowed"
    assert "--allow-compile" in refused["hint"]


def test_a_plan_served_by_the_operator_cannot_be_retired(live):
    with pytest.raises(ApiError) as error:
        EngineClient(live.url).call("DELETE", "/v1/plans/story")
    assert (error.value.status, error.value.code) == (403, "compile_not_allowed")


def test_a_proposal_is_predicted_and_not_built(live):
    plan = {"name": "next", "model": "tiny-story", "backend": "cpu_avx2", "quantization": {"recipe": "q8_0"}}
    reply = EngineClient(live.url).call("POST", "/v1/plans", {"plan": plan})
    assert reply["predicted"]["memory_bytes"] == 30
    assert reply["predicted"]["weight_bytes_per_token"] == 10
    assert [plan["name"] for plan in EngineClient(live.url).plans()] == ["story"]
    with pytest.raises(ApiError) as error:
        EngineClient(live.url).call(
            "POST", "/v1/plans", {"plan": {**plan, "quantization": {"recipe": "q4_k_m"}}}
        )
    assert (error.value.code, error.value.path) == ("invalid_plan", "plan.quantization.recipe")


def test_tokens_per_watt_is_the_kpi_where_it_was_measured():
    runs = [
        {"metrics": {"tokens_per_watt": x, "tokens_per_sec": 100.0}, "diagnostics": {"unknown": {}}}
        for x in (4.0, 4.2, 4.1)
    ]
    assert kpi_of(runs)["name"] == "tokens_per_watt"
    assert kpi_of(runs)["median"] == 4.1
    runs[1]["metrics"]["tokens_per_watt"] = None
    assert kpi_of(runs)["name"] == "tokens_per_sec"


def test_the_experimenter_varies_and_records(live, tmp_path):
    path = tmp_path / "journal.jsonl"
    results = experiment(
        EngineClient(live.url), Journal(path, "experimenter"), ["story"], ["default", "latency"], ["Go"],
        repetitions=2, max_tokens=4,
    )  # fmt: skip
    assert {result["policy"] for result in results} == {"default", "latency"}
    assert all(result["results"] == 1 and len(result["executions"]) == 2 for result in results)
    assert len(journal_of(path)) == 2


def test_the_observer_sees_and_changes_nothing(live):
    client = EngineClient(live.url)
    for _ in range(7):
        client.run("story", "Go", {"limits": {"max_tokens": 4}})
    before = client.call("GET", "/v1/runs/head")
    found = patterns(read_runs(client, 100), tolerance=1000.0)  # its findings, not this machine
    assert [(f["plan"], f["executions"], f["finding"]) for f in found] == [("story", 7, "steady")]
    assert client.call("GET", "/v1/runs/head") == before


def test_comparing_over_the_api(live):
    client = EngineClient(live.url)
    ids = [client.run("story", "Go", {"limits": {"max_tokens": n}})["execution_id"] for n in (6, 6, 7)]
    same = client.call("GET", f"/v1/compare?a={ids[0]}&b={ids[1]}")
    assert same["comparable"] is True
    assert same["metrics"]["tokens_per_sec"]["tolerance"] == 0.03
    with pytest.raises(ApiError) as error:
        client.call("GET", f"/v1/compare?a={ids[0]}&b={ids[2]}")
    assert (error.value.status, error.value.code, error.value.path) == (409, "not_comparable", "plan_digest")


def test_top_shows_what_runs_and_what_ended(live):
    client = EngineClient(live.url)
    done = client.run("story", "Go")["execution_id"]
    result = CliRunner().invoke(build_app(), ["top", "--url", live.url, "-n", "1"])
    assert result.exit_code == 0, result.output
    assert "no meter" in (result_text := result.output)
    result = CliRunner().invoke(build_app(), ["top", "--url", live.url, "-n", "1", "--json"])
    state = json.loads(result.stdout)
    assert state["runs"]["data"][0]["execution_id"] == done
    plan = {"plan": "story", "running": 0.0, "waiting": 0.0, "generated": 24.0}
    memory = {"kv": 0.0, "looked_up": 0.0, "reused": 0.0, "drafted": 0.0, "kept": 0.0}
    assert state["plans"] == [plan | memory]
    assert "KV pages 0% in use, 0% of all prompt tokens reused" in result_text


def test_top_counts_what_came_and_went_between_two_looks(live):
    client, history = EngineClient(live.url), History()
    assert history.add(look(live.url))["tokens_per_sec_now"] is None
    for _ in range(3):
        client.run("story", "Go", {"limits": {"max_tokens": 4}})
    now = look(live.url)
    seconds = now["time"] - history.last[0]
    assert now["runs"]["live"] == []
    assert history.add(now)["tokens_per_sec_now"] == pytest.approx(12 / seconds)


@pytest.mark.parametrize("width", [80, 120])
def test_top_shows_whole_ids_and_numbers_on_a_narrow_terminal(live, width):
    done = EngineClient(live.url).run("story", "Go")
    state = History().add(look(live.url))
    state["runs"]["live"] = [
        {
            "execution_id": "exec_0123456789abcdef",
            "bundle": "a-plan-with-a-long-name-of-its-own",
            "status": "prefill",
            "scheduler_policy": "latency_energy_balanced",
            "prompt_tokens": 131072,
            "tokens_total": 16384,
            "tokens_per_sec_now": 12345.6,
            "age_seconds": 3600.0,
        }
    ]
    text = view(state, live.url, width)
    for word in ("exec_0123456789abcdef", "131072", "16384", "12345.6", "3600.0", done["execution_id"]):
        assert word in text
    assert all(len(line) <= width for line in text.splitlines())
    assert ("latency_energy_balanced" in text) == (width == 120)


def test_top_without_a_server_says_so():
    result = CliRunner().invoke(build_app(), ["top", "--url", "http://127.0.0.1:9", "-n", "1"])
    assert isinstance(result.exception, EngineError)
    assert result.exception.code == "server_unreachable"
