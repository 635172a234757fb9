"""What runs is what was checked: what is exchanged afterwards is not, and who could is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.bundle import trust
from runtime.bundle.reader import open_bundle
from runtime.bundle.trust import check_ancestors
from runtime.engine.executable import Executable
from runtime.errors import EngineError
from tests.fakes.bundle import make_bundle, shared_object


def writable(path: Path) -> Path:
    path.parent.chmod(0o700)
    path.chmod(0o600)
    return path


def code_of(act) -> str:
    with pytest.raises(EngineError) as caught:
        act()
    return caught.value.code


def test_a_shared_object_exchanged_after_the_check_is_not_loaded(tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "b"))
    writable(bundle.shared_object).write_bytes(shared_object(("STEP_TOKENS=8",)))
    assert code_of(lambda: Executable.open(bundle)) == "bundle_damaged"


def test_weights_exchanged_after_the_check_are_not_used(tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "b"))
    other = writable(bundle.weights)
    other.write_bytes(bytes(len(other.read_bytes())))  # of the same size
    for residence in ("pages", "mapped", "copied"):
        assert (
            code_of(lambda chosen=residence: Executable.open(bundle, residence=chosen)) == "weights_changed"
        )


def test_what_happens_to_the_files_later_does_not_reach_a_running_engine(tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "b"))
    with Executable.open(bundle) as executable:
        before = executable.forward([0], [0], [1], [True]).copy()
        for path in (bundle.shared_object, bundle.weights):
            os.truncate(writable(path), 0)  # of a mapped file, this is SIGBUS at the next touch
        assert (executable.forward([1], [0], [1], [True]) == before).all()


def test_two_bundles_loaded_one_after_the_other_are_two_libraries(tmp_path: Path) -> None:
    """The loader takes a path spelled as one it has for the same library; descriptors' numbers come again."""
    for index, steps in enumerate((8, 16, 32)):
        bundle = open_bundle(make_bundle(tmp_path / str(index), [f"STEP_TOKENS={steps}"]))
        with Executable.open(bundle) as executable:
            assert executable.limits.step_tokens == steps


@pytest.mark.parametrize(
    ("mode", "refused"),
    [(0o700, False), (0o755, False), (0o777, True), (0o775, True), (0o1777, False), (0o1775, False)],
)
def test_a_folder_above_a_bundle_that_others_may_write_is_refused(
    mode: int, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sticky ones are not: there nobody can rename what is ours."""
    monkeypatch.setattr(trust, "_private", lambda group: False)
    above = tmp_path / "above"
    path = make_bundle(above / "between" / "b")
    above.chmod(mode)
    if not refused:
        open_bundle(path)
        return
    with pytest.raises(EngineError) as caught:
        open_bundle(path)
    assert (caught.value.code, caught.value.path) == ("not_trusted", str(above))


def test_a_users_private_group_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "_private", lambda group: True)
    path = make_bundle(tmp_path / "above" / "b")
    path.parent.chmod(0o775)
    open_bundle(path)
    path.parent.chmod(0o777)
    assert code_of(lambda: open_bundle(path)) == "not_trusted"


def test_links_are_followed_and_every_folder_on_the_way_is_looked_at(tmp_path: Path) -> None:
    real = make_bundle(tmp_path / "real" / "b")
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "short").symlink_to("open/link")
    check_ancestors(tmp_path / "short" / ".." / "real" / "b")
    open_bundle(tmp_path / "short" / "b")
    (tmp_path / "open").chmod(0o777)  # on the way by the link alone
    assert code_of(lambda: open_bundle(tmp_path / "short" / "b")) == "not_trusted"
    open_bundle(real)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        check_ancestors(tmp_path / "loop" / "b")


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_bundle(tmp_path / "b")
    check_ancestors(path)
    monkeypatch.setattr(trust, "_trusted_users", lambda: frozenset({os.geteuid() + 1}))
    assert code_of(lambda: check_ancestors(path)) == "not_trusted"
