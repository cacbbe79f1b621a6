"""An extractor's child process that spends processor time on every page before the extractor sees it.

By this clock a time limit is tried, the same on every machine.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from tilth.core.technique import resolve
from tilth.data.extract import html as pages

SECONDS = 0.5
"""Processor time of a page."""


class Slow:
    """An extractor's configuration, whose worker spends SECONDS first."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self.max_chars, self.max_depth, self.seconds = config.max_chars, config.max_depth, config.seconds

    def worker(self) -> Callable[[str, str], str]:
        """(html, url) -> text, late."""
        work = self._config.worker()

        def late(html: str, url: str) -> str:
            end = time.process_time() + SECONDS
            while time.process_time() < end:
                pass
            return work(html, url)

        return late


if __name__ == "__main__":
    pages.serve(Slow(resolve("extract", json.loads(sys.argv[1]))))
