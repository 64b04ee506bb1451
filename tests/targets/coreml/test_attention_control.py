"""A UNet whose attention is edited from outside, lowered for Core ML, against PyTorch."""

import shutil

import numpy as np
import pytest
import torch

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.components.attention_control_module import AttentionControlModule
from diffoundry.runtime.models.attention_control import CONTROL_INPUTS
from diffoundry.runtime.models.roles import DENOISER
from diffoundry.targets.base import Lowering
from diffoundry.targets.coreml.build.target import CoreMlTarget

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("options", [{}, {"deployment_target": "iOS18"}, {"neural_engine": True}], ids=str)
def test_edits_are_pytorchs(edited_bundle, tiny_sd_checkpoint, tmp_path, make_feeds, options):
    """Two rows, as one engine call of a prompt and its edit; 56 x 40 pixels are 7 x 5 latents, 4 x 3 below."""
    from coreml_interpreter.engine import InterpretedEngine

    (tmp_path / "unet").mkdir()
    for file in ("model.onnx", "model.onnx_data"):
        shutil.copy(edited_bundle / "unet" / file, tmp_path / "unet")
    work = Lowering(
        component="unet",
        role=DENOISER,
        graph=tmp_path / "unet/model.onnx",
        bundle=tmp_path,
        precision="fp32",
        buckets=((56, 40),),
    )
    spec = CoreMlTarget(**options).lower(work)
    checkpoint = open_checkpoint(str(tiny_sd_checkpoint("sd1-edited"))).with_attention_control()
    component = checkpoint.component("unet")
    plain = [tensor for tensor in spec.inputs if tensor.name not in CONTROL_INPUTS]
    random = np.random.default_rng(1)
    feeds = {
        **make_feeds(plain, sizes={"height": 56, "width": 40}),
        "cross_map": random.dirichlet(np.ones(77), (2, 77)).astype(np.float32),
        "cross_keep": random.random((2, 77)).astype(np.float32),
        "base_rows": np.zeros(2, np.int32),
        "self_limit": np.full(1, 12, np.int32),  # the coarse level alone
    }
    with InterpretedEngine(tmp_path / spec.files[0], spec, None) as engine:
        outputs = engine.run(feeds)
    with torch.no_grad():
        module = AttentionControlModule(checkpoint.load("unet"), component)
        expected = module(*(torch.from_numpy(feeds[tensor.name]) for tensor in component.inputs))
    for tensor, result in zip(component.outputs, expected, strict=True):
        np.testing.assert_allclose(outputs[tensor.name], result.numpy(), rtol=0, atol=1e-4, err_msg=tensor.name)
