"""Reads the pages of the documentation: their code blocks and their links."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/*/README.md")])
}
"""Path in the repository to the file, of every page."""

_FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_EXCEPTION = re.compile(r"<!-- not run: (.+?) -->\s*\Z", re.DOTALL)
_LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One code block of a page.

    Attributes:
        language: The word behind the fence: "sh" and "python" blocks are run.
        text: Its lines.
        line: Line number of the fence.
        exception: Why it is not run, from the comment `<!-- not run: reason -->` before it, or None.
    """

    language: str
    text: str
    line: int
    exception: str | None


def blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of a page that hold commands or Python."""
    text = PAGES[page].read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        before = text[: match.start()]
        reason = _EXCEPTION.search(before)
        yield Block(
            language=match[1],
            text=match[2],
            line=before.count("\n") + 1,
            exception=reason[1] if reason else None,
        )


def commands(block: Block) -> list[str]:
    """Split a block of a shell into commands; a backslash continues a line."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def links(page: str) -> list[str]:
    """List the relative links and images of a page, without those in code blocks."""
    text = _FENCE.sub("", PAGES[page].read_text(encoding="utf-8"))
    return [link for link in _LINK.findall(text) if not re.match(r"[a-z]+:", link)]


def anchors(path: Path) -> set[str]:
    """List the anchors of a page's headings, as GitHub and MkDocs make them."""
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}
