"""A bundle is whole, checked and ours, or it is refused by the name of what is wrong."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from runtime.bundle import store
from runtime.bundle.digests import digest_fd, remembered_digest, verified_digest
from runtime.bundle.format import CHUNK_BYTES, parse_manifest
from runtime.bundle.reader import open_bundle
from runtime.bundle.writer import write_bundle
from runtime.errors import EngineError
from tests.fakes.bundle import WEIGHTS, bundle_files, make_bundle, manifest

FILES = sorted([*bundle_files(), "manifest.json"])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "place" / "bundle")


def refused(path: Path) -> EngineError:
    with pytest.raises(EngineError) as caught:
        open_bundle(path)
    return caught.value


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(data)


def test_what_is_written_can_be_read(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert opened.manifest.name == "fake"
    assert opened.plan.execution.slots == 4
    assert opened.read("graph.txt") == b"the graph\n"
    assert opened.names() == ["kernels/engine.c", "kernels/engine_abi.h"]
    assert list(bundle.parent.iterdir()) == [bundle]


def test_same_content_gives_the_same_bytes_anywhere(tmp_path: Path) -> None:
    first, second = make_bundle(tmp_path / "a"), make_bundle(tmp_path / "deeper" / "b")
    assert open_bundle(first).digest == open_bundle(second).digest


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "extend", "remove", "link"])
def test_damage_is_found_in_every_file(bundle: Path, name: str, damage: str) -> None:
    path = bundle / name
    data = path.read_bytes()
    if damage == "flip":
        middle = len(data) // 2
        overwrite(path, data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif damage == "truncate":
        overwrite(path, data[:-1] if name != "manifest.json" else data[: len(data) // 2])
    elif damage == "extend":
        overwrite(path, data + b"x")
    elif damage == "remove":
        path.unlink()
    else:
        shutil.move(path, bundle.parent / "elsewhere")
        path.symlink_to(bundle.parent / "elsewhere")
    error = refused(bundle)
    assert error.code in ("bundle_damaged", "bundle_not_found")
    assert name in str(error) or name == "manifest.json"
    assert error.exit_code == 5


def test_all_damaged_files_are_named_together(bundle: Path) -> None:
    overwrite(bundle / "graph.txt", b"another\n")
    (bundle / "engine.so").unlink()
    assert sorted(Path(cause.path or "").name for cause in refused(bundle).causes) == [
        "engine.so",
        "graph.txt",
    ]


def test_files_that_the_manifest_does_not_list_are_refused(bundle: Path) -> None:
    (bundle / "kernels" / "extra.so").write_bytes(b"")
    assert "extra.so" in str(refused(bundle))


@pytest.mark.parametrize("name", ["", "manifest.json", "engine.so", "weights.bin", "kernels"])
def test_what_others_may_write_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).chmod(0o777 if (bundle / name).is_dir() else 0o666)
    error = refused(bundle)
    assert error.code == "not_trusted"
    assert "others may write" in str(error)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize("name", ["", "engine.so"])
def test_what_belongs_to_another_user_is_refused(bundle: Path, name: str) -> None:
    os.chown(bundle / name, 12345, 12345)
    error = refused(bundle)
    assert error.code == "not_trusted"
    assert "belongs to user 12345" in str(error)


def test_a_cache_that_others_may_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "engine").mkdir(mode=0o777)
    (tmp_path / "engine").chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(EngineError) as caught:
        store.bundles_dir()
    assert caught.value.code == "not_trusted"
    (tmp_path / "engine").chmod(0o755)
    assert store.bundles_dir().stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "engine").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("name", 5),
        ("plan_digest", "short"),
        ("files", []),
        ("files", {"../x": {"size": 1, "sha256": "0" * 64}}),
        ("files", {"/etc/x": {"size": 1, "sha256": "0" * 64}}),
        ("files", {"a/b/c": {"size": 1, "sha256": "0" * 64}}),
        ("files", {"plan.json": {"size": -1, "sha256": "0" * 64}}),
        ("files", {"plan.json": {"size": 1, "sha256": "0" * 64}}),
        ("tensors", [{"name": "x"}]),
        ("cpu_features", [1]),
        ("compiler", None),
    ],
)
def test_manifests_that_no_writer_wrote_are_refused(key: str, value: object) -> None:
    body = {**manifest().to_json(), "files": {n: {"size": 1, "sha256": "0" * 64} for n in bundle_files()}}
    parse_manifest(json.dumps(body).encode(), "here")
    with pytest.raises(EngineError) as caught:
        parse_manifest(json.dumps({**body, key: value}).encode(), "here")
    assert caught.value.code in ("bundle_damaged", "bundle_format")
    assert caught.value.path == "here"


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_manifests_that_are_not_json_objects_are_refused(data: bytes) -> None:
    with pytest.raises(EngineError) as caught:
        parse_manifest(data, "here")
    assert caught.value.code == "bundle_damaged"


def test_a_bundle_is_replaced_but_nothing_else_is(bundle: Path, tmp_path: Path) -> None:
    make_bundle(bundle, files={"graph.txt": b"new\n"})
    assert open_bundle(bundle).read("graph.txt") == b"new\n"
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    with pytest.raises(EngineError) as caught:
        make_bundle(precious)
    assert caught.value.code == "not_a_bundle"
    assert (precious / "thesis.txt").read_text() == "years"


def test_weights_are_made_once_linked_and_mended(tmp_path: Path) -> None:
    made = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_bytes(WEIGHTS)

    key = "ab" * 20
    stored = store.stored_weights(key, make)
    assert store.stored_weights(key, make) == stored
    assert len(made) == 1
    first = make_bundle(store.bundles_dir() / "first", files={"weights.bin": stored})
    second = make_bundle(store.bundles_dir() / "second", files={"weights.bin": stored})
    assert os.path.samefile(first / "weights.bin", second / "weights.bin")
    store.remove_tree(first)
    assert not first.exists()
    open_bundle(second)
    overwrite(stored, b"\0" * len(WEIGHTS))
    assert refused(second).path == str(second / "weights.bin")
    make_bundle(second, files={"weights.bin": store.stored_weights(key, make)})
    assert len(made) == 2
    open_bundle(second)


def test_weights_that_fail_to_be_made_leave_nothing(tmp_path: Path) -> None:
    def make(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(EngineError) as caught:
        store.stored_weights("cd" * 20, make)
    assert caught.value.code == "disk_full"
    assert caught.value.exit_code == 7
    assert not list(store.weights_dir().glob("*cdcd*"))
    assert not list(store.weights_dir().glob(f"{store.TEMPORARY}*"))


def test_large_files_are_digested_once_while_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(CHUNK_BYTES + 5))
    os.utime(path, ns=(0, 0))
    monkeypatch.setattr("runtime.bundle.digests.QUIET_NS", 0)
    fd = os.open(path, os.O_RDWR)
    try:
        digest = verified_digest(fd, tmp_path)
        assert digest == digest_fd(fd, CHUNK_BYTES + 5, threads=1)
        assert remembered_digest(fd, tmp_path) == digest
        os.pwrite(fd, b"x", 3)
        os.utime(path, ns=(0, 0))  # an attacker may set mtime back, not ctime
        assert remembered_digest(fd, tmp_path) is None
        assert verified_digest(fd, tmp_path) != digest
    finally:
        os.close(fd)


def test_a_file_changed_a_moment_ago_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(CHUNK_BYTES + 5))
    fd = os.open(path, os.O_RDONLY)
    try:
        verified_digest(fd, tmp_path)
        path.touch()
        verified_digest(fd, tmp_path)
        assert remembered_digest(fd, tmp_path) is None
    finally:
        os.close(fd)


def test_unknown_member_names_are_a_programming_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a name"):
        write_bundle(tmp_path / "b", manifest(), {"../evil": b""})
