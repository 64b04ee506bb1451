"""A machine of fakes with one plan on it, for the tests of the engine."""

from dataclasses import replace

import numpy as np
import onnxruntime
from fake_trt import FakeTrt, as_library, write_plan

from diffoundry.runtime.bundle.specs import EngineSpec, TensorSpec
from diffoundry.runtime.engines.protocol import EngineOptions, run_checked
from diffoundry.targets.tensorrt.cuda import Cuda, list_gpus
from diffoundry.targets.tensorrt.run.engine import TensorRTEngine

WIDE = {"sample": [(1, 4, 8, 8), (2, 4, 16, 16), (4, 4, 32, 32)]}
SMALL = {"sample": [(1, 4, 8, 8), (2, 4, 8, 8), (2, 4, 8, 8)]}
SQUARE = {"sample": [(2, 4, 8, 8)] * 3}
TALL = {"sample": [(2, 4, 16, 8)] * 3}

SHAPE = ("batch", 4, "height/8", "width/8")

SPEC = EngineSpec(
    target="tensorrt",
    precision="fp32",
    files=("unet/block.plan", "unet/block.onnx"),
    inputs=(TensorSpec(name="sample", dtype="float32", shape=SHAPE),),
    outputs=(TensorSpec(name="out_sample", dtype="float32", shape=SHAPE),),
    options={"profiles": {"first": {}, "second": {}}},
)


class Rig:
    """A machine of fakes with one plan on it."""

    def __init__(self, graph, folder, sdk, cuda):
        self.cuda = cuda
        self.trt = FakeTrt(cuda)
        self.sdk, self._graph, self._folder = sdk, graph, folder
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def open(self, *profiles, options=None, device=0, cache=None, built_with=None, **plan):
        path = write_plan(self._folder / "block.plan", self._graph, profiles or (WIDE,), **plan)
        spec = replace(SPEC, options={**SPEC.options, **(options or {})}, built_with=built_with or {})
        wrapped = Cuda(self.cuda)
        return TensorRTEngine(
            path,
            spec,
            EngineOptions(cache_dir=cache),
            library=as_library(self.trt, self.sdk),
            cuda=wrapped,
            gpu=list_gpus(wrapped)[device],
        )

    def expected(self, sample):
        return self._session.run(None, {"sample": sample})[0]

    def outputs(self):
        return [node.name for node in self._session.get_outputs()]

    def copies(self):
        return [call[2] for call in self.cuda.calls if call[0] == "copy"]

    def launches(self):
        return self.cuda.calls.count(("launch",))


def noise(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def check(rig, engine, *shape):
    sample = noise(*shape)
    got = run_checked(engine, {"sample": sample}, "unet")["out_sample"]
    np.testing.assert_array_equal(got, rig.expected(sample))
