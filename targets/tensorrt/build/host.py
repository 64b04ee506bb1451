"""What this machine offers to a build: the library, the driver, the GPU; and a sentence for what it lacks."""

from collections.abc import Sequence
from dataclasses import dataclass

from diffoundry.targets.tensorrt.cuda import Gpu, find_cuda, list_gpus
from diffoundry.targets.tensorrt.gpu_types import describe
from diffoundry.targets.tensorrt.sdk import RTX, Flavour

__all__ = ["Workplace", "find_workplace"]

_THEN = "run 'diffoundry build DIR'"

_MEANWHILE = (
    f"to compile on this machine, '--target {RTX.name}' builds without a GPU for GeForce and RTX cards "
    f"({', '.join(map(describe, RTX.compute_capabilities))})"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Workplace:
    """What is here.

    Attributes:
        flavour: The library that is asked for.
        version: Its version, or None when it is not installed.
        gpus: The GPUs, which only `cuda-python` can tell of.
        has_cuda: Whether `cuda-python` is installed.
    """

    flavour: Flavour
    version: str | None
    gpus: tuple[Gpu, ...]
    has_cuda: bool

    def obstacle(self, needs_gpu: Sequence[str]) -> str | None:
        """Why nothing can be built here and what to do, or None.

        Args:
            needs_gpu: Options, as they are typed, that this library only honours where a GPU is.
        """
        flavour = self.flavour
        extra = f"pip install 'diffoundry[{flavour.name}]'"
        if self.version is None:
            if flavour.builds_without_gpu:
                return f"{flavour.product} is not installed: {extra}, which needs no GPU to compile, then {_THEN}"
            return f"{flavour.product} is not installed: on the GPU machine, {extra} and {_THEN}; {_MEANWHILE}"
        if self.gpus or (flavour.builds_without_gpu and not needs_gpu):
            return None
        if not self.has_cuda:
            return f"cuda-python, which finds the GPU, is not installed: {extra}, then {_THEN}"
        if needs_gpu:
            return (
                f"{flavour.product} needs a GPU to build with {' and '.join(needs_gpu)}: "
                f"on the GPU machine, {extra} and {_THEN}"
            )
        return (
            f"{flavour.product} builds on the GPU that will run the engine, and here is none: on the GPU machine, "
            f"{extra} and {_THEN}; {_MEANWHILE}"
        )

    @property
    def gpu(self) -> Gpu | None:
        """The GPU that a build for "the one that is there" is for: the first."""
        return self.gpus[0] if self.gpus else None


def find_workplace(flavour: Flavour) -> Workplace:
    """Look around; nothing is loaded but `cuda-python`."""
    cuda = find_cuda()
    return Workplace(
        flavour=flavour,
        version=flavour.version if flavour.installed else None,
        gpus=list_gpus(cuda),
        has_cuda=cuda is not None,
    )
