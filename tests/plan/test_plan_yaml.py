"""YAML that means harm, or could be misread, never becomes a plan."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.plan.loader import MAX_BYTES, parse_yaml, read_yaml
from runtime.errors import EXIT_PLAN, EngineError

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)

REFUSED = {
    "an alias": ("a: &x 1\nb: *x", "plan_alias", "1:4"),
    "an alias bomb": (BOMB, "plan_alias", "1:4"),
    "an anchor alone": ("a: &x 1", "plan_alias", "1:4"),
    "a Python object": ("a: !!python/object/apply:os.system ['true']", "plan_tag", "1:4"),
    "a standard tag": ("a: !!str 1", "plan_tag", "1:4"),
    "a tag of one's own": ("a: !x 1", "plan_tag", "1:4"),
    "a non-specific tag": ("a: ! 1", "plan_tag", "1:4"),
    "a tag directive": ("%TAG ! tag:x,2000:\n---\na: 1", "plan_tag", "1:1"),
    "a duplicate key": ("a: 1\nb: 2\na: 3", "plan_duplicate_key", "3:1"),
    "a duplicate key within": ("x: {a: 1, 'a': 2}", "plan_duplicate_key", "1:11"),
    "a number as key": ("x:\n  1: y", "plan_bad_key", "2:3"),
    "null as key": ("? \n: y", "plan_bad_key", "1:2"),
    "a list as key": ("? [a]\n: y", "plan_bad_key", "1:3"),
    "two documents": ("a: 1\n---\nb: 2", "plan_not_yaml", "2:1"),
    "17 levels": ("[" * 17 + "]" * 17, "plan_too_deep", "1:17"),
    "60,000 levels": ("[" * 60_000, "plan_too_deep", "1:17"),
    "60,000 levels of blocks": ("- " * 30_000, "plan_too_deep", "1:33"),
    "a control character": ("a: \x01", "plan_not_yaml", ""),
    "no YAML": ("a: [1", "plan_not_yaml", "1:6"),
    "a tab as indent": ("a:\n\t- 1", "plan_not_yaml", "2:1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_plan_may_not_hold_is_refused_with_its_place(case: str) -> None:
    text, code, place = REFUSED[case]
    start = time.process_time()
    with pytest.raises(EngineError) as caught:
        parse_yaml(text.encode(), "plan.yaml")
    assert time.process_time() - start < 1
    assert caught.value.code == code
    assert caught.value.exit_code == EXIT_PLAN
    assert caught.value.path == (f"plan.yaml:{place}" if place else "plan.yaml")


def test_more_than_64_kib_is_refused_and_64_kib_is_read() -> None:
    assert parse_yaml(b"a: 1\n#" + b" " * (MAX_BYTES - 6), "p") == {"a": 1}
    with pytest.raises(EngineError) as caught:
        parse_yaml(b"a: 1\n#" + b" " * (MAX_BYTES - 5), "p")
    assert caught.value.code == "plan_too_large"


def test_sixteen_levels_are_read() -> None:
    assert parse_yaml(b"[" * 16 + b"]" * 16, "p")


def test_bytes_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(EngineError, match="byte 3 is not UTF-8"):
        parse_yaml(b"a: \xff", "p")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("NO", "NO"),
        ("2001-01-01", "2001-01-01"),
        ("1:30", "1:30"),
        ("010", 10),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("<<", "<<"),
        ("true", True),
        ("null", None),
        ("", None),
        ("~", None),
        ("-7", -7),
        ("1e-3", 0.001),
        ("1.5", 1.5),
        (".5", 0.5),
        ("'1'", "1"),
        ("9" * 41, "9" * 41),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    read = parse_yaml(f"a: {text}".encode(), "p")["a"]
    assert read == value
    assert type(read) is type(value)


def test_a_merge_key_is_only_a_key() -> None:
    assert parse_yaml(b"<<: {a: 1}", "p") == {"<<": {"a": 1}}


def test_a_file_that_cannot_be_read_is_an_error_of_the_plan(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.yaml"):
        with pytest.raises(EngineError) as caught:
            read_yaml(path)
        assert caught.value.code == "plan_unreadable"


@given(st.one_of(st.binary(max_size=300), st.text(alphabet="{}[]:,-&*!|>'\"#%@ \n\tab1.~?", max_size=200)))
def test_any_bytes_become_a_tree_or_an_error(data: bytes | str) -> None:
    try:
        parse_yaml(data.encode() if isinstance(data, str) else data, "p")
    except EngineError as error:
        refusal = error
    else:
        return
    assert refusal.code.startswith("plan_")
