"""A CLIP tokenizer extended by textual inversion tokens, one or several for a word."""

import re
from collections.abc import Mapping, Sequence

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.tokenizers.clip import ClipTokenizer

__all__ = ["ExtendedTokenizer"]


class ExtendedTokenizer(ClipTokenizer):
    """Tokenizes as the base does, except for the added words, which become tokens of their own.

    diffusers: `TextualInversionLoaderMixin.load_textual_inversion` and `maybe_convert_prompt`. Safe to use from several
    threads: nothing changes after construction.

    Attributes:
        base: The checkpoint's tokenizer.
        words: Word to its number of vectors; those after the first are the tokens "<word>_1", "<word>_2" ...
    """

    def __init__(self, base: ClipTokenizer, words: Mapping[str, int], *, vocabulary: int) -> None:
        """Add the tokens.

        Args:
            base: The checkpoint's tokenizer.
            words: As the attribute, in the order of the rows appended to the embedding table.
            vocabulary: Rows of the original table: the id of the first new token.

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

    def ids(self, text: str) -> list[int]:
        """See `ClipTokenizer.ids`; ids of new tokens are the rows appended to the table."""
        ids = super().ids(self.expand(text))
        return [index + self._shift if index >= self.base.size else index for index in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """See `ClipTokenizer.decode`."""
        first = self.base.size + self._shift
        return super().decode([index - self._shift if index >= first else index for index in ids])

    def expand(self, text: str) -> str:
        """Write out every word of several vectors: "<cat>" as "<cat> <cat>_1 <cat>_2".

        Case does not count, as for every other word. diffusers writes out no word with capitals under transformers 5,
        whose tokens are in lower case, so that only its first vector is used.
        """
        for word in self.words_in(text):
            written = " ".join(_tokens(word, self.words[word]))
            text = re.sub(re.escape(word), written.replace("\\", r"\\"), text, flags=re.IGNORECASE)
        return text

    def words_in(self, text: str) -> list[str]:
        """Return the added words that a text contains, in its order."""
        lower = {word.lower(): word for word in self.words}
        return [lower[token] for token in dict.fromkeys(map(str.lower, self.tokenize(text))) if token in lower]


def _tokens(word: str, count: int) -> list[str]:
    return [word, *(f"{word}_{i}" for i in range(1, count))]
