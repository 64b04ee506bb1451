"""Openers of the compared systems: PyTorch, the plain traced graph in ONNX Runtime and OpenVINO, OpenVINO GenAI."""

import gc
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "genai_image",
    "onnxruntime_unet",
    "openvino_unet",
    "our_image",
    "our_unet",
    "plain_graph",
    "torch_calls",
    "torch_image",
    "torch_unet",
    "unet_feeds",
]

Opened = tuple[Callable[[], Any], dict[str, Any]]


def plain_graph(
    model: str, *, random_weights: bool, size: int, batch: int, folder: Path, flexible: bool = False
) -> Path:
    """Export the UNet by `torch.onnx.export`: `<folder>/plain-<size>-<batch>/model.onnx`.

    Its sizes are fixed, or free if `flexible`, and the folder is `plain-any` then.
    """
    import torch

    from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint

    path = folder / ("plain-any" if flexible else f"plain-{size}-{batch}") / "model.onnx"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    module = open_checkpoint(model, random_weights=random_weights).load("unet")
    feeds = unet_feeds(module.config, size, batch)
    arguments = tuple(torch.from_numpy(array) for array in feeds.values())
    options: dict[str, Any] = {"input_names": list(feeds), "output_names": ["out_sample"]}
    if flexible:
        axes = {"sample": (0, 2, 3), "timestep": (), "encoder_hidden_states": (0,)}
        free = torch.export.Dim.DYNAMIC
        options["dynamic_shapes"] = tuple(dict.fromkeys(axes.get(name, (0,)), free) for name in feeds)
    torch.onnx.export(_with_tensors(module), arguments, path, dynamo=True, **options)
    return path


