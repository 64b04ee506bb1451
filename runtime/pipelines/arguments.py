"""Sorts the arguments of a call to whom they belong: the request, the prompts, the task."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.tasks.base import Task

__all__ = ["sort_arguments"]


def sort_arguments(
    given: Mapping[str, Any], kinds: Sequence[type[Any]], task: type[Task], possible: Sequence[type[Task]]
) -> list[Any]:
    """One object of each kind, made of the arguments that are its fields.

    Args:
        given: Name to value.
        kinds: Dataclasses without a field in common.
        task: That was chosen.
        possible: That could have been: they tell what an argument without a home is for.

    Raises:
        InputError: An argument that none of them has, or one that is missing.
    """
    names = [{field.name for field in fields(kind)} for kind in kinds]
    known = set().union(*names)
    for name in given:
        if name not in known:
            raise InputError(_homeless(name, known, task, possible))
    for kind in kinds:
        for field in fields(kind):
            if field.default is MISSING and field.default_factory is MISSING and field.name not in given:
                raise InputError(f"{field.name}: got none, expected one")
    return [
        kind(**{name: value for name, value in given.items() if name in own})
        for kind, own in zip(kinds, names, strict=True)
    ]


def _homeless(name: str, known: set[str], task: type[Task], possible: Sequence[type[Task]]) -> str:
    """The sentence for an argument that nobody takes."""
    others = [other for other in possible if other is not task and name in {field.name for field in fields(other)}]  # type: ignore[arg-type]  # every task is a dataclass
    if others:
        ways = ", or ".join(f"{' and '.join(other.needs)} for {other.label}" for other in reversed(others))
        return f"{name}: {task.label} has no such argument; pass {ways} too"
    return f"{name}: no such argument, expected one of {', '.join(sorted(known))}"
