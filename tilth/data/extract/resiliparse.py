"""Resiliparse: the main content of a page by fast rules on its element tree (Bevendorff et al. 2018).

Several times faster than trafilatura and a little less precise; DataComp-LM found models trained on its texts as good
(Li et al. 2024, arXiv:2406.11794, section 4.2).

Fails when: furniture of a page carries none of the usual names, and is kept.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.data.extract import html as pages

CARD = {
    "title": "Resiliparse",
    "paper": "arXiv:2406.11794",
    "claim": "Finds the main text of a page in a fraction of the time of the others.",
    "check": "Shingle F1 and time per page on the article extraction benchmark (bench/extraction.py).",
    "exempt": {
        "knob:list_bullets": "shows on lists of the main text; tests/data/extract/test_extract.py",
    },
}


class Config(BaseConfig):
    """What is kept, and what a page may cost."""

    main_content: bool = True
    """Keep the main content only; else all visible text."""
    alt_texts: bool = False
    """Keep the alternative texts of pictures."""
    list_bullets: bool = True
    """Put bullets and numbers before the items of lists."""
    max_chars: int = Field(10_000_000, gt=0)
    """Characters of HTML; a longer page is refused."""
    max_depth: int = Field(512, gt=0)
    """Elements inside one another; a page nested deeper is refused."""
    seconds: float = Field(10.0, gt=0)
    """Processor time that one page may take."""

    def build(self) -> pages.Sandboxed:
        """The extractor, in a process of its own."""
        return pages.Sandboxed(self)

    def worker(self) -> Callable[[str, str], str]:
        """(html, url) -> text, in this process."""
        extract = pages.resiliparse(self.main_content, self.alt_texts, self.list_bullets)

        def work(html: str, url: str) -> str:
            if pages.has_formulas(html) and (tree := pages.parse(html)) is not None:
                pages.keep_formulas(tree)
                html = pages.to_html(tree)
            return extract(html)

        return work
