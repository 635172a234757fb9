"""Bodies that mean harm: shapes that grow to any size, each around one way to make work or memory.

``SHAPES`` maps a name to (path, make); ``make(size)`` gives a body of about ``size`` bytes, never more.
Used by the tests of what a request may cost, and by the soak.
"""

from __future__ import annotations

from collections.abc import Callable

RUN = b'{"model": "story", "prompt": '
CHAT = b'{"model": "story", "messages": '
MESSAGE = b'{"model": "story", "max_tokens": 1, "messages": [{"role": "user", "content": ['


def _filled(head: bytes, unit: bytes, tail: bytes, separator: bytes = b"") -> Callable[[int], bytes]:
    """``head``, as many ``unit`` as fit with ``separator`` between them, ``tail``."""

    def make(size: int) -> bytes:
        room = size - len(head) - len(tail) + len(separator)
        return head + separator.join([unit] * max(1, room // (len(unit) + len(separator)))) + tail

    return make


def _numbered(head: bytes, unit: str, tail: bytes) -> Callable[[int], bytes]:
    """Like :func:`_filled`, each unit with its own number in it, commas between."""

    def make(size: int) -> bytes:
        room = (size - len(head) - len(tail)) // (len(unit % 9_999_999) + 1)
        return head + ",".join([unit % i for i in range(max(1, room))]).encode() + tail

    return make


Make = Callable[[int], bytes]
SHAPES: dict[str, tuple[str, Make]] = {
    "escaped quotes, unfinished": ("/v1/runs", _filled(b'"', b'\\"', b"\\")),
    "quotes": ("/v1/runs", _filled(b"", b'"', b"")),
    "empty texts": ("/v1/runs", _filled(b"[", b'""', b"]", b",")),
    "texts": ("/v1/runs", _numbered(b'{"model": "story", "prompt": "x", "stop": [', '"%d"', b"]}")),
    "backslashes": ("/v1/runs", _filled(b'"', b"\\\\", b'"')),
    "a text of newlines": ("/v1/completions", _filled(RUN + b'"', b"\\n", b'"}')),
    "a text of escapes": ("/v1/completions", _filled(RUN + b'"', b"\\u4e2d", b'"}')),
    "a text of pairs": ("/v1/completions", _filled(RUN + b'"', b"\\ud83d\\ude00", b'"}')),
    "a text of emoji": ("/v1/completions", _filled(RUN + b'"', "😀".encode(), b'"}')),
    "a text, one word": ("/tokenize", _filled(b'{"content": "', b"a", b'"}')),
    "a half pair last": ("/v1/completions", _filled(RUN + b'"', b"\\u0041", b'\\ud800"}')),
    "brackets": ("/v1/runs", _filled(b"", b"[", b"")),
    "empty lists": ("/v1/runs", _filled(b"[", b"[]", b"]", b",")),
    "empty objects": ("/v1/runs", _filled(b"[", b"{}", b"]", b",")),
    "closing brackets": ("/v1/runs", _filled(b"", b"]", b"")),
    "keys": ("/v1/runs", _numbered(b"{", '"k%d":1', b"}")),
    "a key twice, last": ("/v1/runs", _numbered(b"{", '"k%d":1', b',"k0":1}')),
    "one key": ("/v1/runs", _filled(b'{"', b"k", b'": 1}')),
    "unknown fields": ("/v1/completions", _numbered(b'{"model": "story", ', '"x%d":null', b"}")),
    "logit_bias": ("/v1/completions", _numbered(RUN + b'"x", "logit_bias": {', '"%d":1', b"}}")),
    "zeros for messages": ("/v1/chat/completions", _filled(CHAT + b"[", b"0", b"]}", b",")),
    "messages": ("/v1/chat/completions", _filled(CHAT + b"[", b'{"role":"user","content":"x"}', b"]}", b",")),
    "silent messages": (
        "/v1/chat/completions",
        _filled(CHAT + b"[", b'{"role":"assistant","content":null,"tool_calls":[],"name":null}', b"]}", b","),
    ),
    "content parts": (
        "/v1/chat/completions",
        _filled(CHAT + b'[{"role": "user", "content": [', b'{"type":"text","text":""}', b"]}]}", b","),
    ),
    "ids": ("/detokenize", _filled(b'{"tokens": [', b"101", b"]}", b",")),
    "ids, the last is none": ("/detokenize", _filled(b'{"tokens": [', b"101", b",-1]}", b",")),
    "ids for a prompt": ("/v1/completions", _filled(RUN + b"[", b"7", b"]}", b",")),
    "digits": ("/v1/runs", _filled(RUN, b"7", b"}")),
    "fractions": ("/v1/runs", _filled(b"[", b"1.5", b"]", b",")),
    "zeros behind a point": ("/v1/runs", _filled(b'{"temperature": 0.', b"0", b"1}")),
    "spaces": ("/v1/runs", _filled(b"{", b" ", b"}")),
    "literals": ("/v1/runs", _filled(b'{"prompt": [', b"null", b"]}", b",")),
    "no UTF-8 last": ("/v1/runs", _filled(RUN + b'"', b"x", b"\xff")),
    "mixed prompts": ("/completion", _filled(b'{"prompt": [', b'["a",1]', b"]}", b",")),
    "parts of a prompt": ("/completion", _filled(b'{"prompt": [', b'"a",1', b"]}", b",")),
    "long mixed prompts": (
        "/completion", _filled(b'{"prompt": [', b'[%s"a"]' % (b"1," * 511), b"]}", b","),
    ),
    "pairs of a bias": ("/completion", _filled(b'{"prompt": "x", "logit_bias": [', b"[1,2]", b"]}", b",")),
    "blocks": ("/v1/messages", _filled(MESSAGE, b'{"type":"text","text":""}', b"]}]}", b",")),
    "images": ("/v1/messages", _filled(MESSAGE, b'{"type":"image"}', b"]}]}", b",")),
    "items": (
        "/v1/responses",
        _filled(b'{"model": "story", "input": [', b'{"role":"user","content":"x"}', b"]}", b","),
    ),
    "options": ("/api/chat", _numbered(CHAT + b'[], "options": {', '"x%d":1', b"}}")),
    "nested lists of ids": ("/v1/completions", _filled(RUN + b"[", b"[1,2]", b"]}", b",")),
}  # fmt: skip
