"""Words of prompts, the tokens that they become, and the alignment of an edited prompt with the first one.

Hertz et al. 2022, Prompt-to-Prompt, https://arxiv.org/abs/2208.01626, section 3.2. diffusers: community pipeline
`pipeline_prompt2prompt`, `get_word_inds`, `get_replacement_mapper`, `get_refinement_mapper`.
"""

from dataclasses import dataclass

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.suggest import did_you_mean
from diffoundry.runtime.tokenizers.clip import ClipTokenizer

__all__ = ["PromptWords", "read_words", "refinement_map", "replacement_map"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptWords:
    """The words of a prompt and their places among its tokens.

    Attributes:
        prompt: The prompt.
        words: It, split at spaces.
        places: For each word the places of its tokens in the text encoder's input.
        ids: Token ids, start and end token included.
        length: Places of the text encoder's input: 77.
    """

    prompt: str
    words: tuple[str, ...]
    places: tuple[tuple[int, ...], ...]
    ids: tuple[int, ...]
    length: int

    def find(self, phrase: str) -> list[int]:
        """Return the places of a word, or of words in a row, wherever they occur; none where they do not."""
        wanted = tuple(phrase.split())
        starts = range(len(self.words) - len(wanted) + 1) if wanted else ()
        found = [i for i in starts if self.words[i : i + len(wanted)] == wanted]
        return sorted({place for i in found for word in self.places[i : i + len(wanted)] for place in word})

    def places_of(self, phrase: str, argument: str) -> list[int]:
        """Return the places of words that the prompt must contain.

        Args:
            phrase: The words.
            argument: Argument that names them, for messages.

        Raises:
            InputError: It does not contain them.
        """
        places = self.find(phrase)
        if not places:
            raise InputError(
                f"{argument}: got {phrase!r}, which is no word of the prompt {self.prompt!r}, expected one as it is "
                f"written there.{did_you_mean(phrase, self.words)}"
            )
        return places


def read_words(tokenizer: ClipTokenizer, prompt: str, argument: str) -> PromptWords:
    """Split a prompt into words and tokens.

    Args:
        tokenizer: Of the text encoder.
        prompt: The prompt.
        argument: Argument that needs the words, for messages.

    Raises:
        InputError: The prompt is longer than the text encoder reads, or has tokens across a space.
    """
    length, ids = tokenizer.check_length(), tokenizer.ids(prompt)
    if len(ids) > length - 2:
        raise InputError(
            f"prompt: got {len(ids)} tokens, expected at most {length - 2} with {argument}; shorten {prompt!r}"
        )
    words = tuple(prompt.split(" "))
    counts = [len(tokenizer.ids(word)) for word in words]
    if sum(counts) != len(ids):
        raise InputError(
            f"prompt: got {prompt!r}, in which a token of the tokenizer spans several words, expected tokens within "
            f"words with {argument}; write it with other words"
        )
    first = tokenizer.start(len(ids), length) + 1
    ends = first + np.cumsum(counts)
    places = tuple(tuple(range(end - count, end)) for end, count in zip(ends.tolist(), counts, strict=True))
    whole = (tokenizer.bos_token_id, *ids, tokenizer.eos_token_id)
    return PromptWords(prompt=prompt, words=words, places=places, ids=whole, length=length)


def replacement_map(base: PromptWords, edited: PromptWords) -> FloatArray:
    """Return M (tokens, tokens) of a prompt in which some words were replaced: new = base @ M.

    A replaced word takes the attention of the word at its place, a word of several tokens in equal shares.

    Raises:
        InputError: The prompts have different numbers of words.
    """
    if len(base.words) != len(edited.words):
        raise InputError(
            f"prompt: got {len(base.words)} words in {base.prompt!r} and {len(edited.words)} in {edited.prompt!r}, "
            f"expected as many with the edit type 'replace'; use 'refine' for prompts of different length"
        )
    result = np.zeros((base.length, base.length), np.float32)
    i = j = 0
    for number, (one, other) in enumerate(zip(base.words, edited.words, strict=True)):
        sources, targets = list(base.places[number]), list(edited.places[number])
        if one == other or not sources or not targets:
            continue
        steps = np.arange(sources[0] - i)  # the tokens before this word
        result[i + steps, j + steps] = 1
        if len(sources) == len(targets):
            result[sources, targets] = 1
        else:
            result[np.ix_(sources, targets)] = 1 / len(targets)
        i, j = sources[-1] + 1, j + len(steps) + len(targets)
    rest = np.arange(j, base.length - max(i - j, 0))
    result[rest, rest] = 1  # as the community pipeline: from the token of the same place, not of the same word
    return result


def refinement_map(base: PromptWords, edited: PromptWords) -> tuple[FloatArray, FloatArray]:
    """Return M (tokens, tokens) and c (tokens,) of a prompt to which words were added: new = base @ M + edited * c.

    Tokens are aligned as in Needleman and Wunsch 1970, with 1 for a match, -1 for a mismatch and 0 for a gap. A token
    without a partner keeps its own attention.
    """
    result, keep = np.eye(base.length, dtype=np.float32), np.zeros(base.length, np.float32)
    count = len(edited.ids)
    result[:, :count] = 0
    for place, partner in enumerate(_align(base.ids, edited.ids)):
        if partner is None:
            keep[place] = 1
        else:
            result[partner, place] = 1
    return result, keep


def _align(base: tuple[int, ...], edited: tuple[int, ...]) -> list[int | None]:
    """Return the place in `base` of each token of `edited`; None for a token that was added."""
    scores = np.zeros((len(base) + 1, len(edited) + 1), np.int64)
    for i, one in enumerate(base, 1):
        for j, other in enumerate(edited, 1):
            diagonal = scores[i - 1, j - 1] + (1 if one == other else -1)
            scores[i, j] = max(scores[i, j - 1], scores[i - 1, j], diagonal)
    partners: list[int | None] = [None] * len(edited)
    i, j = len(base), len(edited)
    while j > 0:
        if i == 0 or scores[i, j] == scores[i, j - 1]:
            j -= 1
        elif scores[i, j] == scores[i - 1, j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            partners[j] = i
    return partners
