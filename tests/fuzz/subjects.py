"""The files that are damaged, and the reader of each: from opening a bundle to generating with it."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from small_bundle import write_small_bundle, write_small_tokenizer

from diffoundry.runtime.errors import DiffoundryError

__all__ = ["SUBJECTS", "Subject"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """One kind of file.

    Attributes:
        name: In reports.
        weight: Share of the cases.
        write: Writes sound files into an empty folder.
        files: Patterns of the files that are damaged.
        read: Reads the folder as the product does; the second argument is the damaged file.
        kind: As in `mutate`; None goes by the suffix.
        sealed: True if the folder is a bundle, whose sums are made to fit in most cases.
    """

    name: str
    weight: int
    write: Callable[[Path], None]
    files: tuple[str, ...]
    read: Callable[[Path, Path, Random], None]
    kind: str | None = None
    sealed: bool = field(default=False)


def _generate(root: Path, _: Path, random: Random) -> None:
    """Open a bundle and generate, as a caller who gives a size or none."""
    from diffoundry.runtime import EngineOptions, load

    pipeline = load(root, options=EngineOptions(threads=1))
    sizes = {"height": 16, "width": 16} if random.random() < 0.7 else {}
    more = {"num_inference_steps": 1, "seed": 0, **sizes}
    if random.random() < 0.2:
        pipeline("a cat", image=np.full((1, 16, 16, 3), 0.5, np.float32), **{**more, "height": None, "width": None})
    elif random.random() < 0.2:
        pipeline.vae.enable_tiling()
        pipeline(["a cat"], negative_prompt=["dog"], clip_skip=0, **more)
    else:
        pipeline("a cat", **more)


def _inspect(root: Path, _: Path, random: Random) -> None:
    from click.testing import CliRunner

    from diffoundry.runtime.cli.inspect import command

    _invoke(CliRunner(), command, [str(root), *(["--json"] if random.random() < 0.5 else [])])


def _invoke(runner: Any, command: Any, arguments: list[str]) -> None:
    """Run a command; its own errors pass, everything else is raised."""
    import click

    result = runner.invoke(command, arguments)
    passes = DiffoundryError | click.ClickException | SystemExit
    if result.exception is not None and not isinstance(result.exception, passes):
        raise result.exception


def _like(root: Path, path: Path, _: Random) -> None:
    from click.testing import CliRunner

    from diffoundry.runtime.cli.generate import command

    bundle, out = root / "bundle", root / "out.png"
    _invoke(CliRunner(), command, [str(bundle), "--like", str(path), "-o", str(out), "--threads", "1"])


def _prompts(root: Path, path: Path, _: Random) -> None:
    from click.testing import CliRunner

    from diffoundry.runtime.cli.generate import command

    more = ["--steps", "1", "-o", str(root / "out.png"), "--threads", "1"]
    _invoke(CliRunner(), command, [str(root / "bundle"), "--prompts", str(path), *more])


def _schedule(_: Path, path: Path, random: Random) -> None:
    from diffoundry.runtime.schedulers import scheduler_from_config

    scheduler = scheduler_from_config(path)
    scheduler.set_timesteps(random.choice((1, 3, 20)))
    scheduler.check_loop(channels=4, output_channels=4)
    sample = np.ones((1, 4, 4, 4), np.float32)
    for timestep in scheduler.model_timesteps[:4]:
        output = np.zeros_like(scheduler.scale_model_input(sample, timestep))
        sample = scheduler.loop_step(output, timestep, sample, generator=None).prev_sample


def _write_scheduler(folder: Path) -> None:
    """Write the default config of some schedulers, each under its name."""
    from diffoundry.runtime.schedulers import scheduler_class, scheduler_names

    for name in scheduler_names():
        if name not in ("VQDiffusionScheduler", "SCMScheduler"):
            config = {"_class_name": name, **scheduler_class(name)().config}
            (folder / f"{name}.json").write_text(json.dumps(config, default=str), encoding="utf-8")


def _tokenize(root: Path, _: Path, __: Random) -> None:
    from diffoundry.runtime.tokenizers.clip import ClipTokenizer

    ClipTokenizer.from_folder(root / "tokenizer")(["a cat", "", "<new> \u00e9\U0001f600 " + "x " * 40])


def _write_saved_tokenizer(root: Path) -> None:
    from diffoundry.runtime.tokenizers.clip import write_tokenizer_json

    write_small_tokenizer(root / "tokenizer")
    write_tokenizer_json(root / "tokenizer")


def _write_unigram(root: Path) -> None:
    """Write a T5 tokenizer: unigrams, their scores, and an end token."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), ("\u2581a", -2.5), ("cat", -3.0)]
    tokenizer = Tokenizer(models.Unigram([*words, *((letter, -5.0) for letter in "abcdefgh")], 2, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.save(str(root / "tokenizer.json"))
    config = {"model_max_length": 16, "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    (root / "tokenizer_config.json").write_text(json.dumps(config))
    (root / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<pad>", "eos_token": {"content": "</s>"}}))


def _tokenize_json(root: Path, _: Path, __: Random) -> None:
    from diffoundry.runtime.tokenizers.tokenizer_json import JsonTokenizer

    JsonTokenizer.from_folder(root)(["a cat", "", "\u00e9\U0001f600 " + "x " * 40], max_length=12)


def _write_lora(root: Path) -> None:
    one = np.ones((2, 8), np.float16)
    tensors = {"unet.to_q.lora_A.weight": one, "unet.to_q.lora_B.weight": one.T.copy()}
    config = json.dumps({"unet.lora_alpha": 2, "unet.r": 2, "unet.alpha_pattern": {"to_q": 4}, "unet.use_dora": False})
    _write_safetensors(root / "peft.safetensors", tensors, {"lora_adapter_metadata": config})
    _write_safetensors(root / "alpha.safetensors", {**tensors, "unet.to_q.alpha": one[0, 0]}, {"ss_network": "{}"})


def _read_lora(_: Path, path: Path, __: Random) -> None:
    from diffoundry.runtime.adapters.lora import Host, read_lora

    read_lora(path, {"unet": Host(layers={"to_q": (8, 8)}, config={"layers_per_block": 1})}, ["unet", "text_encoder"])


def _write_embedding(root: Path) -> None:
    _write_safetensors(root / "cat.safetensors", {"<cat>": np.ones((2, 8), np.float32)}, {"format": "pt"})


def _read_embedding(_: Path, path: Path, __: Random) -> None:
    from diffoundry.runtime.adapters.embedding import read_embedding

    read_embedding(path, None, {"text_encoder": 8})


def _write_safetensors(path: Path, tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    header: dict[str, Any] = {"__metadata__": metadata}
    body = b""
    for name, array in tensors.items():
        dtype = {"float16": "F16", "float32": "F32"}[array.dtype.name]
        span = [len(body), len(body) + array.nbytes]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": span}
        body += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def _write_images(root: Path) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 24, 3), np.uint8))
    exif = Image.Exif()
    exif[274] = 6
    texts = PngInfo()
    texts.add_text("Comment", "x" * 5000, zip=True)
    pixels.save(root / "a.png", pnginfo=texts, exif=exif)
    pixels.save(root / "a.jpg", exif=exif)
    for suffix in ("webp", "gif", "bmp", "tiff"):
        pixels.save(root / f"a.{suffix}")
    pixels.convert("P").save(root / "p.png", transparency=3)
    pixels.convert("I;16").save(root / "deep.png") if False else pixels.convert("L").save(root / "l.png")


def _read_image(_: Path, path: Path, __: Random) -> None:
    from diffoundry.runtime.images.pixels import preprocess
    from diffoundry.runtime.images.read import read_image_file

    image = read_image_file(path, "--image")
    if image.width * image.height < 10**6:
        preprocess(image, 16, 16, factor=8)


def _write_like(root: Path) -> None:
    from PIL import Image

    from diffoundry.runtime.images.save import save_image

    write_small_bundle(root / "bundle")
    settings = {
        "prompt": "a cat", "negative_prompt": None, "num_inference_steps": 1, "guidance_scale": 2.0, "eta": 0.0,
        "guidance_rescale": 0.0, "scheduler": "EulerDiscrete", "seed": [1], "height": 16, "width": 16,
        "num_images_per_prompt": 1, "clip_skip": 0, "prompt_weighting": True, "long_prompts": False, "strength": None,
        "lora": [], "embedding": [], "control_image": [], "vae_tiling": False,
    }  # fmt: skip
    save_image(Image.new("RGB", (16, 16)), root / "like.png", {k: v for k, v in settings.items() if v is not None})


def _write_prompts(root: Path) -> None:
    write_small_bundle(root / "bundle")
    (root / "prompts.txt").write_text("a cat\n\na dog\n", encoding="utf-8")


def _write_ranges(root: Path) -> None:
    (root / "calibration").mkdir()
    one = {"low": -1.0, "high": 2.0, "cuts": {"mse": {"int8": [-1.0, 1.5]}}, "step_low": [-1.0], "step_high": [2.0],
           "channel_low": [0.0], "channel_high": [1.0], "channel_power": [0.5]}  # fmt: skip
    text = json.dumps({"tensors": {"a": one, "b": one}, "format_version": 1})
    (root / "calibration/unet.json").write_text(text)


def _read_ranges(root: Path, _: Path, __: Random) -> None:
    from diffoundry.calibration.ranges import read_ranges

    read_ranges(root, "unet")


def _write_journal(root: Path) -> None:
    from diffoundry.exporter.jobs.journal import Journal

    Journal(root).note("unet", {"min": 1, "max": 4, "multiple_of": 2})


def _read_journal(root: Path, _: Path, __: Random) -> None:
    from diffoundry.exporter.jobs.journal import Journal
    from diffoundry.runtime.bundle.specs import DimSpec

    Journal(root).recall("unet", DimSpec)


def _write_checkpoint(root: Path) -> None:
    """Write the configs of a checkpoint; no weights are read when it is opened."""
    write_small_bundle(root / "bundle")
    for name in ("model_index.json", "scheduler", "tokenizer", "unet", "text_encoder"):
        (root / "bundle" / name).rename(root / name)
    (root / "bundle/vae_decoder").rename(root / "vae")
    for path in root.rglob("*.onnx*"):
        path.unlink()


def _open_checkpoint(root: Path, _: Path, __: Random) -> None:
    from diffoundry.exporter.checkpoints.checkpoint import Checkpoint

    checkpoint = Checkpoint.at(root, name="m", seed=0)
    checkpoint.bundle_model_index()
    checkpoint.bundle_files()


def _write_extractor(root: Path) -> None:
    config = {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": 16}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": 16, "width": 16}, "do_rescale": True, "rescale_factor": 0.0039,
        "do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "do_convert_rgb": True,
    }  # fmt: skip
    (root / "preprocessor_config.json").write_text(json.dumps(config))


def _extract(_: Path, path: Path, __: Random) -> None:
    from PIL import Image

    from diffoundry.runtime.bundle.manifest import parse_json
    from diffoundry.runtime.images.feature_extractor import FeatureExtractor

    FeatureExtractor.from_config(parse_json(path.read_bytes(), path))([Image.new("RGB", (20, 30))])


def _write_plan(root: Path) -> None:
    from diffoundry.runtime.schedulers import scheduler_class
    from diffoundry.runtime.schedulers.plans.lowering import lower

    scheduler = scheduler_class("DDIMScheduler")(clip_sample=False)
    scheduler.set_timesteps(3)
    (root / "plan.json").write_text(lower(scheduler).to_json())


def _read_plan(_: Path, path: Path, __: Random) -> None:
    from diffoundry.runtime.schedulers.plans.sampling_plan import SamplingPlan, execute

    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    plan = SamplingPlan.from_json(text)
    sample = np.ones((1, 4, 4, 4), np.float32)
    execute(plan, sample, lambda scaled, _: np.zeros_like(scaled), lambda: np.ones_like(sample))


_XML = """<?xml version="1.0"?>
<net name="m" version="11">
  <layers>
    <layer id="0" name="sample" type="Parameter" version="opset1">
      <data shape="?,4" element_type="f32" />
      <output><port id="0" precision="FP32" names="sample"><dim>-1</dim><dim>4</dim></port></output>
    </layer>
    <layer id="1" name="weight" type="Const" version="opset1">
      <data element_type="f32" shape="1, 4" offset="0" size="16" />
      <output><port id="0" precision="FP32"><dim>1</dim><dim>4</dim></port></output>
    </layer>
    <layer id="2" name="add" type="Add" version="opset1">
      <data auto_broadcast="numpy" />
      <input><port id="0"><dim>-1</dim><dim>4</dim></port><port id="1"><dim>1</dim><dim>4</dim></port></input>
      <output><port id="2" precision="FP32" names="out"><dim>-1</dim><dim>4</dim></port></output>
    </layer>
    <layer id="3" name="out/result" type="Result" version="opset1">
      <input><port id="0"><dim>-1</dim><dim>4</dim></port></input>
    </layer>
  </layers>
  <edges>
    <edge from-layer="0" from-port="0" to-layer="2" to-port="0" />
    <edge from-layer="1" from-port="0" to-layer="2" to-port="1" />
    <edge from-layer="2" from-port="2" to-layer="3" to-port="0" />
  </edges>
</net>
"""


def _write_xml(root: Path) -> None:
    (root / "m.xml").write_text(_XML)
    (root / "m.bin").write_bytes(np.ones(4, np.float32).tobytes())


def _read_xml(root: Path, _: Path, __: Random) -> None:
    from diffoundry.runtime.bundle.specs import EngineSpec, TensorSpec
    from diffoundry.runtime.engines.protocol import EngineOptions, run_checked
    from diffoundry.targets.openvino.run.engine import OpenVinoEngine

    inputs, outputs = (TensorSpec(name=name, dtype="float32", shape=("batch", 4)) for name in ("sample", "out"))
    spec = EngineSpec(
        target="openvino", precision="fp32", files=("m.xml", "m.bin"), inputs=(inputs,), outputs=(outputs,)
    )
    engine = OpenVinoEngine(root / "m.xml", spec, EngineOptions(device="cpu", threads=1))
    run_checked(engine, {"sample": np.ones((2, 4), np.float32)}, "unet")


_JSON = ("*.json",)

SUBJECTS = (
    Subject(name="manifest", weight=14, write=write_small_bundle, files=("diffoundry.json",), read=_generate),
    Subject(name="component configs", weight=12, write=write_small_bundle, files=("*/config.json",), read=_generate,
            sealed=True),
    Subject(name="model_index", weight=5, write=write_small_bundle, files=("model_index.json",), read=_generate,
            sealed=True),
    Subject(name="scheduler in a bundle", weight=4, write=write_small_bundle, files=("scheduler/*.json",),
            read=_generate, sealed=True),
    Subject(name="tokenizer in a bundle", weight=4, write=write_small_bundle, files=("tokenizer/*",), read=_generate,
            sealed=True),
    Subject(name="graphs", weight=6, write=write_small_bundle, files=("*/model.onnx",), read=_generate, kind="bytes",
            sealed=True),
    Subject(name="external data", weight=2, write=write_small_bundle, files=("*/model.onnx_data",), read=_generate,
            kind="bytes", sealed=True),
    Subject(name="OpenVINO", weight=2, write=_write_xml, files=("m.xml", "m.xml", "m.bin"), read=_read_xml,
            kind="text"),
    Subject(name="inspect", weight=6, write=write_small_bundle, files=("*.json", "scheduler/*.json"), read=_inspect,
            sealed=True),
    Subject(name="schedulers", weight=14, write=_write_scheduler, files=_JSON, read=_schedule),
    Subject(name="tokenizer files", weight=10, write=_write_saved_tokenizer, files=("tokenizer/*",), read=_tokenize),
    Subject(name="tokenizer.json", weight=6, write=_write_unigram, files=_JSON, read=_tokenize_json),
    Subject(name="LoRA", weight=6, write=_write_lora, files=("*",), read=_read_lora, kind="safetensors"),
    Subject(name="embedding", weight=4, write=_write_embedding, files=("*",), read=_read_embedding,
            kind="safetensors"),
    Subject(name="images", weight=6, write=_write_images, files=("*",), read=_read_image, kind="bytes"),
    Subject(name="--like", weight=6, write=_write_like, files=("like.png",), read=_like, kind="png"),
    Subject(name="--prompts", weight=2, write=_write_prompts, files=("prompts.txt",), read=_prompts, kind="text"),
    Subject(name="ranges", weight=3, write=_write_ranges, files=("calibration/*",), read=_read_ranges),
    Subject(name="journal", weight=3, write=_write_journal, files=("unet.json",), read=_read_journal),
    Subject(name="checkpoint", weight=8, write=_write_checkpoint,
            files=("model_index.json", "*/config.json", "scheduler/*.json", "tokenizer/*.json"), read=_open_checkpoint),
    Subject(name="feature extractor", weight=4, write=_write_extractor, files=_JSON, read=_extract),
    Subject(name="sampling plan", weight=2, write=_write_plan, files=_JSON, read=_read_plan),
)  # fmt: skip
