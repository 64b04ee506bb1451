"""LoRAs of Qwen-Image at run time, in the names of every program, against diffusers."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from system_pair import compare_system, open_theirs
from tiny_qwen_image import make_qwen_image

from diffoundry.runtime import load

pytestmark = pytest.mark.slow

ARGUMENTS = {"prompt": "a red apple", "num_inference_steps": 2, "height": 16, "width": 24}
FORMS = {
    "diffusers": lambda name, side: f"transformer.{name}.lora_{side}.weight",
    "PEFT": lambda name, side: f"base_model.model.{name}.lora_{side}.default.weight",
    "ComfyUI": lambda name, side: f"diffusion_model.{name}.lora_{side}.weight",
    "no prefix": lambda name, side: f"{name}.lora_{side}.weight",
    "kohya": lambda name, side: f"lora_unet_{name.replace('.', '_')}.lora_{_KOHYA[side]}.weight",
    "original": lambda name, side: f"{name}.lora_{_KOHYA[side]}.weight",
}
_KOHYA = {"A": "down", "B": "up"}

UNREAD = ("attn.to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2")
"""Layers of the only block whose result nothing reads."""

FLAT = tuple(name.replace(".", "_") for name in UNREAD)


def test_names_of_every_program(exported, system_checkpoint, tmp_path):
    """Each changes every linear layer that is read, and the base comes back as it was. Other tensors are listed."""
    folder = system_checkpoint("qwen-image", make_qwen_image)
    bundle = exported(folder, target="onnxruntime,openvino")
    pipelines = {target: load(bundle, target=target) for target in ("onnxruntime", "openvino")}
    settings = {**ARGUMENTS, "seed": 0, "output_type": "latent"}
    before = {target: ours(**settings).images for target, ours in pipelines.items()}
    theirs, random = open_theirs(folder, "QwenImagePipeline"), torch.Generator().manual_seed(0)
    layers = {name: one for name, one in theirs.transformer.named_modules() if isinstance(one, torch.nn.Linear)}
    tensors = {form: {"what.is.this": torch.ones(1)} if form == "diffusers" else {} for form in FORMS}
    for name, layer in layers.items():
        down = torch.randn((2, layer.in_features), generator=random) / layer.in_features**0.5
        up = torch.randn((layer.out_features, 2), generator=random) * 0.1
        for form, name_of in FORMS.items():
            tensors[form] |= {name_of(name, side): one.clone() for side, one in zip("AB", (down, up), strict=True)}
            if "lora_down" in name_of(name, "A"):
                tensors[form][name_of(name, "A").replace("lora_down.weight", "alpha")] = torch.tensor(2.0)
    expected = tmp_path / "theirs.safetensors"
    save_file({name: one for name, one in tensors["diffusers"].items() if name != "what.is.this"}, expected)
    theirs.load_lora_weights(str(expected))
    for form, named in tensors.items():
        save_file(named, tmp_path / "ours.safetensors")
        for target, ours in pipelines.items() if form == "diffusers" else [("onnxruntime", pipelines["onnxruntime"])]:
            report = ours.loras.load(tmp_path / "ours.safetensors")
            read = {name for name in layers if not name.endswith(UNREAD)}
            assert report.layers == {"transformer": len(read)}, form
            lost = {name for name in named if name == "what.is.this" or any(one in name for one in (*UNREAD, *FLAT))}
            assert set(report.unused) == lost, form
            compare_system(ours, theirs, **ARGUMENTS)
            assert np.abs(ours(**settings).images - before[target]).max() > 0.03
            ours.loras.unload()
            np.testing.assert_array_equal(ours(**settings).images, before[target])
