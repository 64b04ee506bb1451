"""The length of what a reader of a scheduler must read: a scheduler is only as readable as the files it imports."""

import ast
from pathlib import Path

import diffoundry.runtime.schedulers as package

ROOT = Path(package.__file__).parent
PREFIX = "diffoundry.runtime.schedulers."
ASIDE = {
    "arithmetic/beta_quantile.py",  # SciPy's function of this name
    "check_options.py",  # the check of options and, next, of arguments
    "run_request.py",
    "config.py",  # reading and writing of configs
    "configurable.py",
    "loop_interface.py",  # the side that pipelines call
    "guard.py",  # failures of arithmetic as errors
    "option_ranges.py",
    "step_arguments.py",  # diffusers' return_dict and device
}
"""Files that one can leave out: they neither place a noise level nor move a sample."""


def _imported(path):
    """The files of this package that a file imports, those for type checking alone left out."""
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.ImportFrom) or not f"{node.module}.".startswith(PREFIX):
            continue
        folder = ROOT / node.module[len(PREFIX) :].replace(".", "/")
        names = [folder.with_suffix(".py"), *(folder / f"{alias.name}.py" for alias in node.names)]
        yield from (name for name in names if name.exists())


def _closure(path):
    found, waiting = set(), [path]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported(path)
    return {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in found}


def test_euler_is_read_in_900_lines():
    lines = _closure(ROOT / "algorithms/euler_discrete.py")
    assert set(lines) >= ASIDE
    to_read = {name: count for name, count in lines.items() if name not in ASIDE}
    assert sum(to_read.values()) <= 900, to_read
