"""Precisions that an engine offers on this machine's processor, for tests that must not assume one."""

import pytest

from diffoundry.runtime.engines.plugins import find_plugin

__all__ = ["offers", "requires_precision"]


def offers(target: str, precision: str, device: str = "cpu") -> bool:
    """Return whether `target` computes in `precision` itself on `device`, as the plugin says it does."""
    return precision in find_plugin(target).load("precisions")(device)


def requires_precision(target: str, precision: str, device: str = "cpu") -> None:
    """Skip the running test where `target` does not compute in `precision` on `device`.

    `tests/targets/test_offered_precisions.py` checks that such an engine is refused.
    """
    if not offers(target, precision, device):
        pytest.skip(f"{target} does not compute in {precision} on this machine's {device}")
