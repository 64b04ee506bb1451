"""Fixtures for all tests: tiny random checkpoints and the bundles made of them, each made once a session."""

import gc
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from slow_cases import mark_slow_cases

_frozen_modules = 0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the cases that are slow, before `-m` chooses."""
    some = config.getoption("lf", default=False) or any("::" in word for word in config.args)
    mark_slow_cases(items, whole=not some)


def pytest_collection_finish() -> None:
    """Spare the collected tests from garbage collection."""
    _freeze_modules()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Spare what the test imported from garbage collection."""
    _freeze_modules()


def _freeze_modules() -> None:
    """Freeze all objects alive, if many modules are new.

    coremltools and torch collect garbage in every conversion. Over the objects of all modules and tests that takes
    half a second, which was nine tenths of a small test.
    """
    global _frozen_modules  # noqa: PLW0603
    if len(sys.modules) > _frozen_modules + 50:
        gc.collect()
        gc.freeze()
        _frozen_modules = len(sys.modules)


@pytest.fixture(scope="session", autouse=True)
def _sessions() -> Iterator[None]:
    """Open each session of ONNX Runtime once, and read each tokenizer once."""
    if find_spec("onnxruntime") is None:
        yield
        return
    from shared_sessions import share_sessions, share_tokenizer_files

    with share_sessions(), share_tokenizer_files():
        yield


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all test processes of a session see; take a `FileLock` to make something in it."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def tiny_sd_checkpoint(shared_folder: Path) -> Callable[[str], Path]:
    """Factory: the folder of a tiny random checkpoint, by its name in `support/tiny_checkpoints.py`.

    Shared, so never write into it.
    """
    from tiny_checkpoints import write_tiny_checkpoint

    def make(variant: str = "sd1") -> Path:
        folder = shared_folder / f"tiny-{variant}"
        with FileLock(shared_folder / f"tiny-{variant}.lock"):
            if not (folder / "model_index.json").is_file():
                write_tiny_checkpoint(folder, variant)
        return folder

    return make


@pytest.fixture(scope="session")
def system_checkpoint(shared_folder: Path) -> Callable[..., Path]:
    """Factory: the folder of a tiny random checkpoint, `system_checkpoint(name, make)`; shared, so never write into it.

    `make(folder)` writes it, with a seed of its own. A name stands for one `make`.
    """

    def find(name: str, make: Callable[[Path], Any]) -> Path:
        import torch

        folder = shared_folder / f"system-{name}"
        with FileLock(shared_folder / f"system-{name}.lock"):
            if not (folder / "model_index.json").is_file():
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)
                    make(folder)
        return folder

    return find


@pytest.fixture(scope="session")
def exported(shared_folder: Path) -> Callable[..., Path]:
    """Factory: the bundle of a model, for ONNX Runtime unless said otherwise; shared, so copy it before changing it.

    `exported("emoji")`, `exported(folder, precision="fp16", dims={"batch": DimSpec(min=2, max=2)})`,
    `exported("emoji", target="openvino", precision="bf16,fp32", options={"openvino": {...}})`,
    `exported("sd15", random_weights=True)`.
    """
    from shared_jobs import share_graphs, share_tokenizers

    run = share_graphs(shared_folder / "graphs")

    def make(
        model: str | Path,
        *,
        target: str = "onnxruntime",
        precision: str = "fp32",
        options: dict[str, dict[str, Any]] | None = None,
        random_weights: bool = False,
        controlnets: tuple[str, ...] = (),
        t2i_adapters: tuple[str, ...] = (),
        ip_adapters: tuple[str, ...] = (),
        vae: Path | None = None,
        pipeline: str | None = None,
        attention_control: bool = False,
        without: tuple[str, ...] = (),
        loras: tuple[str, ...] = (),
        **request: Any,
    ) -> Path:
        from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
        from diffoundry.exporter.cli.export import read_loras
        from diffoundry.exporter.export import export
        from diffoundry.exporter.request import ExportRequest
        from diffoundry.runtime.bundle.specs import Variant

        more = controlnets, t2i_adapters, ip_adapters, vae, pipeline, attention_control, without, loras
        asked_for = (str(model), target, precision, options, random_weights, *more, sorted(request.items()))
        key = hashlib.sha256(repr(asked_for).encode()).hexdigest()[:12]
        bundle = shared_folder / f"{Path(model).name}-{key}.bundle"
        with FileLock(shared_folder / f"{bundle.name}.lock"):
            if not bundle.is_dir():
                variants = tuple(
                    Variant(target=name, precision=word, options=(options or {}).get(name, {}))
                    for name in target.split(",")
                    for word in precision.split(",")
                )
                asked = ExportRequest(variants=variants, **request)
                other = None if vae is None else str(vae)
                parts: dict[str, Any] = {"vae": other, "pipeline": pipeline, "without": without}
                opened = open_checkpoint(str(model), random_weights=random_weights, **parts)
                joined = opened.with_controlnets(controlnets).with_t2i_adapters(t2i_adapters)
                whole = joined.with_ip_adapters(ip_adapters)
                checkpoint = whole.with_loras(read_loras(loras)).with_attention_control(asked=attention_control)
                with share_tokenizers(shared_folder / "tokenizers"):
                    export(checkpoint, asked, bundle, lambda *_: None, run=run)
        return bundle

    return make


