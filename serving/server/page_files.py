"""The files of the page that the server shows at /."""

from pathlib import Path

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

__all__ = ["PAGE", "PageFiles"]

PAGE = Path(__file__).parent.parent / "page"


class PageFiles(StaticFiles):
    """Static files that a browser asks for again each time, so that one version's files never meet another's."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, or 304 where the browser has it."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response
