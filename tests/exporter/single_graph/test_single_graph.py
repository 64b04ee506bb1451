"""One graph of a whole pipeline in plain ONNX Runtime: the image of diffusers and of `generate`, and refusals."""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from pipeline_harness import diffusers_pipeline

from diffoundry.exporter.add_engines import add_engines
from diffoundry.exporter.bundle_writer import sum_files
from diffoundry.exporter.cli.export import command
from diffoundry.exporter.single_graph import traced_pipeline
from diffoundry.exporter.single_graph.check import check_request, check_single_graph
from diffoundry.exporter.single_graph.request import SINGLE_GRAPH, SingleGraphRequest
from diffoundry.runtime import load
from diffoundry.runtime.bundle.atomic_write import write_text
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.manifest import MANIFEST_NAME, dump_manifest
from diffoundry.runtime.bundle.specs import DimSpec, Variant
from diffoundry.runtime.errors import DiffoundryError
from diffoundry.runtime.pipelines.tasks.base import TextToImage
from diffoundry.runtime.pipelines.tasks.image_to_image import ImageToImage
from diffoundry.runtime.random import TorchCpuGenerator

EMOJI = Path(__file__).parents[3] / "models/emoji"
PROMPT, NEGATIVE, SEED, SCALE = "a red apple", "blue", 3, 5.0


def images_of(bundle: Path, prompts: list[str], negatives: list[str] | None) -> np.ndarray:
    """Run the graph with the numbers that `generate` would draw for these prompts."""
    session = ort.InferenceSession(bundle / SINGLE_GRAPH)
    inputs = {one.name: one for one in session.get_inputs()}
    feeds = {"guidance_scale": np.array([SCALE], np.float32)} if "guidance_scale" in inputs else {}
    for encoder in load(bundle).text_encoders:
        for prefix, texts in {"": prompts, "negative_": negatives}.items():
            if texts is not None:
                name = f"{prefix}input_ids{encoder.name.removeprefix('text_encoder')}"
                feeds[name] = encoder.tokenizer(texts, max_length=inputs[name].shape[1]).input_ids
    generator = TorchCpuGenerator(SEED)
    for name in ("noise", "step_noise"):
        if name in inputs:
            assert inputs["noise"].shape[0] == "batch"
            shape = len(prompts), *inputs["noise"].shape[1:]
            draws = inputs[name].shape[0] if name == "step_noise" else 1
            drawn = [generator.randn(tuple(shape)).astype(np.float32) for _ in range(draws)]
            feeds[name] = np.stack(drawn) if name == "step_noise" else drawn[0]
    assert feeds.keys() == inputs.keys()
    return session.run(None, feeds)[0]


def image_of(bundle: Path) -> np.ndarray:
    """Run the graph for one image with guidance by a negative prompt."""
    return images_of(bundle, [PROMPT], [NEGATIVE])


@pytest.mark.slow
def test_every_scheduler_with_a_plan_makes_the_image_of_diffusers(with_graph):
    """Plain, stochastic, with earlier outputs, with earlier samples, and with fewer draws than steps."""
    import diffusers
    import torch

    pipe = diffusers_pipeline(EMOJI)
    config = pipe.scheduler.config
    for name, kind, options in (
        (None, "DDIM", {}),
        ("euler_a", "EulerAncestralDiscrete", {}),
        ("dpmpp_2m_karras", "DPMSolverMultistep", {"use_karras_sigmas": True}),
        ("heun", "HeunDiscrete", {}),
        ("lcm", "LCM", {}),
    ):
        pipe.scheduler = getattr(diffusers, f"{kind}Scheduler").from_config(config, **options)
        bundle = with_graph(steps=4, scheduler=name)
        ours = image_of(bundle)
        generator = torch.Generator().manual_seed(SEED)
        arguments = {"num_inference_steps": 4, "guidance_scale": SCALE, "generator": generator}
        theirs = np.asarray(pipe(PROMPT, negative_prompt=NEGATIVE, **arguments).images[0])
        assert ours.shape == (1, *theirs.shape), kind
        assert np.abs(ours[0].astype(int) - theirs).max() <= 1, kind


