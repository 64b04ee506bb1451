"""The contract of `TargetPlugin`: devices, precisions, forms and errors of every installed target."""

import pytest

from diffoundry.runtime.bundle.specs import PRECISIONS
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.errors import EngineError, InputError


def test_devices_have_precisions_that_the_target_builds(backend):
    target = backend.plugin.make_target(backend.options)
    devices = backend.plugin.load("devices")()
    assert devices
    for device in devices:
        offered = backend.plugin.load("precisions")(device)
        assert offered
        assert len(set(offered)) == len(offered)
        assert set(offered) <= set(PRECISIONS)
    assert target.form("fp32").floats == "fp32"


def test_a_precision_that_there_is_not_is_refused_with_those_there_are(backend):
    with pytest.raises(InputError, match="precision: got 'fp3', expected one of .*fp32"):
        backend.plugin.make_target(backend.options).form("fp3")


def test_a_device_that_is_not_there_is_refused_by_name(backend):
    bundle, spec = backend.lower("linear")
    opener = backend.plugin.load("engine")
    with pytest.raises(EngineError, match="device: got 'abacus', expected"):
        opener(bundle / spec.files[0], spec, EngineOptions(device="abacus"))


def test_the_manifest_entry_names_files_of_the_bundle(backend):
    bundle, spec = backend.lower("image")
    assert spec.target == backend.plugin.name
    assert spec.precision == "fp32"
    for file in spec.all_files:
        assert (bundle / file).is_file()
    assert (bundle / "unet/model.onnx").is_file()  # the portable graph stays
