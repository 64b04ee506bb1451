"""A CLIP tokenizer with tokens of textual inversion embeddings, one or several for a word."""

from collections.abc import Mapping, Sequence

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.tokenizers.clip import ClipTokenizer, TokenBatch

__all__ = ["ExtendedTokenizer"]


class ExtendedTokenizer(ClipTokenizer):
    """Tokenizes as the base does, but for some words, which are tokens of their own.

    diffusers: `TextualInversionLoaderMixin.load_textual_inversion` and `maybe_convert_prompt`. Safe to use from several
    threads: nothing changes after construction.

    Attributes:
        base: The checkpoint's tokenizer.
        words: Word to how many vectors it stands for; those after the first are the tokens "<word>_1", "<word>_2" ...
    """

    def __init__(self, base: ClipTokenizer, words: Mapping[str, int], *, vocabulary: int) -> None:
        """Add the tokens.

        Args:
            base: The checkpoint's tokenizer.
            words: As the attribute, in the order of the rows that stand behind the table of embeddings.
            vocabulary: Rows of that table: the id of the first new token.

        Raises:
            InputError: A token is in the vocabulary already.
        """
        super().__init__(base.files)
        self.base, self.words = base, dict(words)
        tokens = [token for word, count in words.items() for token in _tokens(word, count)]
        for token in tokens:
            if base.token_id(token) is not None or tokens.count(token) > 1:
                raise InputError(
                    f"token {token!r}: is in the tokenizer's vocabulary already, expected a new one; pass token="
                )
        self._tokenizer.add_tokens(tokens)
        self._shift = vocabulary - base.size
        if self._shift < 0:
            raise InputError(
                f"token {tokens[0]!r}: the tokenizer has {base.size} tokens, the text encoder rows for {vocabulary}; "
                f"they do not belong together, export the bundle again"
            )

    def __call__(self, texts: Sequence[str], *, max_length: int | None = None) -> TokenBatch:
        """See `ClipTokenizer.__call__`."""
        plain = [self.expand(text) if isinstance(text, str) else text for text in texts] if _is_list(texts) else texts
        batch = super().__call__(plain, max_length=max_length)
        ids = np.where(batch.input_ids >= self.base.size, batch.input_ids + self._shift, batch.input_ids)
        return TokenBatch(input_ids=ids.astype(np.int32), truncated=batch.truncated)

    def expand(self, text: str) -> str:
        """The text with every word of several vectors written out: "<cat>" as "<cat> <cat>_1 <cat>_2"."""
        found = [token for token in dict.fromkeys(self.tokenize(text)) if token in self.words]
        for word in found:
            text = text.replace(word, " ".join(_tokens(word, self.words[word])))
        return text


def _tokens(word: str, count: int) -> list[str]:
    return [word, *(f"{word}_{i}" for i in range(1, count))]


def _is_list(texts: object) -> bool:
    return isinstance(texts, Sequence) and not isinstance(texts, str)
