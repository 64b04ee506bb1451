"""Follows diffusers with a LoRA of a transformer, on one target or several."""

import inspect

import numpy as np
import torch
from system_pair import compare_system

from diffoundry.runtime import load

__all__ = ["check_lora", "factors", "flux_widths", "linear_layers", "tiny"]


def linear_layers(module):
    """Name of each linear layer to the layer."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, torch.nn.Linear)}


def factors(shape, random):
    """down and up of rank 2; the change is about as large as a weight."""
    down = torch.randn((2, shape[1]), generator=random) / shape[1] ** 0.5
    return down, torch.randn((shape[0], 2), generator=random) * 0.1


def flux_widths(width):
    """Numbers for `tiny`: the widths of FLUX.1, and those of a network of this width."""
    return {12288: 4 * width, 3072: width}


def tiny(function, numbers):
    """One of diffusers' conversions, which know the published widths alone; `numbers` to those of a tiny network."""
    source = inspect.getsource(function)
    for published, own in numbers.items():
        source = source.replace(str(published), str(own))
    names = dict(vars(inspect.getmodule(function)))
    exec(source, names)
    return names[function.__name__]


def check_lora(bundle, theirs, file, arguments, targets=("onnxruntime",), **expected):
    """Follow diffusers with a LoRA, and see that the base comes back as it was.

    Args:
        bundle: With the networks of `theirs`.
        theirs: diffusers' pipeline, with the LoRA.
        file: The LoRA.
        arguments: Of a call; `theirs_only` as in `compare_system`.
        targets: That run it.
        expected: Attributes of the report.
    """
    arguments = dict(arguments)
    theirs_only = arguments.pop("theirs_only", None)
    for target in targets:
        ours = load(bundle, target=target)
        settings = {**arguments, "seed": 0, "output_type": "latent"}
        before = ours(**settings).images
        report = ours.loras.load(file)
        compare_system(ours, theirs, theirs_only=theirs_only, **arguments)
        assert np.abs(ours(**settings).images - before).max() > 0.03
        ours.loras.unload()
        np.testing.assert_array_equal(ours(**settings).images, before)
        assert {name: getattr(report, name) for name in expected} == expected
