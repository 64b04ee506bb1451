"""`pipe.loras`: loads LoRAs into the engines of a pipeline, without another export."""

import os
from collections.abc import Mapping

from diffoundry.runtime.adapters.adapter_set import AdapterSet, LoraReport

__all__ = ["Loras"]


class Loras:
    """The LoRAs of a pipeline.

    Several threads may generate meanwhile: each call of an engine uses the old state or the new one.
    """

    def __init__(self, adapters: AdapterSet) -> None:
        """Share the adapters of a pipeline."""
        self._adapters = adapters

    @property
    def scales(self) -> Mapping[str, float]:
        """Name to scale of the LoRAs that are loaded."""
        return self._adapters.scales

    def load(self, path: str | os.PathLike[str], *, scale: float = 1.0, name: str | None = None) -> LoraReport:
        """Load a LoRA beside those that are loaded. diffusers: `load_lora_weights` and `set_adapters`.

        The first one opens another form of each engine that it changes, which takes as long as opening them did or
        longer. From then on loading, unloading and scaling are quick. Loaded before any engine is open, only that form
        is opened. See `EngineOptions.keep_both` for the memory that this takes.

        Args:
            path: A safetensors file with the names of PEFT, diffusers or kohya.
            scale: Factor of its change.
            name: Name for it; by default the file's name without its ending.

        Returns:
            The components that it changes, and the names of its tensors that had no effect.

        Raises:
            InputError: The file is no LoRA, of a kind that is not supported, or for another model; the message names
                the first tensor that does not fit. Or the name is taken.
            EngineError: The engines that run here take no adapters; the message names their precision.
        """
        return self._adapters.load_lora(path, scale, name)

    def set_scale(self, scale: float, name: str | None = None) -> None:
        """Change the scale of one LoRA, or of all that are loaded.

        Raises:
            InputError: None has this name, or the scale is no finite number.
        """
        self._adapters.set_scale(scale, name)

    def unload(self, name: str | None = None) -> None:
        """Remove one LoRA, or all; without any, every image is bit for bit the one before the first.

        Raises:
            InputError: None has this name.
        """
        self._adapters.unload_lora(name)
