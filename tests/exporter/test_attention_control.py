"""Export with --attention-control: the graph's interface, the recipe, and which checkpoints are refused."""

import json

import pytest
from click.testing import CliRunner

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint, open_checkpoint, open_recipe
from diffoundry.exporter.cli.export import command
from diffoundry.exporter.components.attention_control import map_level
from diffoundry.exporter.recipe import make_recipe
from diffoundry.exporter.request import ExportRequest
from diffoundry.runtime.bundle.specs import Variant
from diffoundry.runtime.errors import CheckpointError, ConfigError

INPUTS = {
    "cross_map": ("batch", "sequence", "sequence"),
    "cross_keep": ("batch", "sequence"),
    "base_rows": ("batch",),
    "self_limit": (1,),
}


@pytest.fixture(scope="module")
def plain(tiny_sd_checkpoint):
    return open_checkpoint(str(tiny_sd_checkpoint("sd1-edited")))


def test_only_the_unet_gets_inputs_and_an_output(plain):
    controlled = plain.with_attention_control()
    for before, after in zip(plain.components, controlled.components, strict=True):
        if before.name != "unet":
            assert before == after
            continue
        assert {spec.name: spec.shape for spec in after.inputs[len(before.inputs) :]} == INPUTS
        assert [(spec.name, spec.shape) for spec in after.outputs[1:]] == [
            ("attention_maps", ("batch", "sequence", "height/8", "width/8"))
        ]
    assert plain.with_attention_control(asked=False) is plain


def test_the_recipe_and_other_processes_know_it(plain, tiny_controlnet):
    controlled = plain.with_attention_control()
    variants = (Variant(target="onnxruntime", precision="fp32"),)
    recipe = make_recipe(controlled, ExportRequest(variants=variants))
    assert recipe.attention_control
    assert not make_recipe(plain, ExportRequest(variants=variants)).attention_control
    assert open_recipe(recipe).components == controlled.components
    assert Checkpoint.reopen(json.loads(json.dumps(controlled.describe()))).components == controlled.components


def test_controlnets_leave_it_as_it_is(tiny_sd_checkpoint, tiny_controlnet):
    checkpoint = open_checkpoint(str(tiny_sd_checkpoint("sd1"))).with_attention_control()
    (unet,) = [one for one in checkpoint.with_controlnets([str(tiny_controlnet())]).components if one.name == "unet"]
    names = [spec.name for spec in unet.inputs]
    assert {*INPUTS, "mid_block_additional_residual"} <= set(names)


def test_maps_are_of_16_pixels_where_the_unet_has_them():
    crossing, plain = "CrossAttnDownBlock2D", "DownBlock2D"
    up = ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3]
    sd1 = {"sample_size": 64, "down_block_types": [*[crossing] * 3, plain], "up_block_types": up}
    assert map_level({}) == map_level(sd1) == 2, "64 x 64 latents, quartered"
    assert map_level({**sd1, "sample_size": 96}) == 2, "24 x 24, not 12 x 12 of the middle"
    assert map_level({**sd1, "sample_size": 32}) == 1
    assert map_level({**sd1, "sample_size": [8, 64]}) == 0, "the finest of a small one"
    without = {**sd1, "down_block_types": [plain] * 4}
    with pytest.raises(ConfigError, match=r"field 'down_block_types': got DownBlock2D, .* expected a block with cross"):
        map_level(without)
    with pytest.raises(ConfigError, match=r"field 'up_block_types': got 3, expected a list of names of blocks"):
        map_level({**sd1, "up_block_types": 3})


@pytest.mark.parametrize("variant", ["xl", "lcm", "variation"])
def test_other_families_are_refused(tiny_sd_checkpoint, tmp_path, variant):
    words = ["--model", str(tiny_sd_checkpoint(variant)), "--target", "onnxruntime", "-o", str(tmp_path / "x.bundle")]
    result = CliRunner().invoke(command, [*words, "--attention-control"])
    assert isinstance(result.exception, CheckpointError)
    assert str(result.exception).startswith("--attention-control: got a checkpoint of the family '")
