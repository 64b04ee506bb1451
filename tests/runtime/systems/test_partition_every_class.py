"""The denoiser of a class of every family, whole and in parts: equal numbers.

In fp32 on ONNX Runtime they have the same bits.
"""

import logging

import numpy as np
import pytest
from partitioned_networks import PARTITIONED_ROLES, lower_in_parts, open_engine, random_feeds

from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.engines.part_names import TIMES, TIMESTEPS
from diffoundry.runtime.engines.run_memory import RunMemory
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.roles import DENOISER
from diffoundry.runtime.pipelines.registry import FAMILY_TABLE

_LOG = logging.getLogger(__name__)

_EXACT = ("onnxruntime", "fp32")

_FORMS = (_EXACT, ("onnxruntime", "fp16"), ("openvino", "fp32"))

_ROUNDING = 2e-2
"""Largest difference over the largest number of an output, where targets fuse parts in other ways: half precision."""


def _difference(whole, parts, limit):
    """Describe the output that differs, or return None."""
    for name, array in whole.items():
        if not np.isfinite(array).all():
            return f"{name} is not finite"
        far = np.abs(array.astype(np.float64) - parts[name]).max() / max(np.abs(array).max(), 1e-6)
        if far > limit:
            return f"{name} differs by {far:.1e} of its largest number"
    return None if whole.keys() == parts.keys() else f"outputs {sorted(parts)}"


def _run(bundle, component, folder, **how):
    """Run a component for two timesteps of one run, which the prelude computes at once where it can."""
    spec = lower_in_parts(bundle, component, folder, **how)
    feeds = random_feeds(spec.inputs)
    time = next((name for name in TIMESTEPS if name in feeds), None)
    memory, results = RunMemory(), {}
    if time is not None:
        memory.schedule, memory.convert = np.concatenate([feeds[time] * 2, feeds[time]]), np.asarray
    with open_engine(folder, spec) as engine, memory.active():
        for index, factor in enumerate((2, 1)):
            mine = feeds if time is None else {**feeds, time: feeds[time] * factor}
            results |= {f"{name}, call {index}": array for name, array in engine.run(mine).items()}
    return spec, results


def _faults(bundle, component, folder, target, precision):
    """Return what differs of each cut, and the names of the parts."""
    form = {"target": target, "precision": precision}
    spec, whole = _run(bundle, component, folder / "whole", **form)
    faults, parts = [], {}
    for cut in ("partition", "split")[: 1 + (Bundle(bundle).role(component) == DENOISER)]:
        try:
            cut_spec, result = _run(bundle, component, folder / cut, **{cut: True}, **form)
        except InputError as refusal:
            parts[cut] = str(refusal).partition("(")[2].partition(")")[0]
            continue
        batched = [one.name for one in cut_spec.parts if any(tensor.shape == (TIMES,) for tensor in one.inputs)]
        parts[cut] = " ".join(part.name + "*" * (part.name in batched) for part in cut_spec.parts)
        found = _difference(whole, result, 0.0 if (target, precision) == _EXACT else _ROUNDING)
        if spec.inputs != cut_spec.inputs:
            found = "its inputs are others"
        faults += [f"{component} {target} {precision} {cut}: {found}"] if found else []
    return faults, parts


@pytest.fixture(scope="module")
def cuts():
    """The names of the parts of each network, which most have; `--log-cli-level=INFO` shows them."""
    found = {}
    yield found
    whole = [name for name, parts in found.items() if not parts["partition"]]
    assert len(whole) <= max(1, 0.2 * len(found)), whole


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [next(iter(entry.classes)) for entry in FAMILY_TABLE])
def test_parts_give_the_numbers_of_the_whole_network(class_bundle, tmp_path, cuts, name):
    bundle, faults = class_bundle(name), []
    for component in Bundle(bundle).components:
        if Bundle(bundle).role(component) not in PARTITIONED_ROLES:
            continue
        for target, precision in _FORMS:
            folder = tmp_path / f"{component}-{target}-{precision}"
            found, parts = _faults(bundle, component, folder, target, precision)
            faults += found
            if (target, precision) == _EXACT:
                cuts[f"{name} {component}"] = parts
                _LOG.info("%s %s: %s", name, component, parts)
    assert not faults, "\n".join(faults)
