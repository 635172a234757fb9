"""The text form of a graph says everything, and what breaks the grammar is refused by name."""

from __future__ import annotations

import pytest

from compiler.graph import Graph, parse
from compiler.graph.ops import InvalidGraph, verify

SMALL = """
weight token_embd.weight: q6_k[32,256] at 0x0
weight norm.weight: f32[256] at 0x1a00
%0: f32[T,256] at arena+0x0 stride 256 = embed(; token_embd.weight) phase 0
%1: f32[T,64] at arena+0x80 stride 256 = slice(%0) {end=96, first=32} phase 0
%2: f32[T,256] at arena+0x400 stride 256 = rms_norm(%0; norm.weight) {eps=1e-05, groups=1} layer 3 phase 1
%3: f32[W,256] = select(%2)
%4: f32[W,32] at logits stride 32 = linear(%3; token_embd.weight[0:32]) {biases=-, segments=1} phase 2
return %4
"""


def test_text_is_read_back_to_the_same_graph() -> None:
    graph = parse(SMALL)
    assert parse(graph.to_text()) == graph
    assert graph.to_text().strip() == SMALL.strip()
    assert graph.nodes[2].layer == 3
    assert graph.nodes[4].weights[0].end == 32


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("%0 = embed(; token_embd.weight)", "line 1"),
        ("weight x: f32[]", "line 1"),
        ("%0: f32[Q,4] = embed(; w)", "line 1"),
        ("return %0; drop", "%0; drop"),
    ],
)
def test_lines_outside_the_grammar_are_refused(line: str, complaint: str) -> None:
    with pytest.raises((ValueError, InvalidGraph), match=complaint):
        verify(parse(line))


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("rms_norm(%0; norm.weight)", "rms_norm(%9; norm.weight)", "used before it is defined"),
        ("rms_norm(%0", "rms_nrom(%0", "unknown op 'rms_nrom'"),
        ("eps=1e-05, groups=1", "eps=1e-05", "attributes"),
        ("eps=1e-05, groups=1", "eps=1e-05, groups=1.0", "not a int"),
        ("eps=1e-05, groups=1", "eps=1e-05, groups=7", "256 columns in 7 groups"),
        ("first=32}", "first=200}", "200:96"),
        ("f32[T,256] at arena+0x400", "f32[T,128] at arena+0x400", "declared f32[T,128]"),
        ("; norm.weight)", "; absent.weight)", "absent.weight is not declared"),
        ("[0:32]", "[0:33]", "lies outside"),
        ("return %4", "return %8", "no node makes"),
        ("%3: f32[W,256]", "%2: f32[W,256]", "defined twice"),
    ],
)
def test_verify_names_what_is_wrong(before: str, after: str, complaint: str) -> None:
    import re

    assert before in SMALL
    verify(parse(SMALL))
    with pytest.raises(InvalidGraph, match=re.escape(complaint)):
        verify(parse(SMALL.replace(before, after)))


def test_an_empty_text_is_no_graph() -> None:
    with pytest.raises(ValueError, match="no return line"):
        parse("")
    assert Graph((), {}, "%0").to_text() == "return %0\n"