def unet_feeds(config: Mapping[str, Any], size: int, batch: int) -> dict[str, np.ndarray]:
    """Make seeded inputs of one call of a UNet with this config, including those of Stable Diffusion XL."""
    rng = np.random.default_rng(0)
    feeds = {
        "sample": rng.standard_normal((batch, 4, size // 8, size // 8), dtype=np.float32),
        "timestep": np.asarray([481.0], np.float32),
        "encoder_hidden_states": rng.standard_normal((batch, 77, config["cross_attention_dim"]), dtype=np.float32),
    }
    if config.get("addition_embed_type") == "text_time":
        sizes = [size, size, 0, 0, size, size]
        pooled = config["projection_class_embeddings_input_dim"] - len(sizes) * config["addition_time_embed_dim"]
        feeds["text_embeds"] = rng.standard_normal((batch, pooled), dtype=np.float32)
        feeds["time_ids"] = np.asarray([sizes] * batch, np.float32)
    return feeds


def our_unet(bundle: str, target: str, precision: str, size: int, batch: int, *, native: bool = True) -> Opened:
    """Open an engine of a bundle."""
    from diffoundry.runtime.bundle.bundle import Bundle
    from diffoundry.runtime.engines.protocol import EngineOptions
    from diffoundry.runtime.engines.session import EngineSession

    components = EngineSession(Bundle(bundle), target=target, precision=precision, options=EngineOptions(native=native))
    components.engine("unet")
    feeds = unet_feeds(components.bundle.config("unet"), size, batch)
    return lambda: components.run("unet", feeds)["out_sample"], {"engine": f"{target} {precision}"}


def openvino_unet(graph: str, precision: str, config: Mapping[str, Any], size: int, batch: int) -> Opened:
    """Open OpenVINO on an unchanged graph, fixed in shape."""
    import openvino as ov

    kinds = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16}
    feeds = unet_feeds(config, size, batch)
    model = ov.Core().read_model(graph)
    model.reshape({name: list(array.shape) for name, array in feeds.items()})
    request = (
        ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": kinds[precision]}).create_infer_request()
    )
    return lambda: request.infer(feeds)[0].copy(), {"openvino": ov.__version__}


def onnxruntime_unet(graph: str, config: Mapping[str, Any], size: int, batch: int) -> Opened:
    """Open ONNX Runtime on an unchanged graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    feeds = unet_feeds(config, size, batch)
    return lambda: session.run(None, feeds)[0], {"onnxruntime": onnxruntime.__version__}


def torch_unet(model: str, dtype: str, size: int, batch: int, *, random_weights: bool, channels_last: bool) -> Opened:
    """Open PyTorch in eager mode."""
    import torch

    call_with = torch_calls(model, dtype, random_weights=random_weights, channels_last=channels_last)
    return call_with(size, batch), {"torch": torch.__version__}


def torch_calls(
    model: str, dtype: str, *, random_weights: bool, channels_last: bool
) -> Callable[[int, int], Callable[[], np.ndarray]]:
    """Open PyTorch in eager mode; the result makes a call for a size and a batch."""
    import torch

    from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint

    module = open_checkpoint(model, random_weights=random_weights).load("unet")
    kind = getattr(torch, dtype)
    module = torch.nn.Module.to(module, kind)
    if channels_last:
        module = torch.nn.Module.to(module, memory_format=torch.channels_last)
    gc.collect()
    plain = _with_tensors(module)

    def call_with(size: int, batch: int) -> Callable[[], np.ndarray]:
        tensors = [torch.from_numpy(array).to(kind) for array in unet_feeds(module.config, size, batch).values()]

        def call() -> np.ndarray:
            with torch.inference_mode():
                result: np.ndarray = plain(*tensors).float().numpy()
                return result

        return call

    return call_with


def torch_image(model: str, request: Mapping[str, Any], dtype: str, *, random_weights: bool) -> Opened:
    """Open diffusers' pipeline of the checkpoint."""
    import torch

    from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
    from diffoundry.exporter.reference.pipeline import reference_pipeline

    kind = getattr(torch, dtype)
    pipeline = reference_pipeline(open_checkpoint(model, random_weights=random_weights), kind)
    pipeline.set_progress_bar_config(disable=True)

    def call() -> tuple[float, Any]:
        start = time.perf_counter()
        result = pipeline(
            request["prompt"],
            num_inference_steps=request["steps"],
            guidance_scale=request["guidance_scale"],
            height=request["size"],
            width=request["size"],
            generator=torch.Generator().manual_seed(request["seed"]),
            output_type="np",
        )
        return time.perf_counter() - start, {"image": np.rint(result.images[0] * 255).astype(np.uint8)}

    return call, {"torch": torch.__version__}


def genai_image(bundle: str, request: Mapping[str, Any], precision: str) -> Opened:
    """Open OpenVINO GenAI's pipeline on the same bundle; it starts from our latents."""
    import openvino_genai as genai

    kind = {"fp32": "f32", "bf16": "bf16"}[precision]
    pipeline = genai.Text2ImagePipeline(bundle, "CPU", INFERENCE_PRECISION_HINT=kind)

    def call() -> tuple[float, Any]:
        start = time.perf_counter()
        image = pipeline.generate(
            request["prompt"],
            num_inference_steps=request["steps"],
            guidance_scale=request["guidance_scale"],
            height=request["size"],
            width=request["size"],
            generator=genai.TorchGenerator(request["seed"]),
        )
        seconds = time.perf_counter() - start
        unet = pipeline.get_performance_metrics().get_unet_infer_duration().mean / 1e3
        return seconds, {"image": np.asarray(image.data)[0], "unet": unet}

    return call, {"openvino_genai": genai.__version__}


def our_image(
    bundle: str, request: Mapping[str, Any], target: str, precision: str, threads: int | None = None
) -> Opened:
    """Open our runtime's pipeline."""
    from diffoundry.runtime import load

    pipeline = load(bundle, target=target, precision=precision, threads=threads)
    pipeline.session.open_all(("text_encoder", "unet", "vae_decoder"))
    calls: list[float] = []

    def note(name: str, _feeds: Any, _outputs: Any, seconds: float) -> None:
        if name == "unet":
            calls.append(seconds)

    pipeline.session.on_call = note

    def call() -> tuple[float, Any]:
        calls.clear()
        start = time.perf_counter()
        image = pipeline(
            request["prompt"],
            num_inference_steps=request["steps"],
            guidance_scale=request["guidance_scale"],
            height=request["size"],
            width=request["size"],
            seed=request["seed"],
            output_type="np",
        ).images[0]
        seconds = time.perf_counter() - start
        return seconds, {"image": np.rint(np.asarray(image) * 255).astype(np.uint8), "unet": float(np.mean(calls))}

    return call, {"engine": f"{target} {precision}"}


def _with_tensors(unet: Any) -> Any:
    """Wrap the UNet so that inputs and output are tensors."""
    import torch

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = unet

        def forward(
            self, sample: Any, timestep: Any, encoder_hidden_states: Any, text_embeds: Any = None, time_ids: Any = None
        ) -> Any:
            added = None if text_embeds is None else {"text_embeds": text_embeds, "time_ids": time_ids}
            return self.unet(sample, timestep, encoder_hidden_states, added_cond_kwargs=added, return_dict=False)[0]

    return Plain()
