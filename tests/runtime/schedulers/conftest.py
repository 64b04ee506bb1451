"""Shared by the schedulers' tests: one parameter for each declared case."""

import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Silence the warnings of diffusers' own calls of NumPy and torchsde."""
    config.addinivalue_line("filterwarnings", "ignore:__array_:DeprecationWarning")
    config.addinivalue_line("filterwarnings", "ignore:Should have t:UserWarning")


def _load(path: Path) -> list:
    spec = importlib.util.spec_from_file_location(f"scheduler_declarations_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DECLARATIONS


@cache
def declarations() -> list:
    """Every declaration in `declarations/*.py`, by class name."""
    found = [declaration for path in sorted((HERE / "declarations").glob("*.py")) for declaration in _load(path)]
    return sorted(found, key=lambda declaration: declaration.name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Fill `declaration`; with `case`, each of its cases; with `refusal`, each of its refusals.

    The scope makes the tests of one case follow each other, so that they share what is planned and run for it.
    """
    names = metafunc.fixturenames
    if "declaration" not in names:
        return
    if "case" in names:
        params = [param for declaration in declarations() for param in _case_params(declaration)]
        metafunc.parametrize(("declaration", "case"), params, scope="module")
    elif "refusal" in names:
        params = [(d, refusal, f"{d.name}-{i:02}") for d in declarations() for i, refusal in enumerate(d.refusals)]
        metafunc.parametrize(("declaration", "refusal"), [p[:2] for p in params], ids=[p[2] for p in params])
    else:
        metafunc.parametrize("declaration", declarations(), ids=lambda d: d.name)


def _case_params(declaration) -> Iterator:
    for i, case in enumerate(declaration.cases):
        yield pytest.param(declaration, case, id=f"{declaration.name}-{i:03}")
    for i, case in enumerate(declaration.further_cases, start=len(declaration.cases)):
        yield pytest.param(declaration, case, id=f"{declaration.name}-{i:03}", marks=pytest.mark.slow)


@pytest.fixture(scope="session")
def all_declarations() -> list:
    """Every declaration."""
    return declarations()
