"""Names of tensors in packages."""

import re

__all__ = ["clean_name"]


def clean_name(name: str) -> str:
    """A name of letters, digits and underscores, as packages want them."""
    cleaned = re.sub(r"\W", "_", name, flags=re.ASCII)
    return cleaned if cleaned and not cleaned[0].isdigit() else f"_{cleaned}"
