"""Runs every component and one image of a bundle: `run_engines.py BUNDLE TARGET PRECISION OUTPUT.npz`."""

import sys

import numpy as np

from diffoundry.runtime import load

COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder")
SIZES = {"batch": 1, "sequence": 77, "height": 64, "width": 64, "height/8": 8, "width/8": 8}


def example_inputs(engine):
    """Seeded inputs of an engine: tokens, a timestep, noise."""
    generator = np.random.default_rng(0)
    inputs = {}
    for tensor in engine.inputs:
        shape = [SIZES.get(size, size) for size in tensor.shape]
        if tensor.name == "input_ids":
            inputs[tensor.name] = generator.integers(0, 4294, shape).astype(np.int32)
        elif tensor.name == "timestep":
            inputs[tensor.name] = np.full(shape, 481.5, np.float32)
        else:
            inputs[tensor.name] = generator.standard_normal(shape).astype(np.float32)
    return inputs


def main(bundle, target, precision, output):
    """Write the outputs of the components and the image."""
    pipe = load(bundle, target=target, precision=precision)
    arrays = {}
    for component in COMPONENTS:
        inputs = example_inputs(pipe.session.engine(component))
        for name, array in pipe.session.run(component, inputs).items():
            arrays[f"{component} {name}"] = array
    arrays["image"] = pipe("a red apple", seed=7, num_inference_steps=4, output_type="np").images
    np.savez(output, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
