"""Tables for a terminal, of text that may come from data."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from tilth.core.text import visible

MIN_WIDTH = 100
"""Columns used where a terminal has fewer, or none is there: a wrapped line reads better than cut cells."""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = (), width: int = 0) -> list[str]:
    """Aligned lines: the first column and those named in `left` on the left, others on the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False)
    for i, head in enumerate(heads):
        left_aligned = i == 0 or head in left
        drawn.add_column(Text(visible(head)), justify="left" if left_aligned else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(visible(cell)) for cell in row))
    columns = width or max(MIN_WIDTH, shutil.get_terminal_size((140, 24)).columns)
    console = Console(width=columns, highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(drawn)
    return [line.rstrip() for line in captured.get().splitlines()]
