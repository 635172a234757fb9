"""A bad plan is told everything that is wrong with it, at once and precisely."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.plan import check_plan, find_plan, load_plan, plan_from_mapping, plan_schema, resolve
from compiler.plan.schema import schema_faults
from runtime.bundle.planfields import BY_PATH, FIELDS, check_value
from runtime.errors import EXIT_PLAN, EngineError


def faults_of(document: Any, base: Path = Path()) -> dict[str, EngineError]:
    with pytest.raises(EngineError) as caught:
        plan_from_mapping(document, base)
    assert caught.value.code == "invalid_plan"
    assert caught.value.exit_code == EXIT_PLAN
    return {fault.path or "": fault for fault in caught.value.causes}


def test_the_example_of_the_contract_is_a_plan() -> None:
    plan_from_mapping(
        {
            "version": 1,
            "name": "storyteller-q4",
            "model": "models/storyteller-f16.gguf",
            "backend": "cpu_avx2",
            "quantization": "q4_k_m",
            "scheduler_policy": "default",
            "limits": {
                "max_tokens": 512,
                "max_seconds": None,
                "max_watts": None,
                "max_joules": None,
                "on_limit": "stop",
            },
            "execution": {"threads": 2, "context": 2048, "slots": 4, "step_tokens": 256, "kv_cache": "f16"},
            "sampling": {
                "temperature": 0.0,
                "top_k": 0,
                "top_p": 1.0,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "seed": 0,
            },
            "observability": {"op_timing": False},
        },
        Path(),
    )


def test_all_faults_come_together(minimal: dict[str, Any]) -> None:
    faults = faults_of(
        {
            **minimal,
            "backend": "cpu_avx3",
            "quantization": {"recipe": "q4km", "requantise": True},
            "limits": {"max_token": 5, "max_watts": -1, "on_limit": "pace"},
            "execution": {"threads": "two", "kv_cache": "F16", "slots": 0},
            "sampling": {"top_p": 1.5, "temperature": float("nan")},
            "plan": {},
        }
    )
    assert {path: fault.code for path, fault in faults.items()} == {
        "backend": "unknown_backend",
        "quantization.recipe": "not_allowed",
        "quantization.requantise": "unknown_field",
        "limits.max_token": "unknown_field",
        "limits.max_watts": "out_of_range",
        "limits.on_limit": "conflicting_fields",
        "execution.threads": "wrong_type",
        "execution.kv_cache": "not_allowed",
        "execution.slots": "out_of_range",
        "sampling.top_p": "out_of_range",
        "sampling.temperature": "out_of_range",
        "plan": "unknown_field",
    }
    assert faults["backend"].hint == "did you mean 'cpu_avx2'?"
    assert faults["quantization.recipe"].hint == "did you mean 'q4_k_m'?"
    assert faults["quantization.requantise"].hint == "did you mean 'requantize'?"
    assert faults["limits.max_token"].hint == "did you mean 'max_tokens'?"
    assert '"two"' in faults["execution.threads"].message
    assert faults["execution.slots"].allowed == "an integer from 1 to 1024"
    assert faults["limits.max_watts"].allowed == "a number above 0, up to 100000, or null"


def test_each_missing_field_is_named() -> None:
    assert {path: fault.code for path, fault in faults_of({}).items()} == {
        path: "missing_field" for path in ("model", "backend", "quantization")
    }


def test_a_field_in_the_wrong_place_is_told_its_place(minimal: dict[str, Any]) -> None:
    faults = faults_of({**minimal, "max_tokens": 3, "execution": {"seed": 1, "backend": "reference"}})
    assert faults["max_tokens"].hint == "it belongs at limits.max_tokens"
    assert faults["execution.seed"].hint == "it belongs at sampling.seed"
    assert faults["execution.backend"].hint == "it belongs at backend"


@pytest.mark.parametrize("document", [None, [], "text", 1, {"version": 2}, {"version": True}])
def test_what_is_no_plan_at_all_is_refused(document: Any, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(json.dumps(document))
    with pytest.raises(EngineError) as caught:
        load_plan(tmp_path / "p.yaml")
    assert caught.value.code == "invalid_plan"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", "../escape"),
        ("name", "a b"),
        ("name", ""),
        ("model", ""),
        ("model", "a\nb"),
        ("backend", 'x"; system("true'),
        ("quantization", None),
        ("quantization", ["q8_0"]),
        ("quantization.overrides", [{"tensors": 'a"b', "type": "q8_0"}]),
        ("quantization.overrides", [{"tensors": "*", "type": "q9_k"}]),
        ("quantization.overrides", [{"tensors": "*"}]),
        ("quantization.overrides", [{"tensors": "x", "type": "f16"}] * 257),
        ("limits.max_tokens", 0),
        ("limits.max_tokens", 1.5),
        ("limits.max_tokens", True),
        ("limits.max_seconds", 0),
        ("limits.max_seconds", float("inf")),
        ("limits.max_joules", 10**400),
        ("limits", None),
        ("sampling.seed", -1),
        ("sampling.seed", 1 << 63),
        ("sampling.top_k", float("nan")),
        ("observability.op_timing", "true"),
    ],
)
def test_values_that_could_do_harm_are_refused(path: str, value: Any, minimal: dict[str, Any]) -> None:
    document = dict(minimal)
    group, _, leaf = path.rpartition(".")
    if group:
        document[group] = {"recipe": "q8_0", leaf: value} if group == "quantization" else {leaf: value}
    else:
        document[leaf] = value
    faults = faults_of(document)
    assert any(fault.startswith(path) for fault in faults)


def test_watts_without_a_meter_are_refused_unless_advisory(minimal, machine, model) -> None:
    limited = plan_from_mapping({**minimal, "limits": {"max_watts": 25}}, Path())
    with pytest.raises(EngineError) as caught:
        resolve(limited, model, machine)
    (fault,) = caught.value.causes
    assert (fault.code, fault.path) == ("no_energy_meter", "limits.max_watts")
    assert "max_watts_advisory" in (fault.hint or "")
    resolve(limited, model, replace(machine, has_energy_meter=True))
    advisory = {**minimal, "limits": {"max_watts": 25, "max_watts_advisory": True}}
    assert resolve(plan_from_mapping(advisory, Path()), model, machine).limits.max_watts == 25


def test_pacing_needs_watts_to_pace_by(minimal) -> None:
    assert "limits.on_limit" in faults_of({**minimal, "limits": {"on_limit": "pace"}})


def test_more_tokens_than_the_context_holds_are_refused(minimal) -> None:
    faults = faults_of({**minimal, "limits": {"max_tokens": 100}, "execution": {"context": 64}})
    assert faults["limits.max_tokens"].code == "conflicting_fields"


def test_more_context_than_the_model_was_trained_for_is_refused(minimal, machine, model) -> None:
    plan = plan_from_mapping({**minimal, "execution": {"context": 8193}}, Path())
    with pytest.raises(EngineError) as caught:
        resolve(plan, model, machine)
    assert caught.value.causes[0].path == "execution.context"


def test_a_pattern_decided_twice_is_refused(minimal) -> None:
    twice = [{"tensors": "blk.*", "type": "q8_0"}, {"tensors": "blk.*", "type": "q6_k"}]
    faults = faults_of({**minimal, "quantization": {"recipe": "q8_0", "overrides": twice}})
    assert "quantization.overrides[1].tensors" in faults


def test_an_unknown_model_comes_with_the_nearest_file(minimal, machine, tmp_path: Path) -> None:
    (tmp_path / "storyteller-f16.gguf").touch()
    plan = tmp_path / "p.yaml"
    plan.write_text(json.dumps({**minimal, "model": "storyteler-f16.gguf", "backend": "none"}))
    with pytest.raises(EngineError) as caught:
        check_plan(plan, machine)
    codes = {fault.code: fault for fault in caught.value.causes}
    assert set(codes) == {"unknown_model", "unknown_backend"}
    assert "storyteller-f16.gguf" in (codes["unknown_model"].hint or "")


def test_a_missing_importance_matrix_is_a_fault(minimal, machine, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    plan = tmp_path / "p.yaml"
    plan.write_text(json.dumps({**minimal, "quantization": {"recipe": "q6_k", "imatrix": "none.dat"}}))
    with pytest.raises(EngineError) as caught:
        check_plan(plan, machine)
    assert [fault.path for fault in caught.value.causes] == ["quantization.imatrix"]


@pytest.mark.parametrize("model", ["a" * 4000, "x/" * 2000, "~nobody-of-that-name/m.gguf", "m.gguf/m.gguf"])
def test_paths_that_cannot_be_are_unknown_models(model: str, minimal, machine, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    plan = tmp_path / "p.yaml"
    plan.write_text(json.dumps({**minimal, "model": model}))
    with pytest.raises(EngineError) as caught:
        check_plan(plan, machine)
    assert [fault.code for fault in caught.value.causes] == ["unknown_model"]


@pytest.mark.parametrize("name", ["", ".", "a" * 5000, "a\0b", "~nobody-of-that-name"])
def test_names_that_cannot_be_are_unknown_plans(name: str) -> None:
    with pytest.raises(EngineError) as caught:
        find_plan(name)
    assert caught.value.code == "unknown_plan"


def test_an_unknown_plan_comes_with_the_nearest_bundled_one(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "storyteller-q4.yaml").touch()
    monkeypatch.setattr("compiler.plan.PLANS", tmp_path)
    assert find_plan("storyteller-q4") == tmp_path / "storyteller-q4.yaml"
    with pytest.raises(EngineError, match="storyteler") as caught:
        find_plan("storyteler-q4")
    assert caught.value.code == "unknown_plan"
    assert caught.value.hint == "did you mean 'storyteller-q4'?"


def test_a_client_names_no_path(minimal) -> None:
    for change in (
        {},
        {"model": "../../etc/passwd"},
        {"model": "x", "quantization": {"recipe": "f16", "imatrix": "/x"}},
    ):
        with pytest.raises(EngineError) as caught:
            plan_from_mapping({**minimal, **change}, Path(), model_paths=False)
        assert caught.value.causes[0].code == "not_allowed"
    plan_from_mapping({**minimal, "model": "llama3-8b"}, Path(), model_paths=False)


def test_a_backend_of_another_package_is_a_choice(minimal, monkeypatch) -> None:
    class Point:
        name = "cpu_other"

    monkeypatch.setattr(
        "compiler.plan.rules.entry_points", lambda group: [Point] * (group == "engine.backends")
    )
    assert plan_from_mapping({**minimal, "backend": "cpu_other"}, Path()).backend == "cpu_other"


def test_the_schema_is_a_schema_and_bounds_everything() -> None:
    jsonschema.Draft202012Validator.check_schema(plan_schema())

    def walk(rule: dict[str, Any], path: str) -> None:
        if "$ref" in rule:
            return
        assert "description" in rule, path
        types = rule.get("type", [])
        if "integer" in types or "number" in types:
            assert "maximum" in rule, path
            assert "minimum" in rule or "exclusiveMinimum" in rule, path
        if "string" in types:
            assert "pattern" in rule, path
        if types == "object":
            assert rule["additionalProperties"] is False, path
        if types == "array":
            assert "maxItems" in rule, path
            walk(rule["items"], path + "[]")
        for name, inner in rule.get("properties", {}).items():
            walk(inner, f"{path}.{name}")

    walk(plan_schema(), "")
    for name, rule in plan_schema()["$defs"].items():
        walk(rule, name)


def test_schema_and_resolved_fields_say_the_same() -> None:
    """What the schema accepts, a resolved plan holds, and the other way round."""
    rules: dict[str, dict[str, Any]] = {}
    for name, rule in plan_schema()["properties"].items():
        group = plan_schema()["$defs"].get(name)
        for leaf, inner in (group["properties"] if group else {}).items():
            rules[f"{name}.{leaf}"] = inner
        if group is None:
            rules[name] = rule
    assert set(rules) == set(BY_PATH) - {"model_digest"}
    for field in FIELDS:
        rule = rules.get(field.path, {})
        if "$ref" in rule:
            rule = plan_schema()["$defs"][rule["$ref"].rpartition("/")[2]]
        if field.choices:
            assert tuple(rule["enum"]) == field.choices, field.path
        if field.kind in ("integer", "number") and "const" not in rule:
            low = rule["exclusiveMinimum"] if field.above else rule["minimum"]
            assert (low, rule["maximum"]) == (field.low, field.high), field.path
            assert ("null" in rule["type"]) == field.nullable, field.path
        if field.path in ("name", "backend"):
            assert rule["pattern"] == field.pattern


TEXT = st.text(alphabet='azAZ09_./-*\n\0é"', max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*plan_schema()["properties"], "other"]), JSON))
def test_any_tree_is_judged_without_falling_over(document: dict[str, Any]) -> None:
    for fault in schema_faults(document):
        assert fault.code
        assert fault.to_json()


@given(st.sampled_from([field.path for field in FIELDS]), JSON)
def test_any_value_is_judged_without_falling_over(path: str, value: Any) -> None:
    fault = check_value(path, value)
    assert fault is None or fault.path.startswith(path)