def test_several_prompts_and_several_images_of_one(with_graph):
    bundle = with_graph(steps=3, scheduler="euler_a")
    pipe = load(bundle)
    arguments = {"num_inference_steps": 3, "guidance_scale": SCALE, "seed": SEED, "scheduler": "euler_a"}
    for prompts, times in ([PROMPT, "a dog"], 1), ([PROMPT], 3):
        rows = [prompt for prompt in prompts for _ in range(times)]
        ours = images_of(bundle, rows, [NEGATIVE] * len(rows)).astype(int)
        made = pipe(prompts, negative_prompt=[NEGATIVE] * len(prompts), num_images_per_prompt=times, **arguments).images
        assert np.abs(ours - np.stack([np.asarray(one) for one in made])).max() <= 1
        assert np.abs(ours[0] - ours[1]).max() > 20


def test_guidance_up_to_1_is_none(with_graph, monkeypatch):
    bundle = with_graph(steps=2)
    monkeypatch.setattr(f"{__name__}.SCALE", 0.5)
    ours = image_of(bundle)[0].astype(int)
    plain = load(bundle)(PROMPT, seed=SEED, num_inference_steps=2, guidance_scale=0.5).images[0]
    assert np.abs(ours - np.asarray(plain)).max() <= 1


def test_weights_are_those_of_the_bundle(with_graph):
    bundle = with_graph(steps=2)
    model = ir.load(bundle / SINGLE_GRAPH)
    large = [one.const_value for one in model.graph.initializers.values() if one.const_value.nbytes >= 64 << 10]
    places = {one.location for one in large}
    assert all(isinstance(one, ir.ExternalTensor) for one in large)
    assert places <= {name for spec in Bundle(bundle).manifest.components.values() for name in spec.all_files}
    assert (bundle / SINGLE_GRAPH).stat().st_size < 1 << 20
    metadata = model.metadata_props
    assert (metadata["scheduler"], metadata["num_inference_steps"]) == ("DDIMScheduler", "2")
    assert json.loads(metadata["timesteps"]) == [501.0, 1.0]


def test_engines_below_the_graph_are_not_built_again(with_graph):
    bundle = with_graph(steps=2)
    manifest = Bundle(bundle).manifest
    listed = replace(manifest, files=sum_files(bundle, manifest.files))
    write_text(bundle / MANIFEST_NAME, dump_manifest(listed))
    with pytest.raises(DiffoundryError, match="engines whose weights its one graph, model.onnx, reads"):
        add_engines(bundle, listed.recipe.variants, lambda *_: None, overwrite=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["xl", "sd3", "sd3-without-t5"])
def test_families_make_the_image_of_generate(name, with_graph, exported, tiny_sd_checkpoint):
    bundle = with_graph(exported(tiny_sd_checkpoint(name)), steps=3)
    ours = images_of(bundle, [PROMPT, "a dog"], [NEGATIVE, ""])
    arguments = {"num_inference_steps": 3, "guidance_scale": SCALE, "seed": SEED, "negative_prompt": [NEGATIVE, ""]}
    theirs = np.stack([np.asarray(one) for one in load(bundle)([PROMPT, "a dog"], **arguments).images])
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def _make_flux(**options):
    from tiny_flux import make_flux

    return partial(make_flux, **options)


DISTILLED = {
    "flux-dev": ("FluxPipeline", _make_flux(guidance_embeds=True)),
    "flux-schnell": ("FluxPipeline", _make_flux(guidance_embeds=False, scheduler={})),
    "lcm": ("LatentConsistencyModelPipeline", None),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTILLED)
