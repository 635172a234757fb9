"""How the BPE families cut text into words before merging: ``tokenizer.ggml.pre``.

Each kind is a list of regular expressions applied in turn; each one cuts every
segment left by those before it into its matches and what lies between them. The
expressions are the published splitting rules of the models named, as llama.cpp
applies them (https://github.com/ggml-org/llama.cpp, ``src/llama-vocab.cpp``).
Where llama.cpp approximates Unicode classes (``tekken``, ``gpt-4o``, the digits of
``superbpe``) the rule of the model's own tokenizer stands here.
"""

from __future__ import annotations

from dataclasses import dataclass

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL
_QWEN2 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL
_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED_WORDS = f"{_UPPER}*{_LOWER}+{_CONTRACTION}?|{_UPPER}+{_LOWER}*{_CONTRACTION}?|"

# The cased letters that DeepSeek's first tokenizer spells out: those of an older Unicode
# without the mathematical alphabets, so no property of a regex engine names just these.
_DEEPSEEK_LETTERS = """
41-5a 61-7a b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376 377 37b-37d 37f 386 388-38a
38c 38e-3a1 3a3-3f5 3f7-481 48a-52f 531-556 10a0-10c5 13a0-13f5 13f8-13fd 1c90-1cba 1cbd-1cbf
1d00-1d2b 1d6b-1d77 1d79-1d9a 1e00-1f15 1f18-1f1d 1f20-1f45 1f48-1f4d 1f50-1f57 1f59 1f5b 1f5d
1f5f-1f7d 1f80-1fb4 1fb6-1fbc 1fbe 1fc2-1fc4 1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff4
1ff6-1ffc 2102 2107 210a-2113 2115 2119-211d 2124 2126 2128 212a-212d 212f-2134 2139 213c-213f
2145-2149 214e 2183 2184 2c00-2c7b 2c7e-2ce4 2ceb-2cee 2cf2 2cf3 a640-a66d a680-a69b a722-a76f
a771-a787 a78b-a78e ab70-abbf fb00-fb06 fb13-fb17 ff21-ff3a ff41-ff5a 10400-1044f 104b0-104d3
104d8-104fb 10c80-10cb2 10cc0-10cf2 118a0-118df 1e900-1e943
"""


def _char_class(ranges: str) -> str:
    """A regex character class from hexadecimal code points and ranges of them."""
    return "[" + "".join("-".join(f"\\x{{{c}}}" for c in r.split("-")) for r in ranges.split()) + "]"


_DEEPSEEK_CJK = _char_class("4e00-9fa5 800-4e00 ac00-d7ff") + "+"
_DEEPSEEK_PUNCTUATION = _char_class("21-2f 3a-7e ff01-ff0f ff1a-ff5e 2018-201f 3000-3002")
_BLOOM = r" ?[^(\s|.,!?\x{2026}\x{3002}\x{ff0c}\x{3001}\x{964}\x{6d4}\x{60c})]+"


@dataclass(frozen=True)
class PreKind:
    """``patterns`` in order; ``ignore_merges``: a word that is a piece is taken whole;
    ``add_bos``: the default where the file does not say."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


_KINDS: tuple[tuple[tuple[str, ...], PreKind], ...] = (
    (
        ("default",),
        PreKind((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    ),
    (
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
        PreKind((_LLAMA3,), ignore_merges=True, add_bos=True),
    ),
    (
        ("jais-2",),
        PreKind(
            (
                _CONTRACTION
                + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
                + "".join(rf"|\s{{{run}}}(?!\S)" for run in (512, 256, 128, 64, 32, 16, 8, 4, "1,2"))
                + r"|\s",
            )
        ),
    ),
    (
        ("minicpm5",),
        PreKind(
            (r"\p{N}{1,3}", _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+" + _TAIL), ignore_merges=True
        ),
    ),
    (("dbrx", "smaug-bpe", "chatglm-bpe", "glm4"), PreKind((_LLAMA3,))),
    (
        (
            "qwen2",
            "deepseek-r1-qwen",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "kormo",
            "grok-2",
            "f2llmv2",
            "bailingmoe",
            "bailingmoe2",
            "llada-moe",
        ),
        PreKind((_QWEN2,)),
    ),
    (("laguna",), PreKind((r"[^\n]+|\n+", _QWEN2))),
    (("ufakzeka",), PreKind((r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL,))),
    (
        ("qwen35",),
        PreKind(
            (
                _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
                r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            )
        ),
    ),
    (
        (
            "gpt-2",
            "phi-2",
            "olmo",
            "mpt",
            "jais",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "exaone4",
            "trillion",
            "granite-docling",
        ),
        PreKind((_GPT2,)),
    ),
    (
        ("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"),
        PreKind((r"\p{N}", _GPT2)),
    ),
    (("falcon",), PreKind((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]"))),
    (
        ("deepseek-llm",),
        PreKind(
            (
                r"[\r\n]",
                r"\s?" + _char_class(_DEEPSEEK_LETTERS) + "+",
                r"\s?" + _DEEPSEEK_PUNCTUATION + "+",
                r"\s+$",
                _DEEPSEEK_CJK,
                r"\p{N}+",
            )
        ),
    ),
    (
        ("deepseek-coder",),
        PreKind((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_CJK, r"\p{N}")),
    ),
    (
        ("deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"),
        PreKind(
            (
                r"\p{N}{1,3}",
                _char_class("4e00-9fa5 3040-309f 30a0-30ff") + "+",
                r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
                r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            )
        ),
    ),
    (
        ("tekken",),
        PreKind(
            (f"{_UPPER}*{_LOWER}+|{_UPPER}+{_LOWER}*|" + r"\p{N}" + _CASED_TAIL,),
            ignore_merges=True,
            add_bos=True,
        ),
    ),
    (
        ("gpt-4o", "llama4", "minimax-m2", "kanana2", "talkie"),
        PreKind((_CASED_WORDS + r"\p{N}{1,3}" + _CASED_TAIL,)),
    ),
    (
        ("exaone-moe",),
        PreKind(
            (
                _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}"
                r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
            )
        ),
    ),
    (("superbpe",), PreKind((r"\p{N}+", r"(?=(\d{3})+(?!\d))"))),
    (("poro-chat", "bloom", "gpt3-finnish"), PreKind((_BLOOM,))),
    (("viking",), PreKind((_BLOOM, r"\p{N}"))),
    (
        ("seed-coder",),
        PreKind(
            (
                _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+",
            )
        ),
    ),
)

#: Every splitting rule by the name GGUF files use.
PRE_KINDS: dict[str, PreKind] = {name: kind for names, kind in _KINDS for name in names}
