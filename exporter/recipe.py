"""Makes a recipe from a checkpoint and the user's request."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.exporter.checkpoints.checkpoint import SEED, Checkpoint
from diffoundry.exporter.passes import OPSET
from diffoundry.exporter.request import ExportRequest
from diffoundry.exporter.steps.choose_quantization import precision_formats
from diffoundry.runtime.bundle.specs import DimSpec, Recipe, Variant
from diffoundry.runtime.engines.plugins import find_plugin
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.roles import DENOISER

__all__ = [
    "check_calibration",
    "check_variants",
    "make_recipe",
    "quantization_for",
    "tool_versions",
]

_TOOLS = ("torch", "diffusers", "transformers", "onnx", "onnx-ir", "onnxscript")


def make_recipe(checkpoint: Checkpoint, request: ExportRequest) -> Recipe:
    """Make the recipe, and complete its dims with the sizes that the checkpoint's networks support.

    Raises:
        InputError: A precision that its target does not do or that needs calibration, a size that the checkpoint's
            networks cannot take, or a split of a checkpoint without a denoiser.
    """
    check_variants(request.variants)
    check_calibration(request.variants, request.quantization)
    if request.split and not any(component.role == DENOISER for component in checkpoint.components):
        raise InputError(
            f"--split: got {checkpoint.name}, which has no denoiser, expected a pipeline with one; leave --split out"
        )
    known = checkpoint.dims
    asked = {**request.dims, **_hull(request.buckets)}
    dims = {}
    for name in ("batch", "height", "width"):
        dim, own = asked.get(name, DimSpec()), known.get(name, DimSpec())
        for value in (dim.min, dim.max):
            if name in asked and value is not None:
                _check_size(name, value, own)
        largest = own.max if dim.max is None else dim.max
        dims[name] = DimSpec(min=max(dim.min, own.min, own.multiple_of), max=largest, multiple_of=own.multiple_of)
    return Recipe(
        model=checkpoint.name,
        source=checkpoint.identity(),
        variants=request.variants,
        dims=dims,
        buckets=request.buckets,
        opset=OPSET,
        loras=checkpoint.loras,
        controlnets=checkpoint.controlnets,
        t2i_adapters=checkpoint.t2i_adapters,
        ip_adapters=checkpoint.ip_adapters,
        image_encoder=checkpoint.image_encoder,
        without=checkpoint.without,
        vae=checkpoint.vae,
        attention_control=checkpoint.attention_control,
        partition=request.partition,
        split=request.split,
    )


def _check_size(name: str, value: int, own: DimSpec) -> None:
    if value % own.multiple_of:
        raise InputError(f"--{name}: got {value}, expected a multiple of {own.multiple_of} for this checkpoint")
    if value < own.min:
        raise InputError(f"--{name}: got {value}, expected at least {own.min} for this checkpoint")
    if own.max is not None and value > own.max:
        raise InputError(f"--{name}: got {value}, expected at most {own.max} for this checkpoint")


def quantization_for(recipe: Recipe, request: QuantizationRequest) -> QuantizationRequest:
    """Reduce calibration to the least work where weights are random and images mean nothing.

    Random weights are for measuring speed: one image of two steps gives ranges for int8 kernels, and any image will
    do.
    """
    if SEED not in recipe.source or request != QuantizationRequest():
        return request
    anything = Budget(min_psnr=0.01)
    return replace(
        request,
        budget=anything,
        prompts=request.prompts[:1],
        held_out=request.held_out[:1],
        steps=2,
        guidance_scale=1.0,
    )


def check_variants(variants: Sequence[Variant]) -> None:
    """Refuse variants that a target does not support, and duplicates, before any work.

    Raises:
        InputError: No variant, one twice, an unknown target, or a precision that the target does not do.
        ConfigError: An option that the target does not have, or a value that it cannot have.
        MissingExtraError: The target's library is not installed.
    """
    if not variants:
        raise InputError("--target: got none, expected at least one; see 'diffoundry targets'")
    for number, variant in enumerate(variants):
        find_plugin(variant.target).make_target(variant.options).form(variant.precision)
        if any(_key(other) == _key(variant) for other in variants[:number]):
            raise InputError(
                f"--target and --precision: got {variant.target} {variant.precision} twice, expected it once"
            )


def check_calibration(variants: Sequence[Variant], request: QuantizationRequest) -> None:
    """Refuse a request without calibration for precisions that need it, or that quantize nothing.

    Raises:
        InputError: The message names the precision.
    """
    formats = precision_formats(variants)
    floats = request.budget != Budget() and any(form.floats != "fp32" for some in formats.values() for form in some)
    if request.ray is not None and not floats and not any(form.quantized for some in formats.values() for form in some):
        raise InputError(
            f"--ray: got --precision {','.join(formats)}, for which no layer is measured, expected one that quantizes, "
            f"or --min-psnr with fp16 or bf16; leave --ray out"
        )
    if request.calibrate:
        return
    for precision, some in formats.items():
        if any(form.activations is not None for form in some):
            raise InputError(
                f"--no-calibration: got --precision {precision}, which quantizes activations by ranges measured on "
                f"images, expected precisions that quantize weights alone; choose int8-weights or int4-weights, or "
                f"leave --no-calibration out"
            )
    if not any(form.quantized for some in formats.values() for form in some):
        raise InputError(
            f"--no-calibration: got --precision {','.join(formats)}, which quantizes nothing, expected int8-weights or "
            f"int4-weights; leave --no-calibration out"
        )


def _key(variant: Variant) -> tuple[str, str]:
    return variant.target, variant.precision


def _hull(buckets: Sequence[tuple[int, int]]) -> dict[str, DimSpec]:
    """Compute the smallest range of sizes that holds every bucket."""
    sides = {"height": [height for height, _ in buckets], "width": [width for _, width in buckets]}
    return {name: DimSpec(min=min(sizes), max=max(sizes)) for name, sizes in sides.items() if sizes}


def tool_versions() -> dict[str, str]:
    """Versions of the libraries that trace and transform graphs."""
    return {name: version(name) for name in _TOOLS}