def test_distilled_checkpoints_make_the_images_of_diffusers(
    name, with_graph, exported, system_checkpoint, tiny_sd_checkpoint
):
    """The guidance scale is an input of the denoiser, or there is none; the schedule of FLUX.1 depends on the size."""
    import torch

    kind, make = DISTILLED[name]
    folder = tiny_sd_checkpoint(name) if make is None else system_checkpoint(name, make)
    sides = {"height": DimSpec(min=32, max=32), "width": DimSpec(min=48, max=48)} if make else {}
    bundle = with_graph(exported(folder, dims=sides), steps=3)
    inputs = [one.name for one in ort.InferenceSession(bundle / SINGLE_GRAPH).get_inputs()]
    assert ("guidance_scale" in inputs) == (name != "flux-schnell")
    assert not any(one.startswith("negative") for one in inputs)
    prompts = [PROMPT, "a dog"]
    ours = images_of(bundle, prompts, None).astype(int)
    arguments = {"num_inference_steps": 3, "height": ours.shape[1], "width": ours.shape[2]}
    guidance = {"guidance_scale": SCALE} if "guidance_scale" in inputs else {}
    made = load(bundle)(prompts, seed=SEED, **arguments, **guidance).images
    assert np.abs(ours - np.stack([np.asarray(one) for one in made])).max() <= 1
    pipe = diffusers_pipeline(folder, kind)
    theirs = pipe(prompts, generator=torch.Generator().manual_seed(SEED), **arguments, **guidance).images
    assert np.abs(ours - np.stack([np.asarray(one) for one in theirs])).max() <= 1
    if name == "lcm":
        with pytest.raises(
            DiffoundryError, match="scheduler: got EulerDiscreteScheduler, expected LCMScheduler: latent"
        ):
            check_single_graph(load(bundle), SingleGraphRequest(scheduler="euler"), Bundle(bundle).manifest.recipe)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--steps", "4"], "--steps: got 4 without --single-graph, expected both"),
        (["--scheduler", "euler"], "--scheduler: got 'euler' without --single-graph, expected both"),
        (["--single-graph", "--steps", "0"], "--steps: got 0, expected at least 1"),
        (["--single-graph", "--partition"], "--single-graph: got --partition as well, expected one of them"),
        (["--single-graph", "--batch", "1"], "--single-graph: got --batch 1, expected at least 2"),
        (["--single-graph", "--buckets", "64x64,128x64"], "--single-graph: got 2 sizes of --buckets, expected one"),
        (["--single-graph", "--attention-control"], "--single-graph: got --attention-control as well"),
        (["--single-graph", "--controlnet", "emoji-edges"], "--single-graph: got --controlnet as well"),
        (["--single-graph", "--scheduler", "DPMSolverSDE"], "--single-graph: DPMSolverSDEScheduler cannot be lowered"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_combinations_are_refused_before_the_export(words, sentence, tmp_path):
    arguments = ["emoji", "--target", "onnxruntime", *words, "-o", str(tmp_path / "x.bundle")]
    result = CliRunner().invoke(command, arguments)
    assert sentence in str(result.exception)
    assert not list(tmp_path.glob("x.bundle*"))


def test_other_tasks_and_computations_are_refused(with_graph, emoji_bundle, monkeypatch):
    pipe = load(emoji_bundle)
    with monkeypatch.context() as patch:
        patch.setattr(type(pipe), "default_task", ImageToImage)
        with pytest.raises(DiffoundryError, match="which does image to image, expected text to image; export it with"):
            check_single_graph(pipe, SingleGraphRequest(), pipe.session.bundle.manifest.recipe)
    with monkeypatch.context() as patch:
        patch.setattr(TextToImage, "guidance", lambda *_: object())
        with pytest.raises(
            DiffoundryError, match="'stable_diffusion' whose guidance is object, expected guidance by a"
        ):
            with_graph(steps=1)
    monkeypatch.setattr(traced_pipeline, "postprocess", lambda sample, _kind: np.linalg.norm(sample))
    with pytest.raises(DiffoundryError, match="family 'stable_diffusion' that computes norm, which is not written as"):
        with_graph(steps=1)


@pytest.mark.slow
def test_pipelines_are_refused_by_family_task_and_parts(exported, emoji_bundle, wide_bundle):
    request = SingleGraphRequest()
    recipe = Bundle(emoji_bundle).manifest.recipe
    other = replace(recipe, variants=(Variant(target="openvino", precision="fp32"),))
    with pytest.raises(DiffoundryError, match="got --target openvino, expected onnxruntime among them"):
        check_request(request, other)
    for variant, sentence in {
        "variation": "got a checkpoint of the family 'image_variation', expected one of stable_diffusion, ",
        "sd1-checked": "got a checkpoint with a safety checker, which the graph would not run; pass --no-safety",
    }.items():
        pipe = load(wide_bundle(variant))
        with pytest.raises(DiffoundryError, match=re.escape(sentence)):
            check_single_graph(pipe, request, pipe.session.bundle.manifest.recipe)
