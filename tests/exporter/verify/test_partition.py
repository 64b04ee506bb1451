"""The check that networks in parts compute the bits of the whole ones."""

import numpy as np
import pytest
from partitioned_networks import random_feeds

from diffoundry.exporter.verify.checks.partition import check_partition
from diffoundry.exporter.verify.checks.remade import remake_engines
from diffoundry.exporter.verify.reference.component_cases import ComponentCase
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.engines.protocol import EngineOptions


@pytest.fixture(scope="module")
def in_parts(exported):
    return exported("emoji", partition=True)


def _check(folder):
    bundle = Bundle(folder)
    (engine,) = bundle.engines("unet")
    feeds = [random_feeds(engine.inputs, seed) for seed in (0, 1)]
    cases = [ComponentCase(component="unet", label=f"{n}", feeds=one, expected={}) for n, one in enumerate(feeds)]
    return list(check_partition(bundle, cases, EngineOptions(threads=1)))


@pytest.mark.slow
def test_parts_of_the_embedded_model_pass(in_parts):
    (check,) = _check(in_parts)
    assert check.passed, check
    assert check.subject == "unet, onnxruntime fp32"


def test_a_small_change_of_a_part_is_found(in_parts, editable):
    copied = editable(in_parts)

    def change(array):
        array *= np.float32(1.001)

    copied.edit_weight("unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight.T", change)
    (check,) = _check(copied.path)
    assert not check.passed
    assert "differs by up to" in str(check.measured)


def test_a_bundle_of_whole_networks_has_nothing_to_check(emoji_bundle):
    assert _check(emoji_bundle) == []


@pytest.mark.parametrize("options", [{"partition": True}, {"split": True}], ids=["partition", "split"])
def test_parts_are_made_again_byte_for_byte(exported, options):
    made = remake_engines(Bundle(exported("emoji", **options)), "onnxruntime", "fp32")
    assert len(made.checks) == 4
    assert all(check.passed for check in made.checks), made.checks
