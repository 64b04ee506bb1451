"""Stable Diffusion 1.5 at full size, with random weights: minutes and gigabytes, so by hand."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from coreml_interpreter.run import Interpreter

from diffoundry.exporter.passes.half_precision import HalfPrecision
from diffoundry.exporter.steps.graph_files import save_graph
from diffoundry.runtime.models.roles import role_of_folder
from diffoundry.targets.base import Lowering
from diffoundry.targets.coreml.build.target import CoreMlTarget

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

# What the modules of the checkpoint have: attentions, group norms; millions of weights.
LAYERS = {"text_encoder": (12, 0, 123), "unet": (32, 61, 859.5), "vae_encoder": (1, 22, 34), "vae_decoder": (1, 30, 49)}


@pytest.fixture(scope="module")
def half(exported, tmp_path_factory):
    """Factory: a component's graph in half precision, in a bundle of its own."""

    def make(component):
        portable = exported("sd15", random_weights=True) / component / "model.onnx"
        folder = tmp_path_factory.mktemp(component) / component
        folder.mkdir()
        model = ir.load(portable)
        HalfPrecision()(model)
        save_graph(model, folder, "model.fp16.onnx")
        return portable, folder / "model.fp16.onnx"

    return make


@pytest.mark.parametrize("component", LAYERS)
def test_sd15_becomes_packages(half, make_feeds, psnr, component):
    """512 x 512 pixels: every layer is there, half of the size; 128 x 128: the values, which take a minute less."""
    portable, graph = half(component)
    attentions, norms, weights = LAYERS[component]

    def lower(side, **options):
        work = Lowering(
            component=component,
            role=role_of_folder(component),
            graph=graph,
            bundle=graph.parent.parent,
            precision="fp16",
            buckets=((side, side),),
        )
        return CoreMlTarget(**options).lower(work)

    spec = lower(512, deployment_target="iOS18", chunks=2)
    counts = spec.metadata["operators"].values()
    assert sum(package.get("scaled_dot_product_attention", 0) for package in counts) == attentions
    assert sum(package.get("instance_norm", 0) for package in counts) == norms
    size = sum((graph.parent.parent / file).stat().st_size for file in spec.files)
    assert 2.0 * weights < size / 1e6 < 2.1 * weights
    spec = lower(128, neural_engine=True)
    feeds = make_feeds(spec.inputs)
    run = Interpreter((graph.parent.parent / spec.files[0]).parent).run(feeds)
    assert run.non_finite == []
    session = onnxruntime.InferenceSession(str(portable))
    for name, expected in zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True):
        assert psnr(expected, run.outputs[name]) > 45
        assert np.ptp(expected) > 0
