"""Random numbers without torch: the streams of torch's generators and of NumPy, number for number."""

from diffoundry.runtime.random.base import Generator
from diffoundry.runtime.random.factory import GeneratorKind, make_generator, randn_tensor
from diffoundry.runtime.random.native import describe_random_numbers
from diffoundry.runtime.random.numpy_generator import NumpyGenerator
from diffoundry.runtime.random.torch_cpu import TorchCpuGenerator
from diffoundry.runtime.random.torch_cuda import TorchCudaGenerator
from diffoundry.runtime.random.torch_generator import GeneratorInput, TorchGenerator, as_generator, as_generators

__all__ = [
    "Generator",
    "GeneratorInput",
    "GeneratorKind",
    "NumpyGenerator",
    "TorchCpuGenerator",
    "TorchCudaGenerator",
    "TorchGenerator",
    "as_generator",
    "as_generators",
    "describe_random_numbers",
    "make_generator",
    "randn_tensor",
]
