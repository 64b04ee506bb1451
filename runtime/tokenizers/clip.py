"""The CLIP tokenizer of Stable Diffusion. Gives exactly the ids of transformers' `CLIPTokenizer`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from diffoundry.runtime.errors import BundleError, InputError
from diffoundry.runtime.tokenizers._clip_files import TOKENIZER_FILES, ClipFiles, read_clip_files
from diffoundry.runtime.tokenizers._fields import MAX_LENGTH, shorten

__all__ = ["TOKENIZER_FILES", "ClipTokenizer", "TokenBatch", "check_texts", "write_tokenizer_json"]

_WORD_END = "</w>"
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBatch:
    """The ids of some prompts.

    Attributes:
        input_ids: int32, (B, L): start token, prompt, end token, padding.
        truncated: For each prompt the text that was cut, as diffusers reports it; "" when all fitted.
        attention_mask: float32, (B, L): 0 for padding, 1 for other tokens.
    """

    input_ids: NDArray[np.int32]
    truncated: tuple[str, ...]
    attention_mask: NDArray[np.float32]


class ClipTokenizer:
    """Byte-pair encoding of Radford et al. 2021 (https://arxiv.org/abs/2103.00020), as in transformers 5.23.

    From a tokenizer.json only vocabulary, merges and added tokens are read. Normaliser and splitting are CLIP's own, as
    in transformers' class, so an untrusted file brings no regular expressions.

    Safe to use from several threads: nothing changes after construction. (The library's own padding and truncation
    are settings of the shared object, so they stay off and are done here.)

    Attributes:
        model_max_length: Ids of a full prompt (77), or None when the files do not give it.
        bos_token_id: Id before a prompt.
        eos_token_id: Id after a prompt.
        pad_token_id: Id that fills up: the end token's in SD 1.x, 0 ("!") in SD 2.x.
    """

    def __init__(self, files: ClipFiles) -> None:
        self._files = files
        self._tokenizer = _build(files)
        self.model_max_length = files.model_max_length
        self.bos_token_id = _id_of(self._tokenizer, files.special.bos, files)
        self.eos_token_id = _id_of(self._tokenizer, files.special.eos, files)
        self.pad_token_id = _id_of(self._tokenizer, files.special.pad, files)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> "ClipTokenizer":
        """Open a tokenizer folder: its tokenizer.json, else vocab.json with merges.txt, and the configs beside them.

        Raises:
            BundleError: A file is missing, damaged or hostile; the message names it.
        """
        return cls.from_files(_files_in(Path(folder)), name=str(folder))

    @classmethod
    def from_files(cls, files: Mapping[str, Path], *, name: str) -> "ClipTokenizer":
        """Open a tokenizer from trusted files only.

        Args:
            files: Name, one of `TOKENIZER_FILES`, to path.
            name: Name of the tokenizer in messages.

        Raises:
            BundleError: As `from_folder`.
        """
        return cls(read_clip_files(files, name))

    def __call__(self, texts: Sequence[str], *, max_length: int | None = None) -> TokenBatch:
        """Tokenize prompts, each padded or cut to the same length.

        transformers: `tokenizer(texts, padding="max_length", max_length=max_length, truncation=True)`.
        diffusers: `StableDiffusionPipeline.encode_prompt`, for the truncated text.

        Args:
            texts: The prompts, at least one.
            max_length: L, start and end token included; `model_max_length` by default.

        Raises:
            InputError: No list of texts, a text that is no valid Unicode, or an impossible length.
        """
        length = self.check_length(max_length)
        check_texts(texts)
        rows, masks, truncated = [], [], []
        for text in texts:
            body = self.ids(text)
            kept = self.kept(len(body), length - 2)
            rows.append(self.frame(body[kept], length))
            masks.append(self.mask(len(body[kept]), length))
            truncated.append(self.decode(body[: kept.start] + body[kept.stop :]))
        return TokenBatch(input_ids=np.stack(rows), truncated=tuple(truncated), attention_mask=np.stack(masks))

    def ids(self, text: str) -> list[int]:
        """Encode a text without truncation, start and end token."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def kept(self, count: int, room: int) -> slice:
        """Slice of `count` ids kept when only `room` fit: the first ones, or as the files say."""
        start = max(count - room, 0) if self._files.cut_left else 0
        return slice(start, min(start + room, count))

    def frame(self, body: Sequence[int], length: int) -> NDArray[np.int32]:
        """Put ids between start and end token and pad them: int32 (length,).

        Args:
            body: At most `length - 2` ids.
            length: L.
        """
        row = np.full(length, self.pad_token_id, dtype=np.int32)
        start = self.start(len(body), length)
        row[start : start + len(body) + 2] = [self.bos_token_id, *body, self.eos_token_id]
        return row

    def mask(self, count: int, length: int) -> NDArray[np.float32]:
        """Return 1 for `count` ids with start and end token, 0 for their padding: float32 (length,)."""
        row = np.zeros(length, np.float32)
        start = self.start(count, length)
        row[start : start + count + 2] = 1
        return row

    def start(self, count: int, length: int) -> int:
        """Index of the start token among `length` ids: 0, or after the padding if the files say so."""
        return length - count - 2 if self._files.pad_left else 0

    @property
    def files(self) -> ClipFiles:
        """The content of its files."""
        return self._files

    @property
    def size(self) -> int:
        """Number of tokens, added ones included: the id of the next."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def token_id(self, token: str) -> int | None:
        """Id of a token, or None when the text is no token."""
        index: int | None = self._tokenizer.token_to_id(token)
        return index

    def tokenize(self, text: str) -> list[str]:
        """Split a text into tokens without truncation; transformers: `tokenizer.tokenize(text)`."""
        tokens: list[str] = self._tokenizer.encode(text, add_special_tokens=False).tokens
        return tokens

    def decode(self, ids: Sequence[int]) -> str:
        """Convert ids to text, special tokens included; words are separated by one space."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text.replace(_WORD_END, " ").strip()

    def to_json(self) -> str:
        """Serialize the tokenizer as a tokenizer.json."""
        text: str = self._tokenizer.to_str(pretty=True)
        return text

    def check_length(self, max_length: int | None = None) -> int:
        """Number of ids of a full prompt.

        Raises:
            InputError: The files do not give it, or an impossible length.
        """
        length = self.model_max_length if max_length is None else max_length
        if length is None:
            raise InputError(
                f"tokenizer {self._files.name}: its files name no model_max_length; "
                f"pass max_length (77 for the text encoders of Stable Diffusion)"
            )
        if not 2 <= length <= MAX_LENGTH:
            raise InputError(f"max_length: got {length}, expected 2 to {MAX_LENGTH}; 77 is usual")
        return length


def write_tokenizer_json(folder: str | os.PathLike[str]) -> Path:
    """Write tokenizer.json, which other programs need, into a folder that has only vocab.json and merges.txt.

    The ids stay the same. An existing tokenizer.json is checked and left alone.

    Returns:
        The path of tokenizer.json.

    Raises:
        BundleError: The files are no CLIP tokenizer.
        OSError: The folder cannot be written; no half-written tokenizer.json remains.
    """
    path = Path(folder) / "tokenizer.json"
    tokenizer = ClipTokenizer.from_folder(folder)
    if not path.is_file():
        draft = path.with_suffix(".json.tmp")
        draft.write_text(tokenizer.to_json(), encoding="utf-8")
        draft.replace(path)
    return path


def _files_in(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise BundleError(
            f"tokenizer {folder}: got {found} there, expected a folder with a CLIP tokenizer; export it again"
        )
    return {name: folder / name for name in TOKENIZER_FILES if (folder / name).is_file()}


def _build(files: ClipFiles) -> Tokenizer:
    """Build the library's tokenizer. transformers: `CLIPTokenizer.__init__`."""
    special = files.special
    try:
        model = BPE(
            vocab=files.vocab,
            merges=files.merges,
            continuing_subword_prefix="",
            end_of_word_suffix=_WORD_END,
            fuse_unk=False,
            unk_token=special.unk,
        )
    except Exception as error:  # the library raises bare Exception
        raise BundleError(f"{files.source}: not a byte-pair encoding ({error}); copy or export it again") from error
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(list(special.added))
    tokenizer.encode_special_tokens = files.split_special
    tokenizer.post_processor = processors.RobertaProcessing(
        (special.eos, _id_of(tokenizer, special.eos, files)),
        (special.bos, _id_of(tokenizer, special.bos, files)),
        trim_offsets=False,
        add_prefix_space=False,
    )
    return tokenizer


def _id_of(tokenizer: Tokenizer, token: str, files: ClipFiles) -> int:
    index: int | None = tokenizer.token_to_id(token)
    if index is None:
        raise BundleError(
            f"tokenizer {files.name}: got the special token {shorten(token)}, expected a text that can be added to the "
            f"vocabulary; copy or export it again"
        )
    return index


def check_texts(texts: Sequence[str]) -> None:
    """Raise unless `texts` is a list of texts in valid Unicode.

    Raises:
        InputError: It is not.
    """
    if isinstance(texts, str) or not isinstance(texts, Sequence) or not texts:
        got = "an empty one" if isinstance(texts, Sequence) and not texts else f"{type(texts).__name__}"
        raise InputError(
            f"prompts: got {got}, expected a list of texts with at least one; put a single one in brackets"
        )
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"prompt {i}: got {type(text).__name__}, expected a text; convert it to str")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"prompt {i}: got half of a surrogate pair at character {error.start} ({text[error.start]!a}), "
                f"expected valid Unicode; read the text with its right encoding"
            ) from error
