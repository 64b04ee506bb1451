"""Measures each quantization option on the embedded model, in dB of its images and in bytes.

python benchmarks/bench_quantization_options.py --bundle DIR [--prompts 16] [--steps 20] [--threads 2]

DIR is a bundle that was calibrated, as `diffoundry export --model emoji --target openvino --precision int8 -o DIR`
makes it: its ranges are used. Every row quantizes all layers of the UNet in one way and nothing else; the numbers are
PSNR against fp32 over held-out prompts, computed in float as the graphs say.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from diffoundry.calibration.observers import OBSERVERS
from diffoundry.calibration.prompts import HELD_OUT_PROMPTS, seeded_prompts
from diffoundry.calibration.quality import judge
from diffoundry.calibration.ranges import read_ranges
from diffoundry.exporter.calibrate.float_reference import FloatReference
from diffoundry.exporter.calibrate.generation_tasks import PromptTask
from diffoundry.exporter.passes.quantizable import quantizable
from diffoundry.exporter.passes.smooth_quant import smoothable
from diffoundry.exporter.steps.convert_precision import convert
from diffoundry.runtime.bundle.quantization import ComponentChoice
from diffoundry.targets.base import PrecisionFormat

FORMS = {
    "int8": PrecisionFormat(weights="int8", activations="int8"),
    "uint8": PrecisionFormat(weights="int8", activations="uint8"),
    "uint8, outputs": PrecisionFormat(weights="int8", activations="uint8", outputs=True),
    "fp8": PrecisionFormat(weights="fp8", activations="fp8"),
    "int8 weights": PrecisionFormat(weights="int8"),
    "int4 weights": PrecisionFormat(weights="int4"),
}

RANKS = (4, 8, 16)


def main() -> None:
    """Generate every row, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=len(HELD_OUT_PROMPTS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    reference = FloatReference(asked.bundle, PromptTask(steps=asked.steps), asked.threads)
    reference.tasks = reference.tasks[:1]
    prompts = seeded_prompts(HELD_OUT_PROMPTS[: asked.prompts], held_out=True)
    ranges = read_ranges(asked.bundle, "unet")
    print("| | weights, MB | PSNR, dB | worst |\n| --- | --- | --- | --- |")
    for words, form, choice in rows(reference.graph("unet").graph):
        model = convert(reference.graph("unet"), form, choice, ranges)
        size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
        with reference.open("unet", model, "row") as engine:
            quality = judge(reference.errors(reference.floats({"unet": engine}), prompts)[0])
        print(f"| {words} | {size / 1e6:.2f} | {quality.mean:.1f} | {quality.worst:.1f} |", flush=True)


def rows(graph: ir.Graph) -> Iterator[tuple[str, PrecisionFormat, ComponentChoice]]:
    """Yield each row's name, format and choice."""
    everything = tuple(site.name for site in quantizable(graph))
    after_norms = [site.name for sites in smoothable(graph).values() for site in sites]
    for name in ("int8", "uint8", "uint8, outputs", "fp8"):
        for observer in OBSERVERS:
            yield f"{name}, {observer}", FORMS[name], ComponentChoice(quantized=everything, observer=observer)
    for strength in (0.25, 0.5, 0.75):
        smooth = dict.fromkeys(after_norms, strength)
        choice = ComponentChoice(quantized=everything, observer="mse", smooth=smooth)
        yield f"int8, mse, smoothed {strength}", FORMS["int8"], choice
    for name in ("int8 weights", "int4 weights"):
        yield name, FORMS[name], ComponentChoice(quantized=everything)
    for rank in RANKS:
        choice = ComponentChoice(quantized=everything, low_rank=dict.fromkeys(everything, rank))
        yield f"int4 weights, branch of rank {rank}", FORMS["int4 weights"], choice
    sizes = {
        site.name: site.weight_value.const_value.size for site in quantizable(graph) if site.weight_value.const_value
    }
    for share in (0.1, 0.2, 0.4):
        fallback = smallest_first(sizes, share)
        choice = ComponentChoice(quantized=everything, fallback=fallback)
        yield f"int4 weights, {len(fallback)} of {len(sizes)} layers int8", FORMS["int4 weights"], choice


def smallest_first(sizes: dict[str, int], share: float) -> tuple[str, ...]:
    """Select the smallest layers that hold this share of all weights."""
    chosen, left = [], share * sum(sizes.values())
    for name in sorted(sizes, key=sizes.__getitem__):
        left -= sizes[name]
        if left < 0:
            break
        chosen.append(name)
    return tuple(chosen)


if __name__ == "__main__":
    main()
