"""Templates that mean harm: each ends in a clear error, within its budget, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any

import pytest

from runtime.engine.chat import render_chat
from runtime.engine.template import RENDERER, Renderer
from runtime.errors import EXIT_MODEL, EngineError

USER = [{"role": "user", "content": "Hi"}]
FAILED, UNSAFE, BUDGET = "chat_template_failed", "chat_template_unsafe", "chat_template_budget"

LOOP = "{%% for %s in range(99999) %%}"

HOSTILE = {
    # a way out of the sandbox
    "the class of a string": ("{{ ''.__class__ }}", UNSAFE),
    "the subclasses of object": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", UNSAFE),
    "the globals of a helper": ("{{ raise_exception.__globals__ }}", UNSAFE),
    "the globals of a method": ("{{ messages.append.__globals__ }}", UNSAFE),
    "the attr filter": ("{{ '' | attr('__class__') }}", UNSAFE),
    "map over attributes": ("{{ [''] | map(attribute='__class__') | list }}", UNSAFE),
    "a format string": ("{{ '{0.__class__}'.format(1) }}", UNSAFE),
    "a format string behind a filter": ("{{ ('{0.__class__}' | attr('format'))(1) }}", UNSAFE),
    "the template itself": ("{{ self.__init__.__globals__ }}", UNSAFE),
    "the frame of a generator": ("{{ (messages | map('upper')).gi_frame }}", UNSAFE),
    "an internal of the environment": ("{{ strftime_now.__code__ }}", UNSAFE),
    "changing what it was given": ("{{ messages.append(1) }}", UNSAFE),
    "clearing what it was given": ("{{ messages[0].clear() }}", UNSAFE),
    "a file": ("{% include '/etc/passwd' %}", FAILED),
    "an import": ("{% import 'os' as os %}", FAILED),
    "jinja's own lipsum": ("{{ lipsum() }}", FAILED),
    "the globals of jinja's joiner": ("{{ joiner.__init__.__globals__ }}", UNSAFE),
    # time
    "nested loops": (LOOP % "a" + LOOP % "b" + "{% endfor %}{% endfor %}", BUDGET),
    "a huge power": ("{{ 7 ** (10 ** 9) }}", BUDGET),
    "a growing replacement": ("{{ ('a' * 100000) | replace('a', 'b' * 10000) | length }}", BUDGET),
    "a growing list": (
        "{% set n = namespace(l=[1]) %}" + LOOP % "i" + "{% set n.l = n.l + n.l %}{% endfor %}", BUDGET
    ),
    # size
    "a huge range": ("{{ range(10 ** 9) | list }}", FAILED),
    "a gigabyte string": ("{{ 'x' * (10 ** 9) }}", BUDGET),
    "a string doubled and doubled": (
        "{% set n = namespace(s='x') %}" + LOOP % "i" + "{% set n.s = n.s + n.s %}{% endfor %}", BUDGET
    ),
    "a padded number": ("{{ '%9999999999d' % 1 }}", BUDGET),
    "a centred word": ("{{ 'x' | center(2000000000) }}", BUDGET),
    "endless output": ("{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", BUDGET),
    # depth
    "a macro that calls itself": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", BUDGET),
    "nested brackets": ("{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}", BUDGET),
    "nested blocks": ("{% if 1 %}" * 5_000 + "{% endif %}" * 5_000, BUDGET),
    "a source of a megabyte": ("{#" + "x" * (1 << 20) + "#}", BUDGET),
    # nonsense
    "a syntax error": ("{% for %}", FAILED),
    "an unknown filter": ("{{ 1 | no_such_filter }}", FAILED),
    "a division by zero": ("\n\n{{ 1 / 0 }}", FAILED),
    "a method that is not there": ("{{ messages[0].content.frobnicate() }}", FAILED),
}  # fmt: skip


def render(template: str, **more: Any) -> str:
    return render_chat(template, USER, bos_token="<s>", eos_token="</s>", **more)


@pytest.mark.parametrize("name", HOSTILE)
def test_it_ends_in_a_clear_error_within_the_budget(name: str) -> None:
    template, code = HOSTILE[name]
    render("warm")
    begin = time.monotonic()
    with pytest.raises(EngineError) as error:
        render(template, seconds=1.0)
    assert time.monotonic() - begin < 6  # the budget, and what a busy machine adds
    assert error.value.code == code, error.value
    assert error.value.exit_code == EXIT_MODEL
    assert error.value.path is not None
    assert error.value.path.startswith("tokenizer.chat_template")
    assert render("{{ messages[0].content }}") == "Hi"


def test_an_error_names_its_line() -> None:
    for template in ("\n\n{{ 1 / 0 }}", "\n\n{% for %}"):
        with pytest.raises(EngineError) as error:
            render(template)
        assert error.value.path == "tokenizer.chat_template line 3"


def test_the_output_limit_is_exact() -> None:
    assert len(render("{{ 'x' * 100 }}", max_chars=100)) == 100
    with pytest.raises(EngineError) as error:
        render("{{ 'x' * 101 }}", max_chars=100)
    assert error.value.code == BUDGET


def test_the_deadline_holds_in_any_thread() -> None:
    template, _ = HOSTILE["nested loops"]
    outcome: list[object] = []

    def work() -> None:
        begin = time.monotonic()
        with pytest.raises(EngineError) as error:
            render(template, seconds=0.5)
        outcome.append((error.value.code, time.monotonic() - begin < 6))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert outcome == [(BUDGET, True)] * 3


def test_threads_share_one_renderer() -> None:
    texts: dict[int, str] = {}

    def work(i: int) -> None:
        for _ in range(20):
            texts[i] = render("{{ x }}", variables={"x": i})

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert texts == {i: str(i) for i in range(6)}


def test_the_template_sees_nothing_of_the_host() -> None:
    for name in ("os", "sys", "open", "__import__", "environ", "lipsum", "request", "config", "json"):
        assert render("{{ " + name + " is defined }}") == "False"
    os.environ["ENGINE_TEST_SECRET"] = "hidden"
    try:
        with contextlib.closing(Renderer()) as renderer:
            assert "hidden" not in renderer.render("{{ dict() }}{{ namespace() }}", {})
    finally:
        del os.environ["ENGINE_TEST_SECRET"]


def test_a_worker_that_died_is_replaced() -> None:
    with contextlib.closing(Renderer()) as renderer:
        assert renderer.render("a", {}) == "a"
        assert renderer._process is not None
        renderer._process.kill()
        renderer._process.wait()
        assert renderer.render("b", {}) == "b"


def test_closing_leaves_no_process_and_no_file_behind() -> None:
    before = len(os.listdir("/proc/self/fd"))
    renderer = Renderer()
    renderer.render("a", {})
    assert renderer._process is not None
    process = renderer._process
    renderer.close()
    assert process.returncode is not None
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_shared_renderer_is_the_one_in_use() -> None:
    render("a")
    assert RENDERER._process is not None
