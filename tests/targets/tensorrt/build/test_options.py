"""Options and precisions of both SDKs, and the reason for those that one lacks."""

import dataclasses

import pytest

from diffoundry.runtime.bundle.specs import PRECISIONS
from diffoundry.runtime.engines.plugins import find_plugin, resolve
from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.targets.tensorrt import RTX_PLUGIN, TENSORRT_PLUGIN
from diffoundry.targets.tensorrt.build.target import RTXTarget, TensorRTTarget
from diffoundry.targets.tensorrt.gpu_types import PRECISION_TYPES


@pytest.mark.parametrize("plugin", [TENSORRT_PLUGIN, RTX_PLUGIN], ids=lambda plugin: plugin.name)
def test_the_plugin_names_what_there_is(plugin):
    assert find_plugin(plugin.name) == plugin
    target = resolve(plugin.target)
    assert target.name == plugin.name
    assert target.sdk.module == plugin.module
    assert plugin.defers
    assert all(callable(resolve(part)) for part in (plugin.engine, plugin.devices, plugin.precisions))


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (
            TensorRTTarget,
            {"compute_capabilities": ("sm89",)},
            r"tensorrt option 'compute_capabilities': got \('sm89',\), expected none: TensorRT builds for the GPU of",
        ),
        (
            RTXTarget,
            {"version_compatible": True},
            r"tensorrt-rtx option 'version_compatible': got True, expected none: its packages come without the lean",
        ),
        (
            RTXTarget,
            {"compute_capabilities": ("sm90",)},
            r"'compute_capabilities': got 'sm90', expected some of sm75, sm80, sm86, sm89, sm120, sm121",
        ),
        (RTXTarget, {"weight_streaming": -1.0}, r"'weight_streaming': got -1.0, expected gigabytes, 0 or more"),
        (RTXTarget, {"profiles": {"x": {"depth": [1, 1, 1]}}}, r"profile 'x', dimension 'depth': got an unknown name"),
    ],
)
def test_what_a_flavour_does_not_have_is_refused_with_the_reason(target, options, message):
    with pytest.raises(ConfigError, match=message):
        target(**options)


def test_both_flavours_have_the_same_options():
    assert [f.name for f in dataclasses.fields(TensorRTTarget)] == [f.name for f in dataclasses.fields(RTXTarget)]


def test_every_precision_has_a_form_of_the_types_in_the_table():
    for precision in PRECISIONS:
        form = TensorRTTarget().form(precision)
        types = {form.floats, form.weights, form.activations} - {None}
        assert types == set(PRECISION_TYPES[precision])
        assert form.activations != "uint8", "TensorRT has signed types only"


def test_an_unknown_precision_is_refused_with_those_there_are():
    with pytest.raises(InputError, match="got 'fp64', expected one of fp32, fp16, .* for target 'tensorrt'"):
        TensorRTTarget().form("fp64")


def test_a_precision_that_a_chosen_gpu_does_not_have_is_refused():
    with pytest.raises(
        InputError,
        match=r"got 'fp8' for sm86, sm89, expected one that they compute in: sm86 cannot compute in fp8, which",
    ):
        RTXTarget(compute_capabilities=("sm86", "sm89")).form("fp8")
    with pytest.raises(InputError, match="sm75 cannot compute in bf16, which takes sm80 or later"):
        RTXTarget(compute_capabilities=("sm75",)).form("bf16")
    assert RTXTarget().form("fp8").weights == "fp8"
