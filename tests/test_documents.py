"""Documents name what is there: files that exist, and every model family."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from runtime.bundle import format as bundle_format

ROOT = Path(__file__).parent.parent

#: How the README calls the models of each file of ``compiler/architectures``.
CALLED = {
    "arcee": ("Arcee AFM",),
    "chatglm": ("ChatGLM 3",),
    "codeshell": ("CodeShell",),
    "command-r": ("Command-R",),
    "deepseek": ("DeepSeek MoE",),
    "dots1": ("dots.llm1",),
    "ernie4_5": ("ERNIE 4.5",),
    "exaone": ("EXAONE 3",),
    "gemma": ("Gemma 1 to 3",),
    "gemma2": ("Gemma 1 to 3",),
    "gemma3": ("Gemma 1 to 3",),
    "glm4": ("GLM-4",),
    "granite": ("Granite 3 with and without experts",),
    "granitemoe": ("Granite 3 with and without experts",),
    "internlm2": ("InternLM 2",),
    "llama": ("Llama 2 and 3", "Mistral", "Mixtral"),
    "mistral3": ("Mistral Small 3",),
    "nemotron": ("Nemotron",),
    "olmo2": ("OLMo 2 and 3",),
    "olmoe": ("OLMoE",),
    "orion": ("Orion",),
    "phi2": ("Phi 1.5 to 4-mini",),
    "phi3": ("Phi 1.5 to 4-mini",),
    "qwen2": ("Qwen 2, 2.5 and 3 with and without experts",),
    "qwen2moe": ("Qwen 2, 2.5 and 3 with and without experts",),
    "qwen3": ("Qwen 2, 2.5 and 3 with and without experts",),
    "qwen3moe": ("Qwen 2, 2.5 and 3 with and without experts",),
    "smollm3": ("SmolLM 1 to 3",),
    "stablelm": ("StableLM 2",),
    "starcoder2": ("StarCoder 2",),
    "xverse": ("XVERSE",),
}


def test_the_readme_lists_every_family() -> None:
    files = (ROOT / "compiler/architectures").glob("*.yaml")
    families = {family for file in files for family in yaml.safe_load(file.read_text())["families"]}
    assert families == set(CALLED)
    text = (ROOT / "README.md").read_text()
    (listed,) = re.findall(r"of these families: (.*?)\. A model of another family", text)
    assert [name for names in CALLED.values() for name in names if name not in listed] == []
    known = sorted({name for names in CALLED.values() for name in names}, key=len, reverse=True)
    left = listed
    for name in known:
        left = left.replace(name, "")
    assert re.sub(r"\band\b|[,\s]", "", left) == ""  # and nothing that is not there


def named_files(document: str) -> list[str]:
    """What stands in backticks outside of code blocks and reads like a file of this repository."""
    text = re.sub(r"```.*?```", "", (ROOT / document).read_text(), flags=re.DOTALL)
    words = re.findall(r"`([\w.<>*,-][\w.<>*,/-]*)`", text)
    return [
        word
        for word in words
        if ("/" in word or word.endswith((".py", ".c", ".h", ".md", ".yaml", ".j2"))) and ".." not in word
    ]


@pytest.mark.parametrize("document", ["README.md", "HACKING.md", "kernels_c/README.md"])
def test_every_file_that_a_document_names_exists(document: str) -> None:
    """``<format>`` stands for any name; emitted C may be named without ``.j2``, a module without ``.py``."""
    rooms = ("compiler", "runtime", "kernels_c", "plans", "tests", "docs", ".ci")
    here = [path.relative_to(ROOT).as_posix() for room in rooms for path in (ROOT / room).rglob("*")]
    here += [*rooms, *(path.name for path in ROOT.iterdir())]
    known = "\n".join(f"/{path}" for path in here)
    made = {value for name, value in vars(bundle_format).items() if name.isupper() and isinstance(value, str)}
    missing = []
    for word in named_files(document):
        pattern = re.escape(re.sub(r"<\w+>", "*", word.rstrip("/"))).replace(r"\*", "[^/\n]*")
        if word not in made and not re.search(rf"/{pattern}(\.py|\.j2)?$", known, flags=re.MULTILINE):
            missing.append(word)
    assert missing == []
