"""Components of other pipelines than Stable Diffusion 1's, by the real parser and the real builder."""

import onnx_ir as ir
import pytest
from small_graphs import in_form

from diffoundry.exporter.steps.graph_files import save_graph
from diffoundry.targets.base import tensor_specs
from diffoundry.targets.tensorrt.build.network import parse
from diffoundry.targets.tensorrt.build.target import RTXTarget

CONDITIONS = ["sample", "timestep", "encoder_hidden_states"]
SIZES = [*CONDITIONS, "text_embeds", "time_ids"]

INPUTS = {
    ("xl", "unet"): SIZES,
    ("xl", "text_encoder"): ["input_ids"],
    ("xl", "text_encoder_2"): ["input_ids"],
    ("xl-distilled", "unet"): [*CONDITIONS, "timestep_cond", "text_embeds", "time_ids"],
    ("xl-refiner", "unet"): SIZES,
    ("xl-inpaint", "unet"): SIZES,
    ("inpaint", "unet"): CONDITIONS,
    ("instruct", "unet"): CONDITIONS,
    ("sd3", "transformer"): [
        "hidden_states",
        "timestep",
        "encoder_hidden_states",
        "pooled_projections",
        "skip_layers",
    ],
    ("sd3", "text_encoder_3"): ["input_ids"],
}
CHANNELS = {"inpaint": 9, "xl-inpaint": 9, "instruct": 8}


SLOW = ("xl-refiner", "xl-inpaint", "xl-distilled", "inpaint", "instruct")
"""The others have the same operators and inputs."""


@pytest.mark.parametrize(
    ("variant", "component"),
    [pytest.param(*key, marks=pytest.mark.slow if key[0] in SLOW else ()) for key in INPUTS],
)
def test_the_parser_takes_it(rtx, portable, tmp_path, variant, component):
    path = portable(component, variant)
    inputs = {spec.name: spec.shape for spec in tensor_specs(ir.load(path).graph.inputs)}
    assert sorted(inputs) == sorted(INPUTS[variant, component])
    if component == "unet":
        assert inputs["sample"][1] == CHANNELS.get(variant, 4)
    save_graph(in_form(ir.load(path), RTXTarget().form("fp16")), tmp_path, "model.onnx")
    builder = rtx.trt.Builder(rtx.log.logger)
    network = builder.create_network(1 << int(rtx.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert parse(rtx.trt, network, rtx.log, tmp_path / "model.onnx") is None


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("variant", "component"),
    [
        ("xl", "text_encoder_2"),
        ("sd3", "transformer"),
        *(pytest.param(*key, marks=pytest.mark.slow) for key in INPUTS if key[0] in SLOW),
    ],
)
def test_the_builder_fuses_every_attention(built, variant, component):
    spec = built(component, "fp16", model=variant)
    assert spec.pending is None
    assert spec.metadata["structure"]["64x64"]["attentions_fused"] == spec.metadata["attentions"] > 0
