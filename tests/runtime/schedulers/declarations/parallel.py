"""DDIM and DDPM for parallel sampling: the option values of DDIM and DDPM."""

from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def _declaration(stem):
    spec = spec_from_file_location(f"scheduler_declarations_of_{stem}", Path(__file__).with_name(f"{stem}.py"))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DECLARATIONS[0]


DECLARATIONS = [
    replace(_declaration("ddim"), name="DDIMParallelScheduler"),
    replace(_declaration("ddpm"), name="DDPMParallelScheduler", at_least=40),
]
