"""A name in the store stands for exactly the bytes that were added."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import gguf
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from compiler.model.reader import read_model
from compiler.plan import locate_model, plan_files, plan_from_mapping, resolve
from runtime.bundle.machine import Machine
from runtime.bundle.modelindex import is_store_name, model_label, store_folder, stored_model, stored_names
from runtime.cli.models import ago, parameter_count, register
from runtime.errors import EXIT_MODEL, EngineError
from runtime.shelf.models import add_model, get_model, is_present, list_models, remove_model, store_name


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def engine():
    app = typer.Typer()
    register(app)

    @app.callback()
    def _group() -> None:
        pass

    return lambda *arguments: CliRunner().invoke(app, ["models", *map(str, arguments)])


def write_model(path: Path, seed: int = 0, split: int = 0) -> Path:
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split)
    writer.add_name("Tiny Tales")
    writer.add_context_length(64)
    writer.add_license("apache-2.0")
    rng = np.random.default_rng(seed)
    for name in ("a.weight", "b.weight"):
        writer.add_tensor(name, rng.standard_normal((8, 32)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny-F32.gguf")


def error_of(result) -> EngineError:
    assert isinstance(result.exception, EngineError), result.output
    return result.exception


def test_what_is_added_is_listed_shown_and_removed(engine, file: Path) -> None:
    assert engine("add", file).exit_code == 0
    digest = read_model(file).digest
    header, row = engine("list").stdout.splitlines()
    assert header.split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    assert row.split()[:2] == ["tiny-F32", digest[:12]]
    (entry,) = json.loads(engine("list", "--json").stdout)
    assert entry["digest"] == digest
    assert entry["present"] is True
    assert entry["size"] == file.stat().st_size
    shown = engine("show", "tiny-F32").stdout
    for part in ("Model\n", "llama", "512", "Tensors\n", "f32", "File\n", str(file), digest, "apache-2.0"):
        assert part in shown
    body = json.loads(engine("show", "--json", "tiny-F32").stdout)
    assert body["about"]["parameters"] == 512
    assert body["about"]["tensor_types"] == {"f32": {"tensors": 2, "bytes": 2048}}
    assert engine("remove", "tiny-F32").exit_code == 0
    assert file.exists()
    assert json.loads(engine("list", "--json").stdout) == []
    assert engine("list").stdout.split() == ["NAME", "ID", "SIZE", "MODIFIED"]


def test_a_file_is_shown_without_being_added(engine, file: Path) -> None:
    body = json.loads(engine("show", "--json", file).stdout)
    assert body["digest"] == read_model(file).digest
    assert stored_names() == ()


def test_a_name_is_not_taken_over_unless_asked(engine, file: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.gguf", seed=1)
    assert engine("add", file, "--name", "tales").exit_code == 0
    refused = error_of(engine("add", other, "--name", "tales"))
    assert (refused.code, refused.exit_code) == ("model_exists", EXIT_MODEL)
    assert get_model("tales").path == file
    assert engine("add", other, "--name", "tales", "--replace").exit_code == 0
    assert get_model("tales").digest == read_model(other).digest


def test_the_same_content_elsewhere_moves_the_name(engine, file: Path, tmp_path: Path) -> None:
    engine("add", file, "--name", "tales")
    moved = file.rename(tmp_path / "moved.gguf")
    assert not is_present(get_model("tales"))
    listed = engine("list")
    assert "tales" in listed.stdout
    assert "gone" in listed.stderr
    assert engine("add", moved, "--name", "tales").exit_code == 0
    assert get_model("tales").path == moved
    assert is_present(get_model("tales"))


def test_a_split_model_is_one_entry(engine, tmp_path: Path) -> None:
    write_model(tmp_path / "big.gguf", split=1)
    assert engine("add", tmp_path / "big-00002-of-00002.gguf").exit_code == 0
    (entry,) = list_models()
    assert entry.name == "big"
    assert entry.path == tmp_path / "big-00001-of-00002.gguf"
    assert entry.size == sum(path.stat().st_size for path in tmp_path.glob("big-*.gguf"))
    (tmp_path / "big-00002-of-00002.gguf").unlink()
    assert not is_present(entry)


def test_what_is_no_model_is_not_added(engine, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF but not really")
    assert error_of(engine("add", tmp_path / "x.gguf")).code == "bad_gguf"
    assert error_of(engine("add", tmp_path / "none.gguf")).code == "model_unreadable"
    assert stored_names() == ()


def test_an_unknown_name_comes_with_the_nearest(engine, file: Path) -> None:
    engine("add", file, "--name", "llama3-8b")
    for command in ("show", "remove"):
        refused = error_of(engine(command, "llama-3-8b"))
        assert (refused.code, refused.hint) == ("unknown_model", "did you mean 'llama3-8b'?")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x.gguf", "a b", "é", "a" * 129, "-x", "a\n"])
def test_names_that_are_paths_or_worse_are_refused(name: str, engine, file: Path) -> None:
    assert not is_store_name(name)
    assert stored_model(name) is None
    assert error_of(engine("add", file, f"--name={name}")).code == "bad_model_name"


def test_a_file_name_becomes_a_name() -> None:
    assert store_name(Path("/x/Llama 3 (8B)-Q8_0.gguf")) == "Llama-3--8B--Q8_0"
    assert model_label("dir/big-00001-of-00009.gguf") == "big"
    assert model_label("llama3-8b") == "llama3-8b"
    with pytest.raises(EngineError):
        store_name(Path("…….gguf"))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"name": "bad"}', "null", "\x00", "[" * 50_000],
)
def test_a_damaged_entry_is_named_and_can_be_removed(text: str, engine, file: Path) -> None:
    engine("add", file, "--name", "bad")
    (store_folder() / "bad.json").write_text(text)
    refused = error_of(engine("list"))
    assert refused.code == "bad_model_entry"
    assert "bad.json" in (refused.path or "")
    assert engine("remove", "bad").exit_code == 0
    assert stored_names() == ()


def test_an_entry_under_another_name_is_not_believed(engine, file: Path) -> None:
    engine("add", file, "--name", "one")
    (store_folder() / "one.json").rename(store_folder() / "two.json")
    with pytest.raises(EngineError, match="says it is 'one'"):
        get_model("two")


def test_an_entry_that_others_may_write_is_not_believed(engine, file: Path) -> None:
    engine("add", file, "--name", "one")
    assert (store_folder() / "one.json").stat().st_mode & 0o077 == 0
    assert store_folder().stat().st_mode & 0o077 == 0
    os.chmod(store_folder() / "one.json", 0o666)
    with pytest.raises(EngineError) as caught:
        get_model("one")
    assert caught.value.code == "not_trusted"


def test_of_many_adding_one_name_at_once_one_wins(tmp_path: Path) -> None:
    paths = [write_model(tmp_path / f"m{i}.gguf", seed=i) for i in range(4)]
    models = [read_model(path) for path in paths]
    outcomes: list[str] = []

    def add(index: int) -> None:
        about = {"files": [{"name": paths[index].name, "size": models[index].files[0][1]}]}
        try:
            add_model(paths[index], models[index].digest, about, name="contested")
            outcomes.append("added")
        except EngineError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=add, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["added", "model_exists", "model_exists", "model_exists"]
    assert get_model("contested").digest in {model.digest for model in models}
    assert [path.name for path in store_folder().iterdir()] == ["contested.json"]


def test_a_store_that_cannot_be_written_is_a_typed_error(file: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "blocked").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "blocked"))
    with pytest.raises(EngineError):
        add_model(file, "0" * 64, {"files": [{"name": file.name, "size": 1}]})


def test_a_plan_names_a_model_of_the_store(engine, file: Path, tmp_path: Path) -> None:
    engine("add", file, "--name", "tales")
    document = {"model": "tales", "backend": "reference", "quantization": "f32"}
    plan = plan_from_mapping(document, tmp_path, model_paths=False)
    assert locate_model(plan) == file
    resolved = resolve(plan, read_model(file), Machine.probe())
    assert resolved.model == "tales"
    by_path = plan_from_mapping({**document, "model": str(file)}, tmp_path)
    assert resolve(by_path, read_model(file), Machine.probe()).digest == resolved.digest


def test_a_plan_notices_that_a_stored_models_content_changed(engine, file: Path, tmp_path: Path) -> None:
    engine("add", file, "--name", "tales")
    document = {"model": "tales", "backend": "reference", "quantization": "f32"}
    plan = plan_from_mapping(document, tmp_path)
    file.unlink()
    with pytest.raises(EngineError, match="is gone"):
        locate_model(plan)
    write_model(file, seed=7)
    with pytest.raises(EngineError) as caught:
        resolve(plan, read_model(locate_model(plan)), Machine.probe())
    assert caught.value.causes[0].code == "model_changed"


def test_a_plan_follows_from_all_files_that_decide_it(engine, file: Path, tmp_path: Path) -> None:
    """What remembers a plan's outcome must notice a name that stands for another file."""
    engine("add", file, "--name", "tales")
    write_model(tmp_path / "big.gguf", split=1)
    parts = [tmp_path / f"big-0000{number}-of-00002.gguf" for number in (1, 2)]
    imatrix = {"recipe": "f32", "imatrix": "i.dat"}
    for model, quantization, files in (
        ("tales", "f32", [file, store_folder() / "tales.json"]),
        ("tiny-F32.gguf", imatrix, [file, tmp_path / "i.dat"]),
        (parts[1].name, "f32", parts),
    ):
        document = {"model": model, "backend": "reference", "quantization": quantization}
        assert plan_files(plan_from_mapping(document, tmp_path)) == files


