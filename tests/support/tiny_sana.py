"""Tiny random checkpoints of Sana and Sana-Sprint, for images of 64 pixels, with 4 to a latent."""

import shutil

import diffusers
import transformers
from language_models import gemma2, write_gemma_tokenizer
from same_weights import same_weights

__all__ = ["CLASSES", "LATENTS", "SPRINT", "WIDTH", "make_sana"]

LATENTS = 4
"""Channels of latents."""

WIDTH = 32
"""Of Gemma's hidden states."""

CLASSES = (
    "SanaPipeline",
    "SanaControlNetPipeline",
    "SanaPAGPipeline",
    "SanaSprintPipeline",
    "SanaSprintImg2ImgPipeline",
)

SPRINT = ("SanaSprintPipeline", "SanaSprintImg2ImgPipeline")
"""Classes whose transformer embeds the guidance scale."""

_SIZES = {
    "in_channels": LATENTS,
    "out_channels": LATENTS,
    "num_attention_heads": 3,
    "attention_head_dim": 8,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 12,
    "cross_attention_dim": 24,
    "caption_channels": WIDTH,
    "patch_size": 1,
}


def make_sana(folder, name="SanaPipeline", *, levels=3, **options):
    """Write the checkpoint of a pipeline class; options are those of its transformer.

    Args:
        folder: For the checkpoint.
        name: Of the class.
        levels: Of the VAE, each of which halves the image but the first. Published ones have 6.
        options: Of the transformer.
    """
    tokenizer = folder / "source"
    write_gemma_tokenizer(tokenizer)
    sprint = {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"} if name in SPRINT else {}
    transformer = diffusers.SanaTransformer2DModel(num_layers=2, sample_size=16, **{**_SIZES, **sprint, **options})
    transformer.scale_shift_table.data *= 0.5
    nets = {"controlnet": _controlnet()} if "ControlNet" in name else {}
    scheduler = (
        diffusers.SCMScheduler()
        if name in SPRINT
        else diffusers.DPMSolverMultistepScheduler(
            flow_shift=3.0, use_flow_sigmas=True, prediction_type="flow_prediction"
        )
    )
    text_encoder, vae = _shared_parts(levels)
    getattr(diffusers, name)(
        tokenizer=transformers.GemmaTokenizer.from_pretrained(tokenizer),
        text_encoder=text_encoder,
        transformer=transformer,
        vae=vae,
        scheduler=scheduler,
        **nets,
    ).save_pretrained(folder)
    shutil.rmtree(tokenizer)


def _controlnet():
    """Make a ControlNet of one block, whose zeros are filled with random numbers."""
    net = diffusers.SanaControlNetModel(num_layers=1, sample_size=16, **_SIZES)
    for layer in (net.input_block, *net.controlnet_blocks):
        layer.weight.data.normal_(std=0.2)
    return net


@same_weights
def _shared_parts(count):
    """Make the text encoder and the VAE of all checkpoints, with the same weights, so that tests trace one."""
    last = [level > 1 for level in range(count)]
    levels = {
        "block_out_channels": (8, *(8,) * (count - 2), 16),
        "block_types": tuple("EfficientViTBlock" if one else "ResBlock" for one in last),
        "layers_per_block": (1,) * count,
        "qkv_multiscales": tuple((5,) if one else () for one in last),
    }
    encoder = gemma2(num_hidden_layers=1)
    vae = diffusers.AutoencoderDC(
        latent_channels=LATENTS,
        attention_head_dim=4,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.4,
        **{f"{half}_{name}": value for half in ("encoder", "decoder") for name, value in levels.items()},
    )
    return encoder, vae
