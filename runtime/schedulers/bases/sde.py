"""What the samplers of score-based models by stochastic differential equations share."""

from typing import NamedTuple

from diffoundry.runtime.schedulers.arithmetic.arrays import Sample

__all__ = ["SdeResult"]


class SdeResult(NamedTuple):
    """What a predictor step returns.

    Attributes:
        prev_sample: the next sample.
        prev_sample_mean: the same without the noise of this step; the last one is the picture.
    """

    prev_sample: Sample
    prev_sample_mean: Sample