def test_an_unknown_model_of_the_store_comes_with_the_nearest(engine, file: Path, tmp_path: Path) -> None:
    engine("add", file, "--name", "llama3-8b")
    document = {"model": "llama3-8B-", "backend": "reference", "quantization": "f32"}
    with pytest.raises(EngineError) as caught:
        locate_model(plan_from_mapping(document, tmp_path))
    assert (caught.value.code, caught.value.hint) == ("unknown_model", "did you mean 'llama3-8b'?")


def test_removing_twice_is_told(engine, file: Path) -> None:
    engine("add", file, "--name", "tales")
    assert remove_model("tales") is not None
    with pytest.raises(EngineError):
        remove_model("tales")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (7200, "2 hours ago"),
        (86_400, "1 day ago"),
        (13 * 86_400, "13 days ago"),
        (14 * 86_400, "2 weeks ago"),
        (61 * 86_400, "2 months ago"),
        (800 * 86_400, "2 years ago"),
    ],
)
def test_times_are_said_as_people_say_them(seconds: int, text: str) -> None:
    assert ago(seconds * 10**9) == text


def test_parameters_are_counted_as_models_are_named() -> None:
    assert [parameter_count(n) for n in (12, 1500, 135_000_000, 1_240_000_000)] == [
        "12",
        "1.5K",
        "135M",
        "1.24B",
    ]
