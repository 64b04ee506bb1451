"""The meaning of a model's output: from (output, sample) to the clean sample x0 or to the noise epsilon.

x = alpha x0 + sigma epsilon, with the scales of signal and noise as arguments (DDIM, DPM-Solver). For x = x0 + sigma
epsilon see `SpacedSigmaScheduler`.

v-prediction: v = alpha epsilon - sigma x0 (Salimans & Ho 2022, appendix D, https://arxiv.org/abs/2202.00512).
Flow prediction: v = epsilon - x0 with alpha = 1 - sigma (Lipman et al. 2022, https://arxiv.org/abs/2210.02747).
diffusers: `prediction_type`.
"""

from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.schedulers.arithmetic.arrays import Sample

__all__ = ["epsilon_from", "x0_from"]


def x0_from(prediction: str, output: Sample, sample: Sample, *, alpha: float, sigma: float) -> Sample:
    """The clean sample that the model predicts, variance-preserving parametrisation.

    Args:
        prediction: "epsilon", "sample", "v_prediction" or "flow_prediction".
        output: the model's output.
        sample: x, same shape.
        alpha: scale of the signal in x (diffusers: `alpha_prod_t ** 0.5`, `alpha_t`).
        sigma: scale of the noise in x (diffusers: `beta_prod_t ** 0.5`, `sigma_t`).

    Raises:
        ConfigError: "epsilon" where x is pure noise: x0 would be 0 / 0.
    """
    if prediction == "epsilon":
        return (sample - sigma * output) * (1.0 / _nonzero(alpha, "epsilon", "x is pure noise"))
    if prediction == "sample":
        return output
    if prediction == "v_prediction":
        return alpha * sample - sigma * output
    return sample - sigma * output


def epsilon_from(prediction: str, output: Sample, sample: Sample, *, alpha: float, sigma: float) -> Sample:
    """The noise that the model predicts, variance-preserving parametrisation; arguments as for `x0_from`.

    Raises:
        ConfigError: "sample" where x holds no noise: epsilon would be 0 / 0.
    """
    if prediction == "epsilon":
        return output
    if prediction == "sample":
        return (sample - alpha * output) * (1.0 / _nonzero(sigma, "sample", "x holds no noise"))
    if prediction == "v_prediction":
        return alpha * output + sigma * sample
    return sample + alpha * output


def _nonzero(scale: float, prediction: str, why: str) -> float:
    if scale == 0.0:
        raise ConfigError(
            f"option 'prediction_type' is '{prediction}' at a timestep where {why}: nothing can be predicted from it. "
            "Use 'v_prediction' with 'rescale_betas_zero_snr', or a timestep spacing that leaves this timestep out."
        )
    return scale