@pytest.fixture(scope="session")
def wide_bundle(exported: Callable[..., Path], tiny_sd_checkpoint: Callable[[str], Path]) -> Callable[[str], Path]:
    """Factory: the bundle of a tiny checkpoint for both CPU targets in fp32 and fp16; one export for all its tests."""
    return lambda variant: exported(tiny_sd_checkpoint(variant), target="onnxruntime,openvino", precision="fp32,fp16")


_WIDE = ("sd1-checked", "sd1-tiny", "variation")
"""Whose tests share a wide bundle."""

_BOTH = ("sd3",)
"""Whose tests share a bundle for both CPU targets in fp32."""


@pytest.fixture(scope="session")
def portable_bundle(
    exported: Callable[..., Path], tiny_sd_checkpoint: Callable[[str], Path], wide_bundle: Callable[[str], Path]
) -> Callable[[str], Path]:
    """Factory: a bundle with the portable graphs of a tiny checkpoint, the one that its other tests export."""

    def find(variant: str) -> Path:
        if variant in _WIDE:
            return wide_bundle(variant)
        more = {"target": "onnxruntime,openvino"} if variant in _BOTH else {}
        return exported(tiny_sd_checkpoint(variant), **more)

    return find


@pytest.fixture(scope="session")
def tiny_controlnet(shared_folder: Path) -> Callable[..., Path]:
    """Factory: the folder of a tiny random ControlNet for a checkpoint of `tiny_sd_checkpoint`; shared.

    Different names give different weights; "pooled" is one that knows no places.
    """
    from tiny_checkpoints import write_tiny_controlnet

    def make(base: str = "sd1", name: str = "first") -> Path:
        folder = shared_folder / f"tiny-{base}-control-{name}"
        with FileLock(shared_folder / f"{folder.name}.lock"):
            if not (folder / "config.json").is_file():
                write_tiny_controlnet(folder, base, name)
        return folder

    return make


@pytest.fixture(scope="session")
def controlled_bundle(
    exported: Callable[..., Path],
    tiny_sd_checkpoint: Callable[[str], Path],
    tiny_controlnet: Callable[..., Path],
) -> Callable[..., Path]:
    """Factory: as `exported`, the bundle of a tiny checkpoint with ControlNets of these names; shared.

    The usual one has engines of both targets for the CPU in every precision of floats.
    """

    def make(base: str = "sd1", nets: tuple[str, ...] = ("first",), **request: Any) -> Path:
        joined = tuple(str(tiny_controlnet(base, net)) for net in nets)
        if (base, nets, request) == ("sd1", ("first",), {}):
            request = {"target": "onnxruntime,openvino", "precision": "fp32,fp16,bf16"}
        return exported(tiny_sd_checkpoint(base), controlnets=joined, **request)

    return make


