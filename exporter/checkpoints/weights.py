"""Builds a component's torch module in fp32: with the checkpoint's weights, or with seeded random ones."""

import importlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast
from unittest import mock

import diffusers
import torch
import transformers

from diffoundry.exporter.checkpoints.deferred_weights import DeferredWeights, defer_for
from diffoundry.exporter.checkpoints.json_files import name_some, read_json
from diffoundry.exporter.checkpoints.link_file import link_file
from diffoundry.exporter.checkpoints.weight_files import base_library, read_shards, weight_stem
from diffoundry.exporter.checkpoints.weight_headers import WeightFiles
from diffoundry.runtime.engines.available_memory import check_memory
from diffoundry.runtime.engines.memory import give_back
from diffoundry.runtime.errors import CheckpointError

__all__ = ["build_module", "load_weights", "random_weights", "widen"]

_HOMES = {
    "IFSafetyChecker": "diffusers.pipelines.deepfloyd_if",
    "LDMBertModel": "diffusers.pipelines.latent_diffusion",
    "LearnedClassifierFreeSamplingEmbeddings": "diffusers.pipelines.deprecated.vq_diffusion",
    "StableDiffusionSafetyChecker": "diffusers.pipelines.stable_diffusion",
    "StableUnCLIPImageNormalizer": "diffusers.pipelines.stable_diffusion",
    "UnCLIPTextProjModel": "diffusers.pipelines.deprecated.unclip",
    "MultilingualCLIP": "diffusers.pipelines.kandinsky",
    "ReduxImageEncoder": "diffusers.pipelines.flux.modeling_flux",
    "PaellaVQModel": "diffusers.pipelines.deprecated.wuerstchen",
    "WuerstchenDiffNeXt": "diffusers.pipelines.deprecated.wuerstchen",
    "WuerstchenPrior": "diffusers.pipelines.deprecated.wuerstchen",
}
"""Classes that belong to diffusers' pipelines, to their packages."""

_INCOMPLETE = ("IFSafetyChecker",)
"""Classes of diffusers 0.42 that do not call `post_init`."""

_HALVES = {"F16": torch.float16, "BF16": torch.bfloat16}


def load_weights(folder: Path, module_class: str, weights: WeightFiles, *, deferred: bool = False) -> torch.nn.Module:
    """Build a module and read its weights from safetensors, halves widened to fp32.

    fp32 weights stay in the mapped file and cost no memory until they are read.

    Args:
        folder: The network's folder in the checkpoint.
        module_class: "library:class".
        weights: The files in it.
        deferred: True widens each weight when `deferred_weights` reads it.

    Raises:
        CheckpointError: Weights are missing, or of another shape than the config says.
    """
    library, _, name = module_class.partition(":")
    # Loaded as stored, a weight stays in the mapped file. In a mixed file it is widened by the library.
    dtype = _HALVES.get("".join(weights.types), torch.float32)
    names = _usual_names(folder, base_library(library, name), weights)
    later = DeferredWeights()
    with _quiet(), names as place, _in_one_thread(), later if deferred else nullcontext():
        try:
            module, info = _find_class(library, name).from_pretrained(
                place,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **{"torch_dtype" if base_library(library, name) == "diffusers" else "dtype": dtype},
            )
        except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{folder}: cannot be loaded as {name}: {_first_line(error)}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{folder}: weights are missing: {name_some(missing)}; got files without them, expected "
            f"all that config.json asks for; the files are incomplete or belong to another config"
        )
    with later if deferred else nullcontext():
        return defer_for(widen(cast("torch.nn.Module", module)), later)


@contextmanager
def _usual_names(folder: Path, library: str, weights: WeightFiles) -> Iterator[Path]:
    """Yield a folder where the files have the names without a variant: the folder itself, or one with links to it."""
    chosen = weights.choice
    indexed = chosen.name.endswith(".json")
    # diffusers and transformers need "metadata" in an index, although nothing of it is read.
    if chosen.variant is None and not (indexed and "metadata" not in read_json(folder / chosen.name)):
        yield folder
        return
    stem = weight_stem(library)
    with tempfile.TemporaryDirectory(prefix="diffoundry-variant-") as scratch:
        place = Path(scratch)
        shutil.copyfile(folder / "config.json", place / "config.json")
        if indexed:
            places = dict(read_shards(folder / chosen.name).places)
            index = json.dumps({"metadata": {}, "weight_map": places})
            (place / f"{stem}.safetensors.index.json").write_text(index, encoding="utf-8")
            names = {name: name for name in weights.files}
        else:
            names = {f"{stem}.safetensors": chosen.name}
        for new, old in names.items():
            link_file(folder / old, place / new)
        yield place


