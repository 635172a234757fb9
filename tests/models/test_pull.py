"""``engine models pull``: the right file of a repository, fetched whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from made_hub import COMMIT, Hub

from runtime.errors import EXIT_MODEL, EXIT_USAGE, EngineError
from runtime.shelf.hub import choose_model, hub_errors, models_of, parse_reference

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys, typer
from runtime.cli.models import register
from runtime.errors import EngineError
import json
app = typer.Typer(pretty_exceptions_enable=False)
app.callback()(lambda: None)
register(app)
try:
    app(sys.argv[1:], standalone_mode=False)
except EngineError as error:
    print(json.dumps(error.to_json()), file=sys.stderr)
    sys.exit(error.exit_code)
"""


def model_bytes(folder: Path, megabytes: float = 0.1, seed: int = 0) -> bytes:
    path = folder / f"made-{seed}.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    rows = max(1, int(megabytes * 1e6) // 4096)
    writer.add_tensor(
        "a.weight", np.random.default_rng(seed).standard_normal((rows, 1024)).astype(np.float32)
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture
def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """What a user's shell would hold: the hub's address and private folders."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    return {
        **kept,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def start(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "models", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def engine(environment: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    process = start(environment, *arguments)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_model_is_fetched_named_and_not_fetched_again(hub, environment, tmp_path: Path) -> None:
    data = model_bytes(tmp_path)
    hub.repos["maker/tales-GGUF"] = {
        "README.md": b"#",
        "tales-Q4_K_M.gguf": b"not this one",
        "tales-BF16.gguf": data,
        "mmproj-tales-BF16.gguf": b"nor this",
    }
    code, out, err = engine(environment, "pull", "hf:maker/tales-GGUF", "--json")
    assert code == 0, err
    entry = json.loads(out)
    assert entry["name"] == "tales-BF16"
    assert entry["source"] == f"hf:maker/tales-GGUF:tales-BF16.gguf@{COMMIT}"
    assert entry["size"] == len(data)
    assert Path(entry["path"]).read_bytes() == data
    assert (tmp_path / "hf" / "hub") in Path(entry["path"]).parents
    assert len(hub.downloads()) == 1
    code, out, err = engine(environment, "pull", "hf:maker/tales-GGUF", "--name", "again")
    assert code == 0, err
    assert len(hub.downloads()) == 1
    assert [m["name"] for m in json.loads(engine(environment, "list", "--json")[1])] == [
        "again",
        "tales-BF16",
    ]


def test_a_split_model_is_fetched_with_all_its_parts(hub, environment, tmp_path: Path) -> None:
    whole = tmp_path / "big.gguf"
    writer = gguf.GGUFWriter(whole, "llama", split_max_tensors=1)
    for name in ("a.weight", "b.weight"):
        writer.add_tensor(name, np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = {f"F16/{path.name}": path.read_bytes() for path in sorted(tmp_path.glob("big-*.gguf"))}
    hub.repos["maker/big"] = {"big-Q8_0.gguf": b"x", **parts}
    code, out, err = engine(environment, "pull", "hf:maker/big", "--json")
    assert code == 0, err
    entry = json.loads(out)
    assert entry["name"] == "big"
    assert [part["name"] for part in entry["about"]["files"]] == [Path(name).name for name in parts]


def test_a_broken_connection_goes_on_where_it_broke(hub, environment, tmp_path: Path) -> None:
    data = model_bytes(tmp_path, 24)
    hub.repos["maker/tales"] = {"tales-F16.gguf": data}
    hub.cut_after = 22_000_000
    code, out, err = engine(environment, "pull", "hf:maker/tales", "--json")
    assert code == 0, err
    assert Path(json.loads(out)["path"]).read_bytes() == data
    ranges = [ranged for _, ranged in hub.downloads()]
    assert len(ranges) >= 2
    assert any(ranged and not ranged.startswith("bytes=0-") for ranged in ranges)


def test_an_interrupted_pull_leaves_no_entry_and_goes_on_next_time(hub, environment, tmp_path: Path) -> None:
    data = model_bytes(tmp_path, 24)
    hub.repos["maker/tales"] = {"tales-F16.gguf": data}
    hub.stall_after = 22_000_000
    process = start(environment, "pull", "hf:maker/tales")
    assert hub.stalled.wait(30)
    waited = time.monotonic() + 20
    while time.monotonic() < waited and _fetched(tmp_path) < 10_000_000:
        time.sleep(0.05)
    kept = _fetched(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    hub.released.set()
    assert kept >= 10_000_000
    assert names(tmp_path) == []
    code, out, err = engine(environment, "pull", "hf:maker/tales", "--json")
    assert code == 0, err
    assert Path(json.loads(out)["path"]).read_bytes() == data
    last = hub.downloads()[-1][1]
    assert last is not None
    assert int(last.removeprefix("bytes=").partition("-")[0]) >= 10_000_000


def names(tmp_path: Path) -> list[str]:
    """The names in the store, without starting a process for it."""
    return sorted(path.stem for path in (tmp_path / "data/engine/models").glob("*"))


def _fetched(tmp_path: Path) -> int:
    return max((path.stat().st_size for path in (tmp_path / "hf").rglob("*.engine-partial")), default=0)


def test_a_private_repository_needs_the_token(hub, environment, tmp_path: Path) -> None:
    hub.repos["maker/private"] = {"m-F16.gguf": model_bytes(tmp_path)}
    hub.token = "hf_test"
    code, _, err = engine(environment, "pull", "hf:maker/private")
    assert code == EXIT_MODEL
    assert json.loads(err.splitlines()[-1])["code"] in ("hub_not_found", "hub_not_permitted")
    assert "HF_TOKEN" in err
    code, _, err = engine({**environment, "HF_TOKEN": "hf_test"}, "pull", "hf:maker/private")
    assert code == 0, err


@pytest.mark.parametrize(
    ("reference", "code"),
    [("hf:maker/nothing", "hub_not_found"), ("hf:maker/tales:Q5_K_S", "unknown_model_file")],
)
def test_what_the_hub_lacks_is_told(reference: str, code: str, hub, environment) -> None:
    hub.repos["maker/tales"] = {"tales-Q5_K_M.gguf": b"x", "tales-Q4_0.gguf": b"x"}
    status, _, err = engine(environment, "pull", reference)
    assert status == EXIT_MODEL
    assert json.loads(err.splitlines()[-1])["code"] == code
    assert hub.downloads() == []


def test_no_hub_at_all_is_told(environment) -> None:
    code, _, err = engine({**environment, "HF_ENDPOINT": "http://127.0.0.1:9"}, "pull", "hf:maker/tales")
    assert code == EXIT_MODEL
    assert json.loads(err.splitlines()[-1])["code"] == "hub_unreachable"


def test_what_does_not_match_the_hubs_digest_is_not_added(hub, environment, tmp_path: Path) -> None:
    hub.repos["maker/tales"] = {"tales-F16.gguf": model_bytes(tmp_path)}
    hub.wrong_digest = True
    code, _, err = engine(environment, "pull", "hf:maker/tales")
    assert code == EXIT_MODEL
    assert json.loads(err.splitlines()[-1])["code"] == "download_damaged"
    assert names(tmp_path) == []
    hub.wrong_digest = False
    code, _, err = engine(environment, "pull", "hf:maker/tales")
    assert code == 0, err  # nothing of the damaged one was kept


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, "disk_full"), (errno.EROFS, "not_permitted"), (errno.EIO, "hub_error")],
)
def test_a_cache_that_cannot_take_it_is_told(number: int, code: str) -> None:
    with pytest.raises(EngineError) as caught, hub_errors("o/r"):
        raise OSError(number, os.strerror(number))
    assert caught.value.code == code
    assert caught.value.hint


def test_a_fetched_file_that_is_no_model_is_not_added(hub, environment) -> None:
    hub.repos["maker/tales"] = {"tales-F16.gguf": b"GGUF, almost"}
    code, _, err = engine(environment, "pull", "hf:maker/tales")
    assert code == EXIT_MODEL
    assert json.loads(err.splitlines()[-1])["code"] == "bad_gguf"


@pytest.mark.parametrize(
    ("files", "choice", "expected"),
    [
        (["m-Q4_K_M.gguf", "m-F16.gguf", "m-BF16.gguf"], None, "m-BF16.gguf"),
        (["m-Q4_K_M.gguf", "m-f16.gguf"], None, "m-f16.gguf"),
        (["m.Q8_0.gguf", "m.Q4_K_M.gguf"], None, "m.Q8_0.gguf"),
        (["odd-name.gguf"], None, "odd-name.gguf"),
        (["m-F16.gguf", "m-Q4_K_M.gguf"], "q4_k_m", "m-Q4_K_M.gguf"),
        (["m-F16.gguf", "m-Q4_K_M.gguf"], "m-Q4_K_M.gguf", "m-Q4_K_M.gguf"),
        (["Q8_0/m-Q8_0.gguf", "BF16/m-BF16-00001-of-00001.gguf"], None, "BF16/m-BF16-00001-of-00001.gguf"),
        (["m-Q4_K_M.gguf", "m-Q4_K_S.gguf"], "Q4_K_S", "m-Q4_K_S.gguf"),
        (["m-F16.gguf", "mmproj-m-BF16.gguf", "m.imatrix.gguf"], None, "m-F16.gguf"),
    ],
)
def test_the_file_that_is_meant_is_chosen(files: list[str], choice: str | None, expected: str) -> None:
    assert choose_model("o/r", files, choice).files == (expected,)


@pytest.mark.parametrize(
    ("files", "choice", "code"),
    [
        ([], None, "unknown_model_file"),
        (["README.md", "model.safetensors"], None, "unknown_model_file"),
        (["a-F16.gguf", "b-F16.gguf"], None, "ambiguous_model"),
        (["a-Q8_0.gguf", "b-Q8_0.gguf"], "Q8_0", "ambiguous_model"),
        (["a-IQ2.gguf", "b-IQ3.gguf"], None, "unknown_model_file"),
        (["a-F16.gguf"], "Q4_K", "unknown_model_file"),
        (["m-F16-00001-of-00002.gguf"], None, "unknown_model_file"),
    ],
)
def test_what_cannot_be_chosen_is_refused_with_the_choices(files, choice, code: str) -> None:
    with pytest.raises(EngineError) as caught:
        choose_model("o/r", files, choice)
    assert caught.value.code == code
    for name in files:
        if name.endswith(".gguf") and "-of-" not in name:
            assert name in (caught.value.allowed or "")


def test_file_names_that_climb_are_not_models() -> None:
    names = [
        "../x.gguf",
        "a/../../x.gguf",
        "/etc/x.gguf",
        "a/./x.gguf",
        "a\nb.gguf",
        ".x.gguf",
        "a//../b.gguf",
    ]
    assert models_of(names) == []


@pytest.mark.parametrize(
    ("reference", "repo", "choice"),
    [
        ("hf:o/r", "o/r", None),
        ("hf:o/r:Q8_0", "o/r", "Q8_0"),
        ("hf:o/r:dir/m.gguf", "o/r", "dir/m.gguf"),
        ("hf://o/r-1.5_B", "o/r-1.5_B", None),
        ("hf.co/o/r:Q8_0", "o/r", "Q8_0"),
        ("https://huggingface.co/o/r", "o/r", None),
    ],
)
def test_references_are_understood(reference: str, repo: str, choice: str | None) -> None:
    assert parse_reference(reference) == (repo, choice)


@pytest.mark.parametrize(
    "reference", ["", "o/r", "hf:o", "hf:o/r/s", "hf:../r", "hf:o/r:", "hf:o/r:a:b", "s3:o/r"]
)
def test_other_references_are_refused(reference: str) -> None:
    with pytest.raises(EngineError) as caught:
        parse_reference(reference)
    assert (caught.value.code, caught.value.exit_code) == ("bad_model_reference", EXIT_USAGE)
