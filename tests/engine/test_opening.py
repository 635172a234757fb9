"""Opening an executable: what cannot run is refused by name before anything is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from runtime.bundle.machine import Machine
from runtime.bundle.reader import open_bundle
from runtime.engine.executable import Executable
from runtime.engine.request import Request, Wishes
from runtime.errors import EngineError
from tests.fakes.bundle import make_bundle, resolved_plan


def refused(path: Path, **changes: object) -> EngineError:
    machine = replace(Machine.probe(), **changes)  # type: ignore[arg-type]
    with pytest.raises(EngineError) as caught:
        Executable.open(open_bundle(path), machine=machine)
    return caught.value


def test_a_cpu_without_the_features_is_refused_before_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The object is not even one: had it been opened, the error would be another.
    path = make_bundle(
        tmp_path / "b",
        files={"engine.so": b"never loaded"},
        backend="cpu_avx512vnni",
        cpu_features=("avx512f",),
    )
    error = refused(path, features=frozenset({"avx2"}))
    assert error.code == "unsupported_cpu"
    assert "cpu_avx512vnni" in error.message
    assert "avx512f" in error.message
    assert error.exit_code == 7


def test_too_little_memory_is_refused_with_the_figures(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b", ["KV_BYTES=(8ull << 30)"])
    error = refused(path, memory_available=4 << 30)
    assert error.code == "out_of_memory"
    assert "KV cache 8192" in error.message
    assert "4096 MiB are available" in error.message


def test_kernels_that_fail_their_self_test_are_refused_by_name(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", ["OPEN_STATUS=ENGINE_E_MACHINE"], backend="cpu_amx")
    error = refused(bundle)
    assert error.code == "unsupported_cpu"
    assert "cpu_amx" in error.message
    assert error.exit_code == 7


def test_an_object_that_is_none_is_refused(tmp_path: Path) -> None:
    assert refused(make_bundle(tmp_path / "b", files={"engine.so": b"not ELF"})).code == "bundle_damaged"


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    assert refused(make_bundle(tmp_path / "b", files={"weights.bin": bytes(4097)})).code == "weights_changed"


def test_weights_that_the_code_refuses(tmp_path: Path) -> None:
    assert (
        refused(make_bundle(tmp_path / "b", files={"weights.bin": bytes(4096)})).code == "engine_open_failed"
    )


def test_threads_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        Executable.open(open_bundle(make_bundle(tmp_path / "b")), threads=65)
    assert caught.value.code == "threads_unavailable"


def test_what_it_knows_of_itself(tmp_path: Path) -> None:
    with Executable.open(open_bundle(make_bundle(tmp_path / "b"))) as executable:
        assert executable.limits.n_vocab == 258
        assert executable.op_names == ("matmul", "attention")
        executable.forward([0], [0], [1], [True])
        assert executable.op_times()["matmul"] == executable.forward_ns > 0
    executable.close()


def test_a_request_takes_limits_and_sampling_of_the_plan() -> None:
    plan = resolved_plan(sampling__temperature=0.7, sampling__seed=3, limits__max_tokens=9)
    request = Request.of_plan(plan, [1, 2], Wishes(stop=("x",)))
    assert (request.sampling.temperature, request.sampling.seed, request.limits.max_tokens) == (0.7, 3, 9)
    assert request.prompt_ids == (1, 2)
    assert request.stop == ("x",)
