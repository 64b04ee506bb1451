"""Renders the chat template of a checkpoint's tokenizer into a fixed text before and after a prompt."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.tokenizers.chat_prompt import ChatPrompt

__all__ = ["render_chat_template"]

_MARK = "2b7d9c4e"
"""A text that no template contains."""

_HOSTILE = ("", " a \n", "</think>\n\n b", "<tool_response>c</tool_response>", "<|im_end|>", "{{ d }}", "\\e'\"")
"""Prompts that a template could change."""


def render_chat_template(tokenizer: Any, options: Mapping[str, Any], folder: Path) -> ChatPrompt:
    """Render the template with a message of the user, up to the model's answer.

    Args:
        tokenizer: Tokenizer of transformers.
        options: Further arguments of `apply_chat_template`, as the pipeline passes them. With `system`, the text of a
            message before that of the user, both are messages of parts.
        folder: Folder of the tokenizer in messages.

    Raises:
        CheckpointError: There is no template, or it does more than to put text before and after the message.
    """
    system = options.get("system")
    passed = {"add_generation_prompt": True, **{name: value for name, value in options.items() if name != "system"}}

    def render(content: str) -> str:
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if system is not None:
            texts = {"system": system, "user": content}
            messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in texts.items()]
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, **passed)
        return _without_start(tokenizer, text)

    if not getattr(tokenizer, "chat_template", None):
        raise CheckpointError(
            f"{folder}: got no chat template, expected chat_template.jinja, or 'chat_template' in "
            f"tokenizer_config.json; the checkpoint is incomplete, fetch it again"
        )
    try:
        prefix, *suffixes = render(_MARK).split(_MARK)
        chat = ChatPrompt(prefix, suffixes[0] if len(suffixes) == 1 else "")
        plain = len(suffixes) == 1 and all(render(text) == chat.render(text) for text in _HOSTILE)
    except Exception as error:  # a template may raise anything
        raise CheckpointError(f"{folder}: the chat template cannot be rendered: {error}; fetch it again") from error
    if not plain:
        raise CheckpointError(
            f"{folder}: got a chat template that changes prompts, expected one that puts text before and after them; "
            f"this tokenizer is not supported"
        )
    return chat


def _without_start(tokenizer: Any, text: str) -> str:
    """Return a chat without its first token, where the tokenizer writes that one itself.

    transformers' processors leave it out of the tokenizer's own part instead, which gives the same ids.
    """
    start = tokenizer.bos_token
    writes = start is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    return text.removeprefix(start) if writes else text