def random_weights(folder: Path, module_class: str, seed: int, *, deferred: bool = False) -> torch.nn.Module:
    """Build a module from its config with its own initialization, with a seed derived for each large weight.

    The same seed gives the same weights in every process, whichever components are built before.

    Args:
        folder: Holds config.json; its name is part of the derived seed.
        module_class: "library:class".
        seed: The checkpoint's seed.
        deferred: True draws each large weight when `deferred_weights` reads it.

    Raises:
        CheckpointError: The config does not fit the class.
        InputError: They do not fit into memory.
    """
    later = DeferredWeights(f"{seed}/{folder.name}")
    with torch.random.fork_rng(devices=[]), later:
        torch.manual_seed(zlib.crc32(f"{seed}/{folder.name}".encode()))
        module = build_module(folder, module_class).float().eval().requires_grad_(False)
    if deferred:
        return defer_for(module, later)
    count = sum(parameter.numel() for parameter in module.parameters())
    check_memory(
        4 * count,
        f"{folder.name}: got {count / 1e9:.1f} billion random weights, which take",
        f"use a larger machine, or leave it out with --without {folder.name} where a checkpoint may lack it",
    )
    later.fill()
    return module


def build_module(folder: Path, module_class: str) -> torch.nn.Module:
    """Build a module from its config, with its own initialization.

    Args:
        folder: Holds config.json.
        module_class: "library:class".

    Raises:
        CheckpointError: The config does not fit the class.
    """
    library, _, name = module_class.partition(":")
    found = _find_class(library, name)
    with _quiet():
        try:
            if base_library(library, name) == "diffusers":
                module = found.from_config(found.load_config(folder))
            else:
                module = found(found.config_class.from_pretrained(folder))
        except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{folder}: cannot be built as {name}: {_first_line(error)}") from error
    return cast("torch.nn.Module", module)


def _find_class(library: str, name: str) -> Any:
    found = getattr(importlib.import_module(_HOMES.get(name, library)), name)
    return _completed(found) if name in _INCOMPLETE else found


def _completed(found: type[Any]) -> type[Any]:
    """Return a subclass whose construction ends with `post_init`, without which transformers 5 reads no weights."""

    def construct(self: Any, config: Any) -> None:
        found.__init__(self, config)
        self.post_init()

    return type(found.__name__, (found,), {"__init__": construct, "__module__": found.__module__})


def widen(module: torch.nn.Module) -> torch.nn.Module:
    """Convert every floating weight to fp32, in place, one at a time, and prepare the module for inference.

    Each half precision weight lies in a mapped file. Its pages are released as soon as it is converted, so the file is
    never resident as a whole beside the fp32 copy.
    """
    for parameter in module.parameters():
        if _is_half(parameter):
            narrow, parameter.data = parameter.data, parameter.data.float()
            give_back(narrow.data_ptr(), narrow.nbytes)
    # A buffer may be a view, such as positions. Its base keeps its dtype, so the buffer itself is replaced.
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            if _is_half(buffer):
                setattr(part, name, buffer.float())
    return module.eval().requires_grad_(False)


def _is_half(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype != torch.float32


@contextmanager
def _in_one_thread() -> Iterator[None]:
    """Let transformers read weights in this thread, where `DeferredWeights` sees them."""
    with mock.patch.dict(os.environ, {"HF_DEACTIVATE_ASYNC_LOAD": "1"}):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the libraries' warnings: the same faults are checked here and raised."""
    levels = diffusers.utils.logging.get_verbosity(), transformers.utils.logging.get_verbosity()
    bars = transformers.utils.logging.is_progress_bar_enabled()
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers.utils.logging.set_verbosity(levels[0])
        transformers.utils.logging.set_verbosity(levels[1])
        if bars:
            transformers.utils.logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
