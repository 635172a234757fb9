"""The shapes in which published models are spoken to, each with its exact text.

The templates are written for these tests; what they produce is the format that the
family named documents.
"""

from __future__ import annotations

import pytest

from runtime.engine.chat import render_chat
from runtime.errors import EngineError

TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": " Why? "},
]
SYSTEM = [{"role": "system", "content": "Be brief."}, *TALK]

CHATML = """\
{% for m in messages %}
{{ '<|im_start|>' ~ m.role }}
{{ m.content ~ '<|im_end|>' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\n' -}}
{% endif %}"""

LLAMA3 = (
    "{% for m in messages %}{% set part = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
    "+ m['content'] | trim + '<|eot_id|>' %}{% if loop.first %}{% set part = bos_token + part %}{% endif %}"
    "{{ part }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

LLAMA2 = """\
{%- if messages[0].role == 'system' -%}
  {%- set head = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' -%}
  {%- set turns = messages[1:] -%}
{%- else -%}
  {%- set head, turns = '', messages -%}
{%- endif -%}
{%- for m in turns -%}
  {%- if (m.role == 'user') != (loop.index0 is even) -%}
    {{- raise_exception('roles must alternate user and assistant') -}}
  {%- endif -%}
  {%- if m.role == 'user' -%}
    {{- bos_token + '[INST] ' + (head if loop.first else '') + m.content.strip() + ' [/INST]' -}}
  {%- else -%}
    {{- ' ' + m.content.strip() + ' ' + eos_token -}}
  {%- endif -%}
{%- endfor -%}"""

GEMMA = """\
{{- bos_token -}}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif -%}
{%- for m in messages -%}
  {{- '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' -}}
  {{- m['content'] | trim + '<end_of_turn>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif -%}"""

MISTRAL = """\
{{- bos_token }}
{%- for m in messages if m.role != 'system' %}
    {%- if m.role == 'user' %}
        {%- if loop.last and messages[0].role == 'system' %}
            {{- '[INST] ' ~ messages[0].content ~ '\n\n' ~ m.content ~ '[/INST]' }}
        {%- else %}
            {{- '[INST] ' ~ m.content ~ '[/INST]' }}
        {%- endif %}
    {%- else %}
        {{- ' ' ~ m.content ~ eos_token }}
    {%- endif %}
{%- endfor %}"""

PHI3 = """\
{% for m in messages %}{{ '<|' ~ m.role ~ '|>\n' ~ m.content ~ '<|end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"""

ZEPHYR = """\
{% for m in messages %}
{{ '<|' + m.role + '|>\n' + m.content + eos_token }}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

VICUNA = """\
{%- set ns = namespace(system='A chat between a user and an assistant.') -%}
{%- for m in messages -%}
  {%- if m.role == 'system' -%}{%- set ns.system = m.content -%}{%- continue -%}{%- endif -%}
  {%- if m.role == 'user' -%}
    {{- (ns.system + ' ' if ns.system else '') + 'USER: ' + m.content | trim + ' ' -}}
    {%- set ns.system = '' -%}
  {%- else -%}
    {{- 'ASSISTANT: ' + m.content | trim + eos_token -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif -%}"""

ALPACA = """\
{% for m in messages %}
{% if m.role == 'system' %}
{{ m.content }}

{% elif m.role == 'user' %}
### Instruction:
{{ m.content | trim }}

{% else %}
### Response:
{{ m.content | trim }}

{% endif %}
{% endfor %}
{% if add_generation_prompt %}
### Response:

{% endif %}"""

COMMAND_R = """\
{%- set names = {'system': 'SYSTEM', 'user': 'USER', 'assistant': 'CHATBOT'} -%}
{{- bos_token -}}
{%- for m in messages -%}
{{- '<|START_OF_TURN_TOKEN|><|' + names[m.role] + '_TOKEN|>' + m.content.strip() + '<|END_OF_TURN_TOKEN|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' -}}{%- endif -%}"""

DEEPSEEK = """\
{%- if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif -%}
{{- bos_token -}}
{%- for m in messages -%}
  {%- if m['role'] == 'user' %}{{ 'User: ' + m['content'] + '\n\n' }}
  {%- elif m['role'] == 'assistant' %}{{ 'Assistant: ' + m['content'] + eos_token }}
  {%- else %}{{ m['content'] + '\n\n' }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ 'Assistant:' }}{% endif -%}"""

GRANITE = """\
{%- if messages[0].role != 'system' %}
{{- '<|start_of_role|>system<|end_of_role|>Today is ' + strftime_now('%B %d, %Y') + '.<|end_of_text|>\n' }}
{%- endif %}
{%- for m in messages %}
{{- '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}"""

OLMO = """\
{{- bos_token -}}
{%- for m in messages -%}
{%- if m.role == 'assistant' and not loop.last -%}
{{- '<|assistant|>\n' + m.content + eos_token + '\n' -}}
{%- elif m.role == 'assistant' -%}
{% generation %}{{- '<|assistant|>\n' + m.content + eos_token -}}{% endgeneration %}
{%- else -%}
{{- '<|' + m.role + '|>\n' + m.content + '\n' -}}
{%- endif -%}
{%- if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif -%}
{%- endfor -%}"""

# name: template, bos, eos, messages, text with a generation prompt
SHAPES = {
    "chatml": (
        CHATML, "", "", SYSTEM,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\n Why? <|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    "llama-3": (
        LLAMA3, "<|begin_of_text|>", "<|eot_id|>", SYSTEM,
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "llama-2": (
        LLAMA2, "<s>", "</s>", SYSTEM,
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello! </s><s>[INST] Why? [/INST]",
    ),
    "gemma": (
        GEMMA, "<bos>", "<eos>", TALK,
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello!<end_of_turn>\n"
        "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
    ),
    "mistral": (
        MISTRAL, "<s>", "</s>", SYSTEM,
        "<s>[INST] Hi[/INST] Hello!</s>[INST] Be brief.\n\n Why? [/INST]",
    ),
    "phi-3": (
        PHI3, "<s>", "<|endoftext|>", SYSTEM,
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello!<|end|>\n"
        "<|user|>\n Why? <|end|>\n<|assistant|>\n",
    ),
    "zephyr": (
        ZEPHYR, "<s>", "</s>", SYSTEM,
        "<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello!</s>\n<|user|>\n Why? </s>\n"
        "<|assistant|>\n",
    ),
    "vicuna": (
        VICUNA, "<s>", "</s>", SYSTEM,
        "Be brief. USER: Hi ASSISTANT: Hello!</s>USER: Why? ASSISTANT:",
    ),
    "alpaca": (
        ALPACA, "<s>", "</s>", SYSTEM,
        "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello!\n\n### Instruction:\nWhy?\n\n"
        "### Response:\n\n",
    ),
    "command-r": (
        COMMAND_R, "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", SYSTEM,
        "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be brief.<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>Hello!<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Why?<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
    "deepseek": (
        DEEPSEEK, "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", SYSTEM,
        "<｜begin▁of▁sentence｜>Be brief.\n\nUser: Hi\n\nAssistant: Hello!<｜end▁of▁sentence｜>"
        "User:  Why? \n\nAssistant:",
    ),
    "granite": (
        GRANITE, "", "<|end_of_text|>", TALK,
        "<|start_of_role|>system<|end_of_role|>Today is July 04, 2025.<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>Hi<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>Hello!<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|> Why? <|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>",
    ),
    "olmo": (
        OLMO, "<|endoftext|>", "<|endoftext|>", SYSTEM,
        "<|endoftext|><|system|>\nBe brief.\n<|user|>\nHi\n<|assistant|>\nHello!<|endoftext|>\n"
        "<|user|>\n Why? \n<|assistant|>\n",
    ),
}  # fmt: skip

JULY_4_2025 = 1751630400.0  # noon, UTC


@pytest.mark.parametrize("name", SHAPES)
def test_the_shape_gives_its_exact_text(name: str) -> None:
    template, bos, eos, messages, expected = SHAPES[name]
    assert render_chat(template, messages, bos_token=bos, eos_token=eos, now=JULY_4_2025) == expected


def test_without_a_generation_prompt_the_text_ends_with_the_last_message() -> None:
    messages = [*TALK, {"role": "assistant", "content": "So."}]
    text = render_chat(OLMO, messages, bos_token="", eos_token="</s>", add_generation_prompt=False)
    assert text.endswith("<|user|>\n Why? \n<|assistant|>\nSo.</s>")
    text = render_chat(PHI3, TALK, bos_token="", eos_token="<|endoftext|>", add_generation_prompt=False)
    assert text.endswith(" Why? <|end|>\n<|endoftext|>")


def test_a_templates_own_refusal_is_its_message() -> None:
    with pytest.raises(EngineError, match="System role not supported") as error:
        render_chat(GEMMA, SYSTEM, bos_token="", eos_token="")
    assert error.value.code == "chat_template_refused"


def test_tools_are_rendered_as_json_without_html_escapes() -> None:
    template = "{% if tools %}{{ tools | tojson }}|{{ tools[0] | tojson(indent=2) }}{% else %}none{% endif %}"
    tools = [{"type": "function", "function": {"name": "f", "description": "a < b & 'ç'"}}]
    text = render_chat(template, TALK, bos_token="", eos_token="", tools=tools)
    assert text.startswith(
        '[{"type": "function", "function": {"name": "f", "description": "a < b & \'ç\'"}}]|{\n  "type"'
    )
    assert render_chat(template, TALK, bos_token="", eos_token="") == "none"


def test_further_variables_reach_the_template_but_do_not_replace_the_messages() -> None:
    template = "{{ enable_thinking }} {{ messages | length }}"
    variables = {"enable_thinking": False, "messages": []}
    assert render_chat(template, TALK, bos_token="", eos_token="", variables=variables) == "False 3"
