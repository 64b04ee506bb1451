"""The folder of the page that the server shows at /."""

from pathlib import Path

__all__ = ["PAGE"]

PAGE = Path(__file__).parent.parent / "page"
