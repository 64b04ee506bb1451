"""Compares the codes that the runtime and diffusers choose for latents: the part of a VQModel outside its graphs."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from diffoundry.exporter.verify.report.report import Check, holds
from diffoundry.runtime.models.vq_model import VQModel
from diffoundry.runtime.pipelines.base import PipelineBase

__all__ = ["check_codes"]

_TIE = 1e-5
"""Difference of two squared distances, over the square of the latent, that float32 does not resolve."""


def check_codes(pipeline: PipelineBase, module: Any, latents: Sequence[npt.NDArray[np.float32]]) -> Iterator[Check]:
    """Compare the code of every latent. Where diffusers cannot tell two vectors apart in float32, either is right.

    Args:
        pipeline: The bundle's pipeline; nothing is compared without a VQModel.
        module: diffusers' `VQModel`.
        latents: Arrays (B, C, h, w), of any scale.
    """
    vae = getattr(pipeline, "vae", None)
    if not isinstance(vae, VQModel):
        return
    wrong, count = 0, 0
    book = module.quantize.embedding.weight.detach().double().numpy()
    for array in latents:
        with torch.inference_mode():
            expected = module.quantize(torch.from_numpy(array))[2][2].numpy().ravel()
        rows = np.moveaxis(array, 1, -1).reshape(-1, array.shape[1]).astype(np.float64)
        ours, theirs = (np.square(rows - book[codes]).sum(axis=1) for codes in (vae.quantize(array).ravel(), expected))
        wrong += int(np.count_nonzero(np.abs(ours - theirs) > _TIE * (1 + np.square(rows).sum(axis=1))))
        count += len(rows)
    yield holds("component", "codes", f"of {count} latents", f"{wrong} differ" if wrong else None)
