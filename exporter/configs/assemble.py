"""Makes diffusers folders without weights: the configs of an architecture, its tokenizers with a vocabulary."""

import atexit
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffoundry.exporter.checkpoints.json_files import read_json
from diffoundry.exporter.configs.vocabulary import (
    write_bert_vocabulary,
    write_gemma_vocabulary,
    write_mistral_vocabulary,
    write_qwen_vocabulary,
    write_t5_vocabulary,
    write_vocabulary,
    write_xlm_roberta_vocabulary,
)

__all__ = ["assemble_configs", "remove_scratch", "scratch_folder"]


_VOCABULARIES = {
    "T5": write_t5_vocabulary,
    "Bert": write_bert_vocabulary,
    "Gemma": write_gemma_vocabulary,
    "PreTrained": write_mistral_vocabulary,
    "Qwen2": write_qwen_vocabulary,
    "XLMRoberta": write_xlm_roberta_vocabulary,
}
"""First letters of a tokenizer's class to the function that writes its vocabulary; CLIP's for all others."""


def assemble_configs(
    configs: Path,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    components: Mapping[str, Path] | None = None,
) -> Path:
    """A folder with the files of `configs`, changed, and whole tokenizers. It is removed when the process ends.

    Args:
        configs: A diffusers folder without weights, whose tokenizers may lack their vocabulary.
        changes: JSON file, such as "unet/config.json", to the fields that are set in it.
        components: Component that `configs` lacks to its folder elsewhere.

    Returns:
        The folder, the same for the same arguments.
    """
    changed = changes or {}
    added = {name: str(source) for name, source in (components or {}).items()}
    digest = hashlib.sha256(json.dumps([str(configs), changed, added], sort_keys=True).encode()).hexdigest()[:16]
    folder = scratch_folder() / digest
    if not folder.is_dir():
        draft = Path(tempfile.mkdtemp(dir=scratch_folder()))
        shutil.copytree(configs, draft, dirs_exist_ok=True)
        for name, source in added.items():
            shutil.copytree(source, draft / name)
        for name, fields in changed.items():
            merged = {**read_json(draft / name), **fields}
            (draft / name).write_text(json.dumps(merged, indent=2) + "\n", encoding="utf-8")
        for config in draft.glob("*/tokenizer_config.json"):
            tokenizer = config.parent
            if not any((tokenizer / name).is_file() for name in ("tokenizer.json", "vocab.json", "vocab.txt")):
                kind = read_json(config).get("tokenizer_class", "")
                write = next((write for start, write in _VOCABULARIES.items() if kind.startswith(start)), None)
                (write or write_vocabulary)(tokenizer)
        draft.rename(folder)
    return folder


_SCRATCH: dict[int, Path] = {}
"""Process to its folder: a forked job has one of its own, and leaves that of its parent alone."""


def scratch_folder() -> Path:
    """Return a folder of this process, which is removed when the process ends."""
    if os.getpid() not in _SCRATCH:
        _SCRATCH[os.getpid()] = Path(tempfile.mkdtemp(prefix="diffoundry-configs-"))
        atexit.register(remove_scratch)
    return _SCRATCH[os.getpid()]


def remove_scratch() -> None:
    """Remove the folder of this process; a forked process calls this, because it ends without exit handlers."""
    folder = _SCRATCH.pop(os.getpid(), None)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
