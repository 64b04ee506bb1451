"""Files of a checkpoint's tokenizers: checked, opened with transformers, and written as a tokenizer.json."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffoundry.exporter.checkpoints.chat_template import render_chat_template
from diffoundry.exporter.checkpoints.json_files import read_json
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.tokenizers.chat_prompt import CHAT_FILE
from diffoundry.runtime.tokenizers.clip import write_tokenizer_json

__all__ = [
    "ENDINGS",
    "check_tokenizer_files",
    "holds_tokenizer",
    "open_tokenizer",
    "write_tokenizer",
]

_T5, _XLM_R = "spiece.model", "sentencepiece.bpe.model"
"""sentencepiece models, as the tokenizers of T5 and of XLM-R name theirs. Both are of the type unigram."""
_WORDPIECE = "vocab.txt"
_CONFIG = "tokenizer_config.json"

ENDINGS = (".json", ".txt", ".jinja", _T5, _XLM_R)
"""Suffixes of the files that define tokenization and chats."""

_EXTRA_IDS = 100
"""Number of sentinel tokens after the pieces of T5's sentencepiece model. transformers: `T5Tokenizer.__init__`."""


def holds_tokenizer(folder: str, index: Mapping[str, Any]) -> bool:
    """Return whether a folder of a checkpoint holds a tokenizer.

    Args:
        folder: Name of the folder, such as "tokenizer", "tokenizer_2" or "prior_tokenizer"; "processor" holds one if
            no folder "tokenizer" lies beside it.
        index: model_index.json.
    """
    return "tokenizer" in folder or (folder == "processor" and "tokenizer" not in index)


def check_tokenizer_files(folder: Path) -> None:
    """Check that a folder has a vocabulary.

    Raises:
        CheckpointError: It has none in a known form.
    """
    complete = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    if not complete and not any((folder / name).is_file() for name in ("tokenizer.json", _T5, _XLM_R, _WORDPIECE)):
        raise CheckpointError(
            f"{folder}: got no vocabulary, expected tokenizer.json, vocab.json with merges.txt, {_T5}, {_XLM_R}, or "
            f"{_WORDPIECE}; the checkpoint is incomplete"
        )


def open_tokenizer(folder: Path, kind: str) -> Any:
    """Open a tokenizer with transformers, as diffusers does.

    Args:
        folder: Folder in the checkpoint. A sentencepiece model is read here, without a further library.
        kind: Class in transformers, as model_index.json names it. Of a processor of texts and images, as Mistral 3 has
            one, this is the tokenizer: of texts alone both make the same ids, and the processor needs torchvision.

    Raises:
        CheckpointError: transformers has no such class, or cannot read the files.
    """
    import transformers

    found = getattr(transformers, "AutoTokenizer" if kind.endswith("Processor") else kind, None)
    if found is None:
        raise CheckpointError(
            f"{folder}: got the tokenizer {kind!r}, expected a class of transformers {transformers.__version__}; "
            f"install a version that has it"
        )
    try:
        model = next((folder / name for name in (_T5, _XLM_R) if (folder / name).is_file()), None)
        if (folder / "tokenizer.json").is_file() or model is None:
            return found.from_pretrained(folder, local_files_only=True)
        with tempfile.TemporaryDirectory() as converted:
            for path in folder.glob("*.json"):
                shutil.copy(path, converted)
            _convert_sentencepiece(model, Path(converted) / "tokenizer.json")
            return found.from_pretrained(converted, local_files_only=True)
    except CheckpointError:
        raise
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CheckpointError(f"{folder}: cannot be read as {kind}: {reason}; fetch the tokenizer again") from error


def write_tokenizer(source: Path, kind: str, target: Path, chat: Mapping[str, Any] | None = None) -> None:
    """Write tokenizer.json, which the runtime and other programs need, into a bundle.

    Args:
        source: Folder of the checkpoint.
        kind: Class in transformers, as model_index.json names it.
        target: Folder of the bundle, with the checkpoint's JSON files. A CLIP tokenizer keeps them as they are. Those
            of another class are written again by transformers, with the defaults of the class.
        chat: Arguments for its chat template, whose rendered text is written beside it; None without a chat.

    Raises:
        CheckpointError: The checkpoint's files cannot be read, or its chat template cannot be rendered.
        BundleError: A CLIP tokenizer is damaged.
    """
    if kind.startswith("CLIP"):
        write_tokenizer_json(target)
        return
    tokenizer = open_tokenizer(source, kind)
    tokenizer.save_pretrained(target)
    config = read_json(target / _CONFIG)
    if "padding_side" not in config and tokenizer.padding_side == "left":  # Gemma's is a default of its class
        dumped = json.dumps({**config, "padding_side": "left"}, indent=2, ensure_ascii=False)
        (target / _CONFIG).write_text(dumped + "\n", encoding="utf-8")
    if chat is not None:
        rendered = render_chat_template(tokenizer, chat, source)
        (target / CHAT_FILE).write_text(rendered.dump(), encoding="utf-8")


def _convert_sentencepiece(model: Path, target: Path) -> None:
    """Write a tokenizer.json with the pieces, scores and normalization of a sentencepiece model.

    transformers 4: `T5Converter`, with the sentinel tokens at the end, the first last; `XLMRobertaConverter`, with the
    special tokens in the order of fairseq.
    """
    from transformers import T5Tokenizer, XLMRobertaTokenizer
    from transformers.utils import sentencepiece_model_pb2_new as schema

    proto = schema.ModelProto()
    proto.ParseFromString(model.read_bytes())
    if proto.trainer_spec.model_type != proto.trainer_spec.UNIGRAM:
        raise CheckpointError(f"{model}: got a sentencepiece model of another type, expected unigram, as T5's")
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    charsmap = proto.normalizer_spec.precompiled_charsmap or None
    if model.name == _T5:
        sentinels = [(f"<extra_id_{index}>", 0.0) for index in reversed(range(_EXTRA_IDS))]
        tokenizer = T5Tokenizer(vocab=[*pieces, *sentinels], _spm_precompiled_charsmap=charsmap)
    else:
        first = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]  # for <unk>, <s> and </s> of the model
        vocabulary = [*first, *pieces[3:], ("<mask>", 0.0)]
        tokenizer = XLMRobertaTokenizer(vocab=vocabulary, _spm_precompiled_charsmap=charsmap)
    tokenizer.backend_tokenizer.save(str(target))
