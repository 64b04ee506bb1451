"""Weights that are read later: the same numbers as at once, whatever file they come from, and no memory before."""

import resource
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_z_image import make_z_image, make_z_image_controlnet

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.checkpoints.deferred_weights import DeferredWeights, deferred_weights

UNET = "unet/diffusion_pytorch_model.safetensors"
LARGE = 1 << 14


def check_unet(checkpoint, *, deferred):
    """Compare the UNet read later with the one read at once; `deferred` says if its large weights wait."""
    check_network(checkpoint, "unet", deferred=deferred)


def check_network(checkpoint, name, *, deferred):
    later, now = checkpoint.load(name, deferred=True), checkpoint.load(name)
    weights = deferred_weights(later)
    assert later.state_dict().keys() == now.state_dict().keys()
    for name, weight in later.state_dict().items():
        assert weights.defers(weight) == (deferred and weight.numel() >= LARGE), name
        assert weight.dtype == torch.float32
        for _ in range(2):
            torch.testing.assert_close(weights.read(weight), now.state_dict()[name], rtol=0, atol=0, msg=name)


def test_layers_that_a_controlnet_has_of_its_transformer(tmp_path):
    make_z_image(tmp_path / "z", dim=128, axes_dims=[16, 24, 24])
    make_z_image_controlnet(tmp_path / "net", dim=128)
    checkpoint = open_checkpoint(str(tmp_path / "z"), random_weights=True).with_controlnets([str(tmp_path / "net")])
    check_network(checkpoint, "controlnet", deferred=True)
    shared = checkpoint.load("transformer").noise_refiner.state_dict()
    for name, weight in checkpoint.load("controlnet").noise_refiner.state_dict().items():
        torch.testing.assert_close(weight, shared[name], rtol=0, atol=0)


def as_halves(tensors):
    return {name: tensor.half() for name, tensor in tensors.items()}


def as_mixed(tensors):
    return {
        name: tensor.bfloat16() if number % 2 else tensor.half()
        for number, (name, tensor) in enumerate(tensors.items())
    }


def as_float8(tensors):
    return {
        name: tensor.to(torch.float8_e4m3fn) if tensor.ndim > 1 else tensor.half() for name, tensor in tensors.items()
    }


@pytest.mark.slow_cases("as_float8", "as_mixed")
@pytest.mark.parametrize("change", [None, as_halves, as_mixed, as_float8])
def test_weights_of_a_folder(own_checkpoint, change):
    if change is not None:
        tensors = {name: tensor.clone() for name, tensor in load_file(own_checkpoint / UNET).items()}
        save_file(change(tensors), own_checkpoint / UNET, metadata={"format": "pt"})
    check_unet(open_checkpoint(str(own_checkpoint)), deferred=change is not None)


def test_random_weights(tiny_sd_checkpoint):
    before = torch.random.get_rng_state()
    check_unet(open_checkpoint(str(tiny_sd_checkpoint()), random_weights=True, seed=3), deferred=True)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_random_weights_are_spread_as_diffusers_spreads_them(tiny_sd_checkpoint):
    checkpoint = open_checkpoint(str(tiny_sd_checkpoint()), random_weights=True)
    ours = checkpoint.load("unet").state_dict()
    torch.manual_seed(0)
    config = diffusers.UNet2DConditionModel.load_config(checkpoint.folder("unet"))
    theirs = diffusers.UNet2DConditionModel.from_config(config).state_dict()
    spread = [name for name, weight in theirs.items() if weight.numel() >= LARGE]
    assert len(spread) > 20
    for name in spread:
        for measure in (torch.std, torch.mean, torch.amax):
            torch.testing.assert_close(measure(ours[name]), measure(theirs[name]), rtol=0.05, atol=2e-3, msg=name)
    assert len({float(ours[name].flatten()[0]) for name in spread}) == len(spread)


def resident():
    """Bytes in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class TestOperators:
    """Operators of torch that make a weight while a module is built."""

    @pytest.fixture
    def deferred(self):
        return DeferredWeights("seed")

    def test_no_memory_is_written_before_a_weight_is_read(self, deferred):
        before = resident()
        with deferred:
            layer = torch.nn.Linear(1 << 13, 1 << 14)  # half a gigabyte
            torch.nn.init.trunc_normal_(layer.weight, std=0.02)
        assert deferred.defers(layer.weight)
        assert deferred.defers(layer.weight.detach().t()[3:])
        assert layer.weight.shape == (1 << 14, 1 << 13)
        assert resident() - before < 50e6

    def test_a_truncated_distribution(self, deferred):
        with deferred:
            weight = torch.nn.init.trunc_normal_(torch.empty(512, 512), std=0.5, a=-1, b=1)
        assert deferred.defers(weight)
        numbers = deferred.read(weight)
        assert numbers.abs().max() <= 1
        assert float(numbers.std()) == pytest.approx(0.44, abs=0.01)  # of a normal distribution cut at two deviations
        assert float(torch.nn.init.trunc_normal_(torch.empty(99), mean=3.5, a=3, b=4).min()) >= 3

    def test_the_last_initialization_counts(self, deferred):
        with deferred:
            table = torch.nn.Embedding(512, 64, padding_idx=5)
            torch.nn.init.constant_(table.weight, 3)
            table.weight.data[7].zero_()
            table.weight.data.mul_(2)
        numbers = deferred.read(table.weight)
        assert numbers[7].unique().tolist() == [0]
        assert numbers[5].unique().tolist() == [6]

    def test_a_view_is_read_as_a_view(self, deferred):
        with deferred:
            weight = torch.empty(256, 128).normal_()
            turned = weight.t()
        assert torch.equal(deferred.read(turned), deferred.read(weight).t())
        assert deferred.read(turned).is_contiguous()

    def test_a_copy_keeps_what_it_was_made_from(self, deferred):
        with deferred:
            weight = torch.empty(256, 128).fill_(1)
            copy, half = weight.clone(), weight.half()
            weight.fill_(2)
        assert deferred.defers(copy)
        assert deferred.read(copy).unique().tolist() == [1]
        assert deferred.read(half).dtype == torch.float16
        assert deferred.read(weight).unique().tolist() == [2]

    def test_an_operator_that_needs_numbers_gets_them(self, deferred):
        with deferred:
            weight = torch.empty(256, 128).normal_()
        expected = deferred.read(weight)
        with deferred:
            total = weight.sum()
        assert not deferred.defers(weight)
        assert torch.equal(weight, expected)
        assert total == expected.sum()
        assert torch.equal(deferred.read(weight), expected)

    def test_changed_numbers(self, deferred):
        with deferred:
            weight = torch.empty(256, 128).fill_(1)
        first = deferred.change(weight, lambda numbers: numbers + 1)
        second = deferred.change(first, lambda numbers: numbers * 10)
        assert deferred.read(second).unique().tolist() == [20]
