"""Marks some cases of a parametrized test as slow."""

from collections import defaultdict
from fnmatch import fnmatchcase

import pytest

__all__ = ["mark_slow_cases"]


def mark_slow_cases(items: list[pytest.Item], *, whole: bool) -> None:
    """Mark the cases as slow whose ids match a pattern of `@pytest.mark.slow_cases("*-openvino", "xl-*")`.

    Args:
        items: The collected tests.
        whole: Every case of a test was collected, so that each pattern must match one.

    Raises:
        pytest.UsageError: A pattern matches no case.
    """
    cases: dict[tuple[str, str], list[str]] = defaultdict(list)
    patterns: dict[tuple[str, str], list[str]] = {}
    for item in items:
        words = [word for marker in item.iter_markers("slow_cases") for word in marker.args]
        if not words or not isinstance(item, pytest.Function):
            continue
        test = str(item.path), item.originalname
        case = item.callspec.id if hasattr(item, "callspec") else ""
        cases[test].append(case)
        patterns[test] = words
        if any(fnmatchcase(case, pattern) for pattern in words):
            item.add_marker(pytest.mark.slow)
    unused = [
        f"{path}::{name}: slow_cases: {pattern!r} matches none of {ids[:9]}"
        for (path, name), ids in cases.items()
        for pattern in patterns[path, name]
        if not any(fnmatchcase(case, pattern) for case in ids)
    ]
    if whole and unused:
        raise pytest.UsageError("\n".join(unused))
