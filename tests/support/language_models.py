"""Tiny random language models, and byte-pair tokenizers of the kinds of Qwen and Gemma."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from same_weights import same_weights

__all__ = [
    "CHAT_TEMPLATE",
    "VISION_CHAT_TEMPLATE",
    "gemma2",
    "mistral3",
    "mistral_tokenizer",
    "qwen2_5_vl",
    "qwen3",
    "qwen3_vl",
    "write_gemma_tokenizer",
    "write_qwen_tokenizer",
]

_TEXT = (
    "a red apple on the table, an astronaut that rides a horse on the moon, it's what we'll paint: I'm 1234 years old",
    "一只红色的苹果 naïve café ünïcödé\r\n\r\n    def f(x):\n\treturn x ** 2  # 3.14\n",
    "system\nYou are a helpful assistant that describes images. user\nassistant\n<think>\n\n</think>\n\n",
)

CHAT_TEMPLATE = """{%- for message in messages %}
    {%- if message.role == "user" %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
"""The parts of Qwen 3's template that a message of the user passes through."""

VISION_CHAT_TEMPLATE = """{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- for content in message.content %}
        {{- content.text }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
"""The parts of Qwen 3 VL's template that texts pass through."""

_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 512,
}


@same_weights
def qwen3(name: str = "Qwen3Model", **options: Any) -> Any:
    """Make a Qwen 3."""
    import transformers

    config = transformers.Qwen3Config(**{**_SIZES, "head_dim": 16, "rope_theta": 1e6, "pad_token_id": 0, **options})
    return getattr(transformers, name)(config).eval()


@same_weights
def gemma2(name: str = "Gemma2Model", **options: Any) -> Any:
    """Make a Gemma 2, whose attention scores are capped."""
    import transformers

    config = transformers.Gemma2Config(**{**_SIZES, "head_dim": 16, "query_pre_attn_scalar": 16, **options})
    return getattr(transformers, name)(config).eval()


@same_weights
def qwen2_5_vl(**options: Any) -> Any:
    """Make a Qwen 2.5 VL, whose rotary positions have three parts."""
    import transformers

    rotary = {"type": "mrope", "mrope_section": [2, 3, 3]}
    text = {**_SIZES, "bos_token_id": 1, "eos_token_id": 2, "rope_scaling": rotary, "rope_theta": 1e6, **options}
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 32}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return transformers.Qwen2_5_VLForConditionalGeneration(config).eval()


@same_weights
def qwen3_vl(**vision: Any) -> Any:
    """Make a Qwen 3 VL, whose first layer sees an image again; arguments are of its image encoder."""
    import transformers

    rotary = {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True, "rope_theta": 5e6}
    seeing = {
        "depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 32,
        "num_position_embeddings": 64, "deepstack_visual_indexes": [0], **vision,
    }  # fmt: skip
    text = {**_SIZES, "head_dim": 16, "rope_parameters": rotary}
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=seeing)
    return transformers.Qwen3VLForConditionalGeneration(config).eval()


def write_qwen_tokenizer(folder: Path, *, chat_template: str | None = CHAT_TEMPLATE, **config: Any) -> None:
    """Write a tokenizer of Qwen's kind with 500 tokens, as checkpoints have it: tokenizer.json and vocab.json."""
    from transformers import Qwen2Tokenizer

    vocabulary, merges = _train(byte_level=True)
    tokenizer = Qwen2Tokenizer(
        vocab=dict(vocabulary),
        merges=list(merges),
        eos_token="<|im_end|>",
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
        **{"model_max_length": 131_072, **config},
    )
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_gemma_tokenizer(folder: Path) -> None:
    """Write a tokenizer of Gemma's kind with 500 tokens, which begins every text and has a token for every byte."""
    from tokenizers.processors import TemplateProcessing
    from transformers import GemmaTokenizer

    vocabulary, merges = _train(byte_level=False)
    tokenizer = GemmaTokenizer(vocab=dict(vocabulary), merges=list(merges))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    tokenizer.save_pretrained(folder)


@cache
def _train(*, byte_level: bool) -> tuple[dict[str, int], tuple[tuple[str, str], ...]]:
    """Return vocabulary and merges of a small byte-pair encoding."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=490,
        special_tokens=[] if byte_level else specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if byte_level else [],
        show_progress=False,
    )
    tokenizer = Tokenizer(models.BPE())
    if byte_level:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(_TEXT if byte_level else [text.replace(" ", "▁") for text in _TEXT], trainer)
    saved = json.loads(tokenizer.to_str())["model"]
    return saved["vocab"], tuple((first, second) for first, second in saved["merges"])


MISTRAL_TEMPLATE = """{{- bos_token }}
{%- for message in messages %}
    {%- if message['content'] is string %}
        {%- set text = message['content'] %}
    {%- else %}
        {%- set parts = namespace(text='') %}
        {%- for block in message['content'] %}
            {%- if block['type'] == 'text' %}
                {%- set parts.text = parts.text + block['text'] %}
            {%- else %}
                {%- set parts.text = parts.text + '[IMG]' %}
            {%- endif %}
        {%- endfor %}
        {%- set text = parts.text %}
    {%- endif %}
    {%- if message['role'] == 'system' %}
        {{- '[SYSTEM_PROMPT]' + text + '[/SYSTEM_PROMPT]' }}
    {%- elif message['role'] == 'user' %}
        {{- '[INST]' + text + '[/INST]' }}
    {%- endif %}
{%- endfor %}"""
"""The parts of Mistral Small 3.2's template that messages of the system and the user pass through."""

_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_MISTRAL_TOKENS = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "<pad>", "[IMG]", "[IMG_BREAK]",
    "[IMG_END]",
)  # fmt: skip


def mistral3(**options: Any) -> Any:
    """Make a Mistral 3 with a vision tower of one layer."""
    import transformers

    text = {**_SIZES, "model_type": "mistral", "head_dim": 16, "rope_theta": 1e6, "sliding_window": None, **options}
    vision = {
        "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 4,
    }  # fmt: skip
    config = transformers.Mistral3Config(text_config=text, vision_config=vision, image_token_index=8)
    return transformers.Mistral3ForConditionalGeneration(config).eval()


def mistral_tokenizer() -> Any:
    """Make a tokenizer of Mistral 3's kind, which begins every text and pads to the left."""
    import transformers
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    vocabulary, merges = _train(byte_level=True)
    shift = len(_MISTRAL_TOKENS)
    whole = {**dict(zip(_MISTRAL_TOKENS, range(shift), strict=True))}
    whole |= {token: index + shift for token, index in vocabulary.items()}
    tokenizer = Tokenizer(models.BPE(vocab=whole, merges=list(merges), ignore_merges=True))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _MISTRAL_TOKENS])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_TEKKEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
        padding_side="left", model_max_length=131_072,
    )  # fmt: skip
    fast.chat_template = MISTRAL_TEMPLATE
    return fast
