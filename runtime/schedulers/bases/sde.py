"""The step result of samplers that solve a stochastic differential equation."""

from typing import NamedTuple

from diffoundry.runtime.schedulers.arithmetic.arrays import Sample

__all__ = ["SdeResult"]


class SdeResult(NamedTuple):
    """The result of a predictor step.

    Attributes:
        prev_sample: the next sample.
        prev_sample_mean: the same without the noise of this step; the last one is the image.
    """

    prev_sample: Sample
    prev_sample_mean: Sample
