"""Replaces TensorRT for RTX and CUDA by the fakes, for the target as well as for the engine."""

import itertools
from pathlib import Path

import onnx_ir as ir
from fake_cuda import FakeCuda
from fake_trt import FakeTrt, as_library, write_plan

from diffoundry.targets.tensorrt.build import build_plan as plan_build
from diffoundry.targets.tensorrt.build import target as target_module
from diffoundry.targets.tensorrt.build.host import Host
from diffoundry.targets.tensorrt.build.job import BuildResult
from diffoundry.targets.tensorrt.cuda import Cuda, Gpu
from diffoundry.targets.tensorrt.run import engine as engine_module
from diffoundry.targets.tensorrt.sdk import RTX


def install_fakes(monkeypatch, folder):
    """Give the process an RTX 4090 of fakes, on which the real rewritten graphs run.

    Args:
        monkeypatch: Undoes it.
        folder: For the graphs behind the plans.

    Returns:
        The fake library.
    """
    cuda = FakeCuda(gpus=((89, "RTX 4090", 1 << 34),))
    trt = FakeTrt(cuda)
    numbers = itertools.count()

    def build(job, progress, where):
        """Write a graph with its weights as the plan; the first two refittable weights count as combined."""
        graph = folder / f"{where} {next(numbers)}.onnx"
        ir.save(ir.external_data.load_to_model(ir.load(job.graph)), graph)
        shapes = [{name: list(sizes) for name, sizes in profile.shapes.items()} for profile in job.profiles]
        combined = [list(job.refittable[:2])]
        write_plan(Path(job.plan), graph, shapes, refittable=list(job.refittable), combined=combined)
        return BuildResult(metadata={"plan_bytes": 1})

    place = Host(sdk=RTX, version=trt.__version__, gpus=(Gpu(index=0, capability=89, name="RTX 4090"),), has_cuda=True)
    monkeypatch.setattr(target_module, "find_host", lambda sdk: place)
    monkeypatch.setattr(plan_build, "run_worker", build)
    monkeypatch.setattr(engine_module, "find_cuda", lambda: Cuda(cuda))
    monkeypatch.setattr(engine_module, "open_library", lambda sdk: as_library(trt, sdk))
    return trt
