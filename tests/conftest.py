"""Fixtures for all tests: tiny random checkpoints and the bundles made of them, each made once a session."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

_EMOJI = Path(__file__).parents[1] / "models/emoji"

_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sd1": ("PNDMScheduler", {"skip_prk_steps": True}),
    "sd2": ("DDIMScheduler", {"prediction_type": "v_prediction", "clip_sample": False}),
}


def _write_tiny_sd(folder: Path, variant: str) -> None:
    """Write a random StableDiffusion checkpoint of some 8 MB.

    Both variants: three UNet levels, a VAE of factor 8, attention heads of 16 channels and more, the tokenizer of
    models/emoji. "sd1" is built like Stable Diffusion 1 (epsilon, one number of heads, convolutions as projections,
    quick GELU); "sd2" like Stable Diffusion 2 (v-prediction, heads per level, linear projections, GELU).
    """
    import diffusers
    import torch
    import transformers

    second = variant == "sd2"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(variant) + second)
        text_encoder = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=4295,
                bos_token_id=4293,
                eos_token_id=4294,
                pad_token_id=4294,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                hidden_act="gelu" if second else "quick_gelu",
            )
        )
        unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            norm_num_groups=8,
            attention_head_dim=[2, 4, 4] if second else 2,
            use_linear_projection=second,
            upcast_attention=second,
        )
        vae = diffusers.AutoencoderKL(
            sample_size=64,
            block_out_channels=(16, 16, 32, 32),
            layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=8,
            latent_channels=4,
        )
    name, options = _SCHEDULERS[variant]
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    scheduler = getattr(diffusers, name)(**schedule, set_alpha_to_one=False, **options)
    for part, model in {"text_encoder": text_encoder, "unet": unet, "vae": vae, "scheduler": scheduler}.items():
        model.save_pretrained(folder / part)
    shutil.copytree(_EMOJI / "tokenizer", folder / "tokenizer")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", name],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all test processes of a session see; take a `FileLock` to make something in it."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def tiny_sd_checkpoint(shared_folder: Path) -> Callable[[str], Path]:
    """Factory: the folder of a tiny random checkpoint, "sd1" (default) or "sd2"; shared, so never write into it."""

    def make(variant: str = "sd1") -> Path:
        folder = shared_folder / f"tiny-{variant}"
        with FileLock(shared_folder / f"tiny-{variant}.lock"):
            if not (folder / "model_index.json").is_file():
                _write_tiny_sd(folder, variant)
        return folder

    return make


@pytest.fixture(scope="session")
def exported(shared_folder: Path) -> Callable[..., Path]:
    """Factory: the bundle of a model, for ONNX Runtime unless said otherwise; shared, so copy it before changing it.

    `exported("emoji")`, `exported(folder, precision="fp16", dims={"batch": DimSpec(min=2, max=2)})`,
    `exported("emoji", target="openvino", precision="bf16,fp32", options={"openvino": {...}})`,
    `exported("sd15", random_weights=True)`.
    """

    def make(
        model: str | Path,
        *,
        target: str = "onnxruntime",
        precision: str = "fp32",
        options: dict[str, dict[str, Any]] | None = None,
        random_weights: bool = False,
        **request: Any,
    ) -> Path:
        from diffoundry.exporter.build import ExportRequest, build
        from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
        from diffoundry.runtime.specs import BuildSpec

        asked_for = (str(model), target, precision, options, random_weights, sorted(request.items()))
        key = hashlib.sha256(repr(asked_for).encode()).hexdigest()[:12]
        bundle = shared_folder / f"{Path(model).name}-{key}.bundle"
        with FileLock(shared_folder / f"{bundle.name}.lock"):
            if not bundle.is_dir():
                builds = tuple(
                    BuildSpec(target=name, precision=word, options=(options or {}).get(name, {}))
                    for name in target.split(",")
                    for word in precision.split(",")
                )
                asked = ExportRequest(builds=builds, **request)
                checkpoint = open_checkpoint(str(model), random_weights=random_weights)
                build(checkpoint, asked, bundle, lambda *_: None, run=_work_here)
        return bundle

    return make


@pytest.fixture(scope="session")
def work_here() -> Callable[..., Any]:
    """How tests do the jobs of an export: in this process, for one of its own costs seconds."""
    return _work_here


def _work_here(job: Any, _progress: Any) -> Any:
    from diffoundry.exporter.work.jobs import outcome_of, perform

    return outcome_of(perform(job, lambda _name: contextlib.nullcontext()))


@pytest.fixture(scope="session")
def emoji_bundle(exported: Callable[..., Path]) -> Path:
    """The embedded model for ONNX Runtime in fp32; shared, so copy it before changing it."""
    return exported("emoji")
