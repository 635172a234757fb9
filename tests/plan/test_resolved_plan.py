"""A resolved plan leaves nothing open, says where all came from, and has one digest a decision."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from compiler.plan import load_plan, plan_from_mapping, resolve
from compiler.quantize.recipes import TensorType
from runtime.bundle.plan import ResolvedPlan, TypeOverride
from runtime.bundle.planfields import BY_PATH
from runtime.errors import EXIT_BUNDLE, EngineError


@pytest.fixture
def resolved(minimal, model, machine) -> ResolvedPlan:
    return resolve(plan_from_mapping(minimal, Path()), model, machine)


def test_every_value_has_its_origin(resolved: ResolvedPlan) -> None:
    assert set(resolved.values()) == set(resolved.origins) == set(BY_PATH)
    assert resolved.origins["backend"] == "plan"
    assert resolved.origins["sampling.seed"] == "default"
    assert resolved.origins["execution.context"] == "model"
    assert resolved.origins["execution.threads"] == "probe"
    assert resolved.origins["model_digest"] == "model"
    assert resolved.execution.context == 4096
    assert resolved.execution.threads == 4
    assert (resolved.execution.slots, resolved.execution.step_tokens) == (4, 256)
    assert resolved.execution.kv_cache == "f16"
    assert resolved.limits.max_tokens == 512
    assert resolved.name == "m-q4_k_m"
    assert resolved.model == "m"


def test_small_contexts_bound_the_default_tokens(minimal, machine, make_model, tmp_path: Path) -> None:
    tiny = make_model(tmp_path / "m.gguf", "a" * 64, context=100)
    plan = resolve(plan_from_mapping(minimal, Path()), tiny, machine)
    assert plan.execution.context == plan.limits.max_tokens == 100


def test_a_models_small_context_is_not_blamed_on_the_plan(
    minimal, machine, make_model, tmp_path: Path
) -> None:
    tiny = make_model(tmp_path / "m.gguf", "a" * 64, context=100)
    asks = {**minimal, "limits": {"max_tokens": 200}}
    with pytest.raises(EngineError) as caught:
        resolve(plan_from_mapping(asks, Path()), tiny, machine)
    (fault,) = caught.value.causes
    assert fault.message == "200 is more than the 100 tokens that the model was trained for"
    assert fault.hint == "lower limits.max_tokens"
    resolved = resolve(plan_from_mapping(minimal, Path()), tiny, machine)
    with pytest.raises(EngineError) as caught:
        resolved.with_overrides({"max_tokens": 200})
    assert "trained for" in str(caught.value.causes or caught.value)


def test_a_model_that_hides_its_context_needs_one_declared(minimal, machine, model) -> None:
    silent = replace(model, metadata={})
    with pytest.raises(EngineError) as caught:
        resolve(plan_from_mapping(minimal, Path()), silent, machine)
    assert caught.value.causes[0].path == "execution.context"
    said = {**minimal, "execution": {"context": 64}}
    assert resolve(plan_from_mapping(said, Path()), silent, machine).execution.context == 64


def test_plans_that_resolve_alike_have_one_digest(minimal, machine, make_model, tmp_path: Path) -> None:
    here = make_model(tmp_path / "m.gguf", "a" * 64)
    there = make_model(tmp_path / "else/where.gguf", "a" * 64)
    first = resolve(plan_from_mapping(minimal, Path()), here, machine)
    spelled_out = {
        **minimal,
        "name": "another",
        "model": "else/where.gguf",
        "quantization": {"recipe": "q4_k_m", "overrides": [], "imatrix": None},
        "execution": {"threads": 4.0, "context": 4096, "slots": 4},
        "sampling": {"temperature": 0, "top_p": 1},
    }
    second = resolve(plan_from_mapping(spelled_out, tmp_path), there, machine)
    assert first.digest == second.digest
    assert first.to_bytes() != second.to_bytes()  # names and origins are told, not counted
    assert str(tmp_path).encode() not in second.to_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"backend": "cpu_avx2"},
        {"quantization": "q6_k"},
        {"quantization": {"recipe": "q4_k_m", "requantize": True}},
        {"quantization": {"recipe": "q4_k_m", "overrides": [{"tensors": "output.weight", "type": "q8_0"}]}},
        {"scheduler_policy": "energy"},
        {"limits": {"max_seconds": 1}},
        {"execution": {"threads": 3}},
        {"execution": {"kv_cache": "q8_0"}},
        {"sampling": {"seed": 1}},
        {"observability": {"op_timing": True}},
    ],
)
def test_every_decision_changes_the_digest(change, minimal, machine, model, resolved) -> None:
    assert resolve(plan_from_mapping({**minimal, **change}, Path()), model, machine).digest != resolved.digest


def test_the_models_content_changes_the_digest(
    minimal, machine, make_model, resolved, tmp_path: Path
) -> None:
    other = make_model(tmp_path / "m.gguf", "b" * 64)
    assert resolve(plan_from_mapping(minimal, Path()), other, machine).digest != resolved.digest


def test_the_importance_matrix_counts_by_its_content(minimal, machine, model, tmp_path: Path) -> None:
    digests = set()
    for folder, content in (("a", b"x"), ("b", b"x"), ("c", b"y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "imatrix.dat").write_bytes(content)
        document = {**minimal, "quantization": {"recipe": "q4_k_m", "imatrix": "imatrix.dat"}}
        digests.add(resolve(plan_from_mapping(document, tmp_path / folder), model, machine).digest)
    assert len(digests) == 2


def test_it_is_written_canonically_and_read_back(minimal, machine, model) -> None:
    overrides = [{"tensors": "blk.*.ffn_down.weight", "type": "q6_k"}]
    document = {**minimal, "quantization": {"recipe": "q4_k_m", "overrides": overrides}}
    plan = resolve(plan_from_mapping(document, Path()), model, machine)
    assert plan.quantization.overrides == (TypeOverride("blk.*.ffn_down.weight", "q6_k"),)
    data = plan.to_bytes()
    assert data == json.dumps(json.loads(data), sort_keys=True, separators=(",", ":")).encode() + b"\n"
    assert ResolvedPlan.from_bytes(data) == plan
    assert ResolvedPlan.from_bytes(data).digest == plan.digest
    assert json.loads(data)["fields"]["backend"] == {"value": "reference", "origin": "plan"}


def test_the_types_of_tensors_are_written_beside_the_fields(resolved: ResolvedPlan) -> None:
    decided = [TensorType("output.weight", "f16", "q6_k", "q4_k_m: output")]
    body = json.loads(resolved.to_bytes(decided))
    assert body["tensors"] == [
        {"name": "output.weight", "source_type": "f16", "type": "q6_k", "reason": "q4_k_m: output"}
    ]
    assert ResolvedPlan.from_bytes(resolved.to_bytes(decided)) == resolved


def test_it_is_frozen(resolved: ResolvedPlan) -> None:
    with pytest.raises(FrozenInstanceError):
        resolved.backend = "cpu_avx2"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        resolved.limits.max_tokens = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        resolved.origins["backend"] = "override"  # type: ignore[index]


@pytest.mark.parametrize(
    "damage",
    [
        lambda body: body["fields"].pop("backend"),
        lambda body: body["fields"].update(extra={"value": 1, "origin": "plan"}),
        lambda body: body["fields"]["limits.max_tokens"].update(value=0),
        lambda body: body["fields"]["limits.max_tokens"].update(value=513),
        lambda body: body["fields"]["limits.max_tokens"].update(origin="somewhere"),
        lambda body: body["fields"]["sampling.seed"].update(value="0"),
        lambda body: body["fields"].update(backend="reference"),
        lambda body: body.update(digest="0" * 64),
        lambda body: body.update(more=1),
        lambda body: body.update(fields=[]),
    ],
)
def test_a_damaged_plan_of_a_bundle_is_refused(damage, resolved: ResolvedPlan) -> None:
    body: Any = json.loads(resolved.to_bytes())
    damage(body)
    with pytest.raises(EngineError) as caught:
        ResolvedPlan.from_json(body)
    assert caught.value.code == "bad_bundle_plan"
    assert caught.value.exit_code == EXIT_BUNDLE


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_plan_json_is_refused(data: bytes) -> None:
    with pytest.raises(EngineError) as caught:
        ResolvedPlan.from_bytes(data)
    assert caught.value.code == "bad_bundle_plan"


def test_a_runs_own_wishes_make_a_new_plan(resolved: ResolvedPlan) -> None:
    changed = resolved.with_overrides({"max_tokens": 7, "max_seconds": 2}, {"temperature": 1}, 2)
    assert changed.limits.max_tokens == 7
    assert changed.limits.max_seconds == 2.0
    assert changed.sampling.temperature == 1.0
    assert changed.execution.threads == 2
    overridden = {path for path, origin in changed.origins.items() if origin == "override"}
    assert overridden == {
        "limits.max_tokens",
        "limits.max_seconds",
        "sampling.temperature",
        "execution.threads",
    }
    assert changed.digest != resolved.digest
    assert resolved.limits.max_tokens == 512
    assert resolved.with_overrides() == resolved


def test_bad_wishes_are_refused_together(resolved: ResolvedPlan) -> None:
    with pytest.raises(EngineError) as caught:
        resolved.with_overrides(
            {"max_token": 3, "max_watts": float("nan"), "on_limit": 1}, {"top_p": 2, "seed": None}, 0
        )
    assert {fault.path: fault.code for fault in caught.value.causes} == {
        "limits.max_token": "unknown_field",
        "limits.max_watts": "wrong_type",
        "limits.on_limit": "wrong_type",
        "sampling.top_p": "out_of_range",
        "sampling.seed": "wrong_type",
        "execution.threads": "out_of_range",
    }


def test_what_needs_other_code_or_memory_cannot_be_wished(resolved: ResolvedPlan) -> None:
    for wish in ("backend", "quantization", "context", "slots", "step_tokens", "kv_cache"):
        with pytest.raises(EngineError) as caught:
            resolved.with_overrides(**{wish: 1})
        assert caught.value.causes[0].code == "not_overridable"


def test_wishes_keep_the_rules_between_fields(resolved: ResolvedPlan) -> None:
    for limits, meter, code in (
        ({"on_limit": "pace"}, None, "conflicting_fields"),
        ({"max_tokens": 5000}, None, "conflicting_fields"),
        ({"max_watts": 20}, False, "no_energy_meter"),
    ):
        with pytest.raises(EngineError) as caught:
            resolved.with_overrides(limits, has_energy_meter=meter)
        assert caught.value.causes[0].code == code
    assert resolved.with_overrides({"max_watts": 20}, has_energy_meter=True).limits.max_watts == 20


def test_a_plan_saved_elsewhere_means_the_same(minimal, tmp_path: Path) -> None:
    document = {**minimal, "model": "models/m.gguf", "limits": {"max_watts": 25.0}}
    plan = plan_from_mapping(document, tmp_path)
    (tmp_path / "plans").mkdir()
    saved = tmp_path / "plans/saved.yaml"
    saved.write_text(plan.to_yaml(saved.parent))
    again = load_plan(saved)
    assert (again.base_dir / again.model).resolve() == tmp_path / "models/m.gguf"
    assert {**again.values, "model": None} == {**plan.values, "model": None, "name": plan.name}
    assert next(iter(yaml.safe_load(saved.read_text()))) == "version"
