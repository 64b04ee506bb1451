"""Writes the inputs of a bundle's one graph, model.onnx, as .npy files.

    python make_inputs.py emoji.bundle "a red apple" --negative-prompt blurry --seed 0 -o inputs

The numbers are those of `diffoundry generate` with the same seed. The programs beside this one read the files.
"""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime

from diffoundry.runtime import load
from diffoundry.runtime.random import TorchCpuGenerator


def main() -> None:
    """Tokenize, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("prompt")
    parser.add_argument("--negative-prompt", default="")
    parser.add_argument("--guidance-scale", type=float, default=7.5)
    parser.add_argument("--num-images", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("inputs"))
    arguments = parser.parse_args()

    session = onnxruntime.InferenceSession(arguments.bundle / "model.onnx")
    shapes = {one.name: one.shape for one in session.get_inputs()}
    arrays = {}
    if "guidance_scale" in shapes:
        arrays["guidance_scale"] = np.array([arguments.guidance_scale], np.float32)
    for encoder in load(arguments.bundle).text_encoders:
        for prefix, text in (("", arguments.prompt), ("negative_", arguments.negative_prompt)):
            name = f"{prefix}input_ids{encoder.name.removeprefix('text_encoder')}"
            if name in shapes:  # distilled models take no negative prompt
                texts = [text] * arguments.num_images
                arrays[name] = encoder.tokenizer(texts, max_length=shapes[name][1]).input_ids
    generator = TorchCpuGenerator(arguments.seed)
    shape = arguments.num_images, *shapes["noise"][1:]
    arrays["noise"] = generator.randn(shape).astype(np.float32)
    if "step_noise" in shapes:  # of stochastic schedulers
        draws = [generator.randn(shape) for _ in range(shapes["step_noise"][0])]
        arrays["step_noise"] = np.stack(draws).astype(np.float32)

    arguments.output.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(arguments.output / f"{name}.npy", array)
        print(f"{name}: {array.dtype} {array.shape}")


if __name__ == "__main__":
    main()
