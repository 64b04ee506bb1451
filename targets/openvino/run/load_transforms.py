"""Machine-specific model transformations, applied at load time."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffoundry.runtime.bundle.specs import EngineSpec
from diffoundry.runtime.bundle.symbolic_sizes import resolve
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.native import attention_library, describe_attention
from diffoundry.runtime.native.measured import ATTENTION, choice_mode
from diffoundry.targets.openvino.import_openvino import ov
from diffoundry.targets.openvino.input_types import expect_specs
from diffoundry.targets.openvino.run import feed_weights
from diffoundry.targets.openvino.run.center_norms import center_norms
from diffoundry.targets.openvino.run.choose_attention import AttentionChooser, measure_attention
from diffoundry.targets.openvino.run.devices import WEIGHTS_ONLY, add_extension
from diffoundry.targets.openvino.run.native_attention import attention_lengths, use_native_attention
from diffoundry.targets.openvino.run.symbolic_sizes import default_sizes
from diffoundry.targets.openvino.run.winograd import has_candidates, use_winograd

__all__ = ["LoadTransforms"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadTransforms:
    """Transformations for the models of one engine on this machine.

    Attributes:
        spec: The engine's manifest entry.
        floats: Type in which the device computes floats: "fp32", "fp16" or "bf16".
        library: Our attention kernel for OpenVINO, or None.
        chooser: Chooses the attentions for it.
        centers: True if normalisation in float32 is made exact for constant inputs.
        winograd: True if large convolutions in float32 are worth more memory.
        feeds: True if integer weights of convolutions stay in their file.
    """

    spec: EngineSpec
    floats: str
    library: Path | None
    chooser: AttentionChooser | None
    centers: bool
    winograd: bool
    feeds: bool

    @classmethod
    def of(cls, spec: EngineSpec, options: EngineOptions, floats: str) -> "LoadTransforms":
        """Choose the transformations for this processor; devices other than the CPU get the model unchanged."""
        on_cpu = options.device in (None, "cpu")
        mode, chooser = choice_mode(options.native), None
        library = attention_library() if on_cpu and mode != "never" else None
        if library is not None:
            add_extension(library)
            chooser = AttentionChooser(
                mode=mode, floats=floats, threads=options.threads, library=library, measure=measure_attention
            )
        return cls(
            spec=spec,
            floats=floats,
            library=library,
            chooser=chooser,
            centers=on_cpu and floats == "fp32",
            winograd=on_cpu and floats == "fp32" and bool(spec.options.get("winograd", True)),
            feeds=on_cpu and spec.precision in WEIGHTS_ONLY,
        )

    def __call__(
        self, model: ov.Model, sizes: Mapping[str, int] | None = None
    ) -> tuple[dict[str, Any], dict[str, ov.Node]]:
        """Transform a model in place.

        Args:
            model: As read.
            sizes: Values of its symbolic sizes, or None to leave them open.

        Returns:
            Notes on what was done, and constants to feed in every call; see `feed_weights`.
        """
        metadata: dict[str, Any] = {}
        expect_specs(model, self.spec.inputs)
        if sizes is not None:
            self.reshape(model, sizes)
        if self.centers:
            center_norms(model)
        if self.library is not None and self.chooser is not None and (found := attention_lengths(model)):
            lengths = found
            if self.chooser.mode == "measured" and sizes is None:
                lengths = attention_lengths(self._judged(model, sizes))
            count = use_native_attention(model, self.library, floats=self.floats, choose=self.chooser, lengths=lengths)
            metadata[ATTENTION] = f"{count} of {len(found)} layers ({self.chooser.mode}), {describe_attention()}"
        if self.winograd and has_candidates(model):  # a network without them may not take the sizes judged by
            metadata["Winograd convolutions"] = use_winograd(model, self._judged(model, sizes))
        weights = feed_weights.feed_weights(model) if self.feeds else {}
        metadata[feed_weights.NOTE] = len(weights)
        return {fact: value for fact, value in metadata.items() if value}, weights

    def _judged(self, model: ov.Model, sizes: Mapping[str, int] | None) -> ov.Model:
        """Return a copy with sizes for which it is to be fast."""
        judged = model.clone()
        self.reshape(judged, default_sizes(self.spec) if sizes is None else sizes)
        return judged

    def reshape(self, model: ov.Model, sizes: Mapping[str, int]) -> None:
        """Fix the sizes of a model, in place; inputs of a size that is not named stay free."""
        shapes = {spec.name: resolve(spec.shape, sizes) for spec in self.spec.inputs}
        model.reshape({name: list(shape) for name, shape in shapes.items() if shape is not None})
