"""Library, driver and GPU of this machine, and a sentence for what a build lacks here."""

from collections.abc import Sequence
from dataclasses import dataclass

from diffoundry.targets.tensorrt.cuda import Gpu, find_cuda, list_gpus
from diffoundry.targets.tensorrt.gpu_types import describe
from diffoundry.targets.tensorrt.sdk import RTX, Sdk

__all__ = ["Host", "find_host"]

_THEN = "run 'diffoundry build DIR'"

_MEANWHILE = (
    f"to compile on this machine, '--target {RTX.name}' builds without a GPU for GeForce and RTX cards "
    f"({', '.join(map(describe, RTX.compute_capabilities))})"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """Library and GPUs of this machine.

    Attributes:
        sdk: The library of the target.
        version: Its version, or None when it is not installed.
        gpus: The GPUs that `cuda-python` finds.
        has_cuda: True if `cuda-python` is installed.
    """

    sdk: Sdk
    version: str | None
    gpus: tuple[Gpu, ...]
    has_cuda: bool

    def obstacle(self, needs_gpu: Sequence[str]) -> str | None:
        """Why nothing can be built here and what to do, or None.

        Args:
            needs_gpu: Options, as they are typed, that this library only honours where a GPU is.
        """
        sdk = self.sdk
        extra = f"install diffoundry with its extra '{sdk.name}'"
        if self.version is None:
            if sdk.builds_without_gpu:
                return f"{sdk.product} is not installed: {extra}, which needs no GPU to compile, then {_THEN}"
            return f"{sdk.product} is not installed: on the GPU machine, {extra} and {_THEN}; {_MEANWHILE}"
        if self.gpus or (sdk.builds_without_gpu and not needs_gpu):
            return None
        if not self.has_cuda:
            return f"cuda-python, which finds the GPU, is not installed: {extra}, then {_THEN}"
        if needs_gpu:
            return (
                f"{sdk.product} needs a GPU to build with {' and '.join(needs_gpu)}: "
                f"on the GPU machine, {extra} and {_THEN}"
            )
        return (
            f"{sdk.product} builds on the GPU that will run the engine, and here is none: on the GPU machine, "
            f"{extra} and {_THEN}; {_MEANWHILE}"
        )

    @property
    def gpu(self) -> Gpu | None:
        """The GPU of a build without compute capabilities: the first."""
        return self.gpus[0] if self.gpus else None


def find_host(sdk: Sdk) -> Host:
    """Look around; nothing is loaded but `cuda-python`."""
    cuda = find_cuda()
    return Host(
        sdk=sdk,
        version=sdk.version if sdk.installed else None,
        gpus=list_gpus(cuda),
        has_cuda=cuda is not None,
    )
