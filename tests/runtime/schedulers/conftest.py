"""Shared by the schedulers' tests: their declarations, and one parameter for each table of cases."""

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
    """Fill `declaration`, and `cases` with its few cases and, among the slow tests, with all of them.

    The scope makes the tests of one table follow each other, so that they share what is planned and run for it.
    """
    names = metafunc.fixturenames
    if "cases" in names:
        params = [param for declaration in declarations() for param in _tables(declaration)]
        metafunc.parametrize(("declaration", "cases"), params, indirect=["cases"], scope="module")
    elif "declaration" in names:
        metafunc.parametrize("declaration", declarations(), ids=lambda d: d.name)


def _tables(declaration) -> Iterator:
    yield pytest.param(declaration, lambda: declaration.few_cases, id=declaration.name)
    yield pytest.param(
        declaration,
        lambda: [*declaration.cases, *declaration.further_cases],
        id=f"{declaration.name}-all",
        marks=pytest.mark.slow,
    )


@pytest.fixture(scope="module")
def cases(request: pytest.FixtureRequest) -> list:
    """The table of cases that a test checks; made here, because it takes seconds for all declarations."""
    return request.param()


@pytest.fixture(scope="session")
def all_declarations() -> list:
    """Every declaration."""
    return declarations()
