"""Fixtures for all tests: tiny random checkpoints and the bundles made of them, each made once a session."""

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).parent / "support"))  # modules of names of their own


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
