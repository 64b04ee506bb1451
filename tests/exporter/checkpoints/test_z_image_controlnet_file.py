"""ControlNets of Z-Image in one file: the config of every published version, and the weights as diffusers has them."""

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_flux import LATENTS
from tiny_z_image import make_z_image

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.checkpoints.json_files import read_json
from diffoundry.exporter.checkpoints.z_image_controlnet_file import open_z_image_controlnet_file
from diffoundry.runtime.errors import CheckpointError

TRANSFORMER = {"dim": 32, "n_heads": 2, "n_kv_heads": 2, "n_refiner_layers": 2, "norm_eps": 1e-5, "qk_norm": True}
VERSIONS = {
    "1": {"control_layers_places": [0, 5, 10, 15, 20, 25], "control_in_dim": 16, "add_control_noise_refiner": None},
    "2.0": {
        "control_layers_places": list(range(0, 30, 2)),
        "control_in_dim": 33,
        "add_control_noise_refiner": "control_layers",
    },
    "2.1": {
        "control_layers_places": list(range(0, 30, 2)),
        "control_in_dim": 33,
        "add_control_noise_refiner": "control_noise_refiner",
    },
    "2.1 lite": {
        "control_layers_places": [0, 14, 28],
        "control_in_dim": 33,
        "add_control_noise_refiner": "control_noise_refiner",
    },
}


def make(options):
    network = diffusers.ZImageControlNetModel(control_refiner_layers_places=[0, 1], **options, **TRANSFORMER)
    for parameter in network.parameters():
        parameter.data = torch.full_like(parameter, 0.5)
    return network


def test_the_config_is_that_of_the_version(tmp_path):
    """A file of 2.0 also has layers of the refiner that were never trained, and that diffusers leaves out."""
    for version, options in VERSIONS.items():
        path, network = tmp_path / f"{version}.safetensors", make(options)
        tensors = network.state_dict()
        if version == "2.0":
            unused = make({**options, "add_control_noise_refiner": "control_noise_refiner"}).control_noise_refiner
            tensors |= {f"control_noise_refiner.{name}": one * 0.0 for name, one in unused.state_dict().items()}
        save_file(tensors, path)
        folder = open_z_image_controlnet_file(str(path), "controlnet", TRANSFORMER).folder
        config = read_json(folder / "config.json")
        loaded = diffusers.ZImageControlNetModel.from_config(config)
        expected = {**network.config, "_class_name": "ZImageControlNetModel"}
        assert {name: config[name] for name in options} == options, version
        assert {name: loaded.config[name] for name in network.config if name[0] != "_"} == {
            name: value for name, value in expected.items() if name[0] != "_"
        }, version
        missing, _ = loaded.load_state_dict(load_file(path), strict=False)
        assert not missing, version


ERRORS = {
    "another network": ({"a.weight": torch.ones(2, 2)}, "expected a ControlNet of Z-Image, with the tensor"),
    "another version": (
        {"control_all_x_embedder.2-1.weight": torch.ones(2, 64), "control_layers.0.after_proj.weight": torch.ones(1)},
        "got 1 control layers, expected 3, 6, 15, as the published versions have; pass a folder in diffusers' layout",
    ),
}


def test_other_files_are_refused(tmp_path):
    for tensors, words in ERRORS.values():
        save_file(tensors, tmp_path / "other.safetensors")
        with pytest.raises(CheckpointError, match=words):
            open_z_image_controlnet_file(str(tmp_path / "other.safetensors"), "controlnet", TRANSFORMER)


@pytest.mark.slow
def test_a_file_is_loaded_as_its_folder(tmp_path):
    """Layers that diffusers leaves out are not read."""
    make_z_image(tmp_path / "model", n_refiner_layers=2, n_layers=30)
    options = {**VERSIONS["2.0"], "control_in_dim": LATENTS}
    network = make(options)
    unused = make({**options, "add_control_noise_refiner": "control_noise_refiner"}).control_noise_refiner.state_dict()
    extra = {f"control_noise_refiner.{name}": one * 0.0 for name, one in unused.items()}
    save_file(network.state_dict() | extra, tmp_path / "union.safetensors")
    checkpoint = open_checkpoint(str(tmp_path / "model")).with_controlnets([str(tmp_path / "union.safetensors")])
    loaded = checkpoint.load("controlnet").state_dict()
    own = network.state_dict()
    assert own.keys() <= loaded.keys()
    assert all(torch.equal(loaded[name], one) for name, one in own.items())
