"""A scheduler policy that an installed package brings: plans and requests name it like the engine's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from compiler.plan import load_plan, plan_from_mapping
from runtime import scheduler as sched
from runtime.bundle import policynames
from runtime.bundle.reader import open_bundle
from runtime.errors import EXIT_PLAN, EngineError
from runtime.scheduler import policy as policies
from runtime.scheduler.policies import FirstComeFirstServed
from runtime.shelf.loading import load_bundle
from tests.command import Engine
from tests.fakes.bundle import make_bundle, resolved_plan

MODULE = """
from dataclasses import dataclass
from runtime.scheduler.policies import FirstComeFirstServed

@dataclass(frozen=True)
class YoungestFirst(FirstComeFirstServed):
    name: str = "youngest_first"

    def admission_key(self, waiting, view):
        return (-waiting.order,)

POLICY = YoungestFirst()
MISNAMED = YoungestFirst()
NO_POLICY = object()
"""
ENTRY_POINTS = """[engine.policies]
youngest_first = their_policies:POLICY
misnamed = their_policies:MISNAMED
a_class = their_policies:YoungestFirst
no_policy = their_policies:NO_POLICY
gone = their_policies_of_old:POLICY
"""
PLAN = """version: 1
model: {model}
backend: reference
quantization: q8_0
scheduler_policy: {policy}
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package as pip leaves it, on the path of this process."""
    site = tmp_path / "site"
    described = site / "their_policies-1.0.dist-info"
    described.mkdir(parents=True)
    (site / "their_policies.py").write_text(MODULE)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: their-policies\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(policies, "_REGISTRY", dict(policies._REGISTRY))
    yield
    sys.modules.pop("their_policies", None)


@pytest.mark.usefixtures("package")
def test_it_governs_the_steps_of_those_who_name_it() -> None:
    assert "youngest_first" in sched.names()
    assert "their_policies" not in sys.modules, "imported when it is first asked for"
    assert sched.get("youngest_first") is sched.get("youngest_first")
    view = policies.View(0, 1, 1, 8, 0, 0, (), (), sched.CostModel(flops_per_token=1, weight_bytes=1))
    early, late = (policies.Waiting(str(i), i, 0, 4, 4, None) for i in range(2))
    assert min((early, late), key=lambda w: sched.get("youngest_first").admission_key(w, view)) is late


@pytest.mark.usefixtures("package")
def test_plans_may_name_it(tmp_path: Path, engine: Engine) -> None:
    model = Path(__file__).parents[2] / "plans/models/storyteller-f16.gguf"
    path = tmp_path / "theirs.yaml"
    path.write_text(PLAN.format(model=model, policy="youngest_first"))
    assert load_plan(path).values["scheduler_policy"] == "youngest_first"
    explained = engine("plan", "explain", path)
    assert (explained.code, "youngest_first" in explained.out) == (0, True)
    path.write_text(PLAN.format(model=model, policy="yongest_first"))
    refused = engine("plan", "explain", path, "--json")
    assert refused.code == EXIT_PLAN
    (cause,) = refused.error["causes"]
    assert (cause["code"], cause["path"]) == ("unknown_scheduler_policy", "scheduler_policy")
    assert cause["allowed"].startswith("default, latency, cost, energy, latency_energy_balanced, ")
    assert cause["hint"] == "did you mean 'youngest_first'?"


def test_without_the_package_the_plan_and_its_bundle_are_refused(tmp_path: Path) -> None:
    tree = {"model": "x", "backend": "reference", "quantization": "q8_0"}
    with pytest.raises(EngineError) as caught:
        plan_from_mapping({**tree, "scheduler_policy": "youngest_first"}, tmp_path)
    assert [cause.code for cause in caught.value.causes] == ["unknown_scheduler_policy"]
    assert "engine.policies" in (caught.value.causes[0].hint or "")
    tmp_path.chmod(0o700)
    bundle = make_bundle(tmp_path / "bundle", plan=resolved_plan(scheduler_policy="youngest_first"))
    with pytest.raises(EngineError) as caught:
        load_bundle(open_bundle(bundle))
    assert (caught.value.code, caught.value.path) == ("unknown_scheduler_policy", "scheduler_policy")


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("name", ["misnamed", "a_class", "no_policy", "gone"])
def test_what_is_no_policy_is_refused_by_name(name: str) -> None:
    with pytest.raises(EngineError) as caught:
        sched.get(name)
    assert caught.value.code == "scheduler_policy_invalid"
    assert name in caught.value.message


@pytest.mark.usefixtures("package")
def test_the_engines_own_names_stay_the_engines_own() -> None:
    assert policynames.SHIPPED == sched.SHIPPED_POLICIES == sched.names()[:5]
    assert policynames.known_policies()[:5] == policynames.SHIPPED


def test_one_that_a_process_registers_is_known_to_its_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "_REGISTRY", dict(policies._REGISTRY))
    monkeypatch.setattr(policynames, "_announced", [])
    sched.register(replace(FirstComeFirstServed(), name="of_this_process"))
    tree = {"model": "x", "backend": "reference", "quantization": "q8_0"}
    plan = plan_from_mapping({**tree, "scheduler_policy": "of_this_process"}, tmp_path)
    assert plan.values["scheduler_policy"] == "of_this_process"
