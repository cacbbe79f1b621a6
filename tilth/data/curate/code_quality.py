"""Source files that are written, not generated: StarCoder's rules (Li et al. 2023, arXiv:2305.06161).

Lines that are too long, too few letters and digits, XML under another name, HTML without text, data files that are
very small or large; and, if asked for, comments and lines as in NeMo Curator (comments .01 to .85, lines 10 to 20,000).
StarCoder's thresholds per extension are not published in full, so these hold for all. A null switches a rule off.

Fails when: data in code is what is wanted, or an include list of extensions is needed: use `filter` for that.
"""

from __future__ import annotations

from pydantic import Field

from tilth.core.config import Config as BaseConfig
from tilth.core.technique import resolve
from tilth.data.engine.rulebook import Rule, Rulebook

CARD = {
    "title": "Code quality rules",
    "paper": "arXiv:2305.06161",
    "claim": "Leaves out minified, generated and misnamed source files.",
    "check": "Files planted on either side of each limit are judged as written"
    " (tests/data/signal/test_code_signals.py).",
    "needs": ["signal.code"],
}

KNOBS = {"name_field": "name"}

_DATA = ("json", "yaml", "yml")
_RULES = (
    Rule("a line too long", "code_max_line > max_line"),
    Rule("lines too long", "code_mean_line > max_mean_line"),
    Rule("too few letters and digits", "code_alnum < min_alnum"),
    Rule("too few letters", "code_alpha < min_alpha"),
    Rule("XML", "code_xml_header == xml_header"),
    Rule("HTML without text", "code_html_visible < min_html_visible"),
    Rule("HTML without text", "code_html_visible_chars < min_html_chars"),
    *(Rule("data too small", f"code_chars < min_data_chars and code_extension == '{x}'") for x in _DATA),
    *(Rule("data too large", f"code_chars > max_data_chars and code_extension == '{x}'") for x in _DATA),
    Rule("too few comments", "code_comments < min_comments"),
    Rule("too many comments", "code_comments > max_comments"),
    Rule("too few lines", "code_lines < min_lines"),
    Rule("too many lines", "code_lines > max_lines"),
)


class Config(BaseConfig):
    """The limits; a file exactly at one is kept."""

    name_field: str | None = None
    """Field of the metadata with the file's path or name; null: the path the document was read from."""
    max_line: int | None = Field(1000, gt=0)
    """Characters of the longest line."""
    max_mean_line: float | None = Field(100.0, gt=0)
    """Characters per line."""
    min_alnum: float | None = Field(0.25, ge=0, le=1)
    """Share of characters that are letters or digits."""
    min_alpha: float | None = Field(None, ge=0, le=1)
    """Share of characters that are letters."""
    drop_xml: bool = True
    """Whether files go whose first 100 characters hold an XML declaration."""
    min_html_visible: float | None = Field(0.2, ge=0, le=1)
    """Share of an HTML file's characters that is shown."""
    min_html_chars: int | None = Field(100, ge=0)
    """Characters of an HTML file that are shown."""
    min_data_chars: int | None = Field(100, ge=0)
    """Characters of a JSON or YAML file."""
    max_data_chars: int | None = Field(5000, ge=0)
    """Characters of a JSON or YAML file."""
    min_comments: float | None = Field(None, ge=0, le=1)
    """Share of characters in comments; StarCoder 0.01."""
    max_comments: float | None = Field(None, ge=0, le=1)
    """Share of characters in comments; StarCoder 0.80, Curator 0.85."""
    min_lines: int | None = Field(None, ge=0)
    """Lines; Curator 10."""
    max_lines: int | None = Field(None, ge=0)
    """Lines; Curator 20,000."""

    def build(self) -> Rulebook:
        """The rules in the order of the fields."""
        limits = self.model_dump(exclude={"name_field", "drop_xml"}) | {"xml_header": 1 if self.drop_xml else None}
        return Rulebook(_RULES, limits, [resolve("signal", {"use": "code", "name_field": self.name_field})])
