"""The consistency decoder: its model input depends on the timestep."""

import numpy as np
import pytest

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers import scheduler_class


def test_model_input_needs_a_timestep():
    """diffusers returns something of another shape there."""
    with pytest.raises(InputError, match="scale_model_input: timestep is None, expected a timestep"):
        scheduler_class("ConsistencyDecoderScheduler")().scale_model_input(np.zeros((1, 3, 4, 8), np.float32))
