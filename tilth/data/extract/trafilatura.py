"""trafilatura: the article of a page by rules on its element tree, with fall-backs (Barbaresi 2021).

Deduplication stays off: it keeps a table across pages, so that which page loses a shared paragraph depends on their
order; shared paragraphs are the business of deduplication steps. Comments are left out.

Fails when: a page is no article (forums, product lists, landing pages), where it keeps too little.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.data.extract import html as pages

CARD = {
    "title": "trafilatura",
    "paper": "https://aclanthology.org/2021.acl-demo.15",
    "claim": "Finds the text of articles with the best balance of precision and recall of the extractors in use.",
    "check": "Shingle F1 on the article extraction benchmark, beside the others (bench/extraction.py).",
    "exempt": {
        "knob:favour": "shows on pages with boilerplate; tests/data/extract/test_extract.py has them",
        "knob:fast": "shows where the usual extraction finds nothing; tests/data/extract/test_extract.py",
    },
}


class Config(BaseConfig):
    """What is kept, and what a page may cost."""

    favour: Literal["precision", "balance", "recall"] = "precision"
    """Less text and surely the article, or more text that may not be."""
    tables: bool = True
    """Keep tables, as rows of cells between pipes."""
    comments: bool = False
    """Keep readers' comments."""
    fast: bool = False
    """Do without the fall-backs (readability, jusText)."""
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
        extract = pages.trafilatura(self.favour, self.tables, self.comments, self.fast)

        def work(html: str, url: str) -> str:
            tree = pages.parse(html)
            if tree is None:
                return ""
            if pages.has_formulas(html):
                pages.keep_formulas(tree)
            pages.mark_gaps(tree)
            return pages.unmark_gaps(extract(tree, url))

        return work