@pytest.fixture(scope="session")
def edited_bundle(exported: Callable[..., Path], tiny_sd_checkpoint: Callable[[str], Path]) -> Path:
    """The bundle of a tiny checkpoint whose UNet takes edits of its attention, for both CPU targets; shared."""
    return exported(tiny_sd_checkpoint("sd1-edited"), target="onnxruntime,openvino", attention_control=True)


@pytest.fixture(scope="session")
def tiny_t2i_adapter(shared_folder: Path) -> Callable[..., Path]:
    """Factory: the folder of a tiny random T2I-Adapter for a checkpoint of `tiny_sd_checkpoint`; shared.

    The kinds are those of `write_tiny_t2i_adapter`.
    """
    from tiny_checkpoints import write_tiny_t2i_adapter

    def make(base: str = "sd1-small", kind: str = "full") -> Path:
        folder = shared_folder / f"tiny-{base}-t2i-{kind}"
        with FileLock(shared_folder / f"{folder.name}.lock"):
            if not (folder / "config.json").is_file():
                write_tiny_t2i_adapter(folder, base, kind)
        return folder

    return make


@pytest.fixture(scope="session")
def adapted_bundle(
    exported: Callable[..., Path],
    tiny_sd_checkpoint: Callable[[str], Path],
    tiny_t2i_adapter: Callable[..., Path],
) -> Callable[..., Path]:
    """Factory: the bundle of a tiny checkpoint with T2I-Adapters of these kinds, for both CPU targets; shared."""

    def make(base: str = "sd1-small", kinds: tuple[str, ...] = ("full", "grey")) -> Path:
        joined = tuple(str(tiny_t2i_adapter(base, kind)) for kind in kinds)
        return exported(tiny_sd_checkpoint(base), t2i_adapters=joined, target="onnxruntime,openvino")

    return make


@pytest.fixture(scope="session")
def tiny_ip_adapter(shared_folder: Path, tiny_sd_checkpoint: Callable[[str], Path]) -> Callable[..., Path]:
    """Factory: the file of a tiny random IP-Adapter for a checkpoint of `tiny_sd_checkpoint`, beside its image encoder.

    The kinds are those of `write_tiny_ip_adapter`.
    """
    from tiny_ip_adapters import write_tiny_image_encoder, write_tiny_ip_adapter

    def make(base: str = "sd1-small", kind: str = "plain") -> Path:
        folder = shared_folder / f"tiny-{base}-ip"
        path = folder / f"ip-adapter-{kind}.safetensors"
        with FileLock(shared_folder / f"{folder.name}.lock"):
            if not folder.is_dir():
                write_tiny_image_encoder(folder / "image_encoder")
            if not path.is_file():
                write_tiny_ip_adapter(path, tiny_sd_checkpoint(base) / "unet", kind)
        return path

    return make


@pytest.fixture(scope="session")
def image_prompt_bundle(
    exported: Callable[..., Path],
    tiny_sd_checkpoint: Callable[[str], Path],
    tiny_ip_adapter: Callable[..., Path],
) -> Callable[..., Path]:
    """Factory: the bundle of a tiny checkpoint with IP-Adapters of these kinds, for both CPU targets; shared."""

    def make(base: str = "sd1-small", kinds: tuple[str, ...] = ("plain", "plus")) -> Path:
        joined = tuple(str(tiny_ip_adapter(base, kind)) for kind in kinds)
        return exported(tiny_sd_checkpoint(base), ip_adapters=joined, target="onnxruntime,openvino")

    return make


@pytest.fixture(scope="session")
def work_here() -> Callable[..., Any]:
    """Run the jobs of an export in this process, because a process of its own costs seconds."""
    from shared_jobs import work_here

    return work_here


@pytest.fixture(scope="session")
def emoji_bundle(exported: Callable[..., Path]) -> Path:
    """The embedded model for ONNX Runtime in fp32; shared, so copy it before changing it."""
    return exported("emoji")
