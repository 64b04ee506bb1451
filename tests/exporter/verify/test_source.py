"""Checkpoint that a bundle is compared with by default."""

import re
import shutil
from types import SimpleNamespace

import pytest

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.verify import compare_engines, verify
from diffoundry.exporter.verify.checkpoint_source import check_family, find_checkpoint, identity_notes
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.specs import FusedLora, Recipe
from diffoundry.runtime.errors import BundleError, CheckpointError, InputError


def _bundle(model, source, loras=()):
    recipe = Recipe(model=model, source=source, variants=(), dims={}, opset=24, loras=loras)
    return SimpleNamespace(root="b", manifest=SimpleNamespace(recipe=recipe))


def test_an_alias_of_the_recipe_is_opened():
    checkpoint = find_checkpoint(_bundle("emoji", {}))
    assert (checkpoint.name, checkpoint.seed) == ("emoji", None)


def test_loras_of_the_recipe_are_added_again():
    lora = FusedLora(file="x.safetensors", scale=0.5, sha256="0")
    assert find_checkpoint(_bundle("emoji", {}, (lora,))).loras == (lora,)


def test_random_weights_are_made_again_from_their_seed(tiny_sd_checkpoint):
    folder = str(tiny_sd_checkpoint("sd1"))
    made = open_checkpoint(folder, random_weights=True, seed=31)
    bundle = _bundle(folder, made.identity())
    found = find_checkpoint(bundle)
    assert found.seed == 31
    weight = "conv_in.weight"
    assert (found.load("unet").state_dict()[weight] == made.load("unet").state_dict()[weight]).all()
    assert list(identity_notes(bundle, found)) == []
    assert "random_weights_seed differ (SHA" in "".join(
        identity_notes(bundle, open_checkpoint(folder, random_weights=True, seed=32))
    )


def test_a_checkpoint_that_is_gone_is_asked_for():
    with pytest.raises(CheckpointError, match=r"bundle b: the checkpoint of its recipe .*'/gone/sd'.* with --against"):
        find_checkpoint(_bundle("/gone/sd", {}))


def test_a_seed_that_is_no_number_is_refused():
    with pytest.raises(BundleError, match="bundle b: got the seed 'x1' in its recipe, expected a number"):
        find_checkpoint(_bundle("emoji", {"random_weights_seed": "x1"}))


def test_a_folder_without_a_recipe_needs_a_name():
    with pytest.raises(InputError, match="b: got a folder without a manifest.*--against"):
        find_checkpoint(SimpleNamespace(root="b", manifest=None))


@pytest.mark.parametrize("compare", [verify, compare_engines])
def test_a_checkpoint_of_another_family_is_refused(portable_bundle, tiny_sd_checkpoint, compare):
    bundle, other = portable_bundle("sd3"), tiny_sd_checkpoint("sd1")
    message = (
        f"checkpoint {other}: got a checkpoint of another pipeline family, stable_diffusion; the bundle {bundle} is of "
        f"stable_diffusion_3; pass the checkpoint that it was exported from"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        compare(bundle, open_checkpoint(str(other)))


def test_the_family_of_a_folder_without_a_recipe_follows_from_its_class(portable_bundle, tiny_sd_checkpoint, tmp_path):
    bundle = Bundle(shutil.copytree(portable_bundle("sd3"), tmp_path / "b", ignore=_ignore_manifest))
    check_family(bundle, open_checkpoint(str(tiny_sd_checkpoint("sd3"))))
    with pytest.raises(InputError, match="family, stable_diffusion; the bundle .* is of stable_diffusion_3"):
        check_family(bundle, open_checkpoint(str(tiny_sd_checkpoint("sd1"))))


def _ignore_manifest(_folder, _names):
    return ["diffoundry.json"]
