"""A finished run, read from its directory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tilth.core.formats import Evaluation, Status, StepRow
from tilth.core.recipe import Recipe
from tilth.core.rundir import read_json, read_rows
from tilth.eval.evaluate import tell
from tilth.eval.open import load
from tilth.eval.speaker import Speaker
from tilth.report import facts


@dataclass
class Finished:
    """A finished run: where it lies, what was asked, what came out."""

    path: Path
    recipe: Recipe

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """One row per optimizer step."""
        return read_rows(self.path / "metrics.jsonl", StepRow)

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """The final evaluation (eval.json)."""
        return read_json(self.path / "eval.json", Evaluation)

    @property
    def loss(self) -> float:
        """Training loss of the last step, nats per token."""
        return self.metrics[-1]["loss"]

    def speaker(self) -> Speaker:
        """The trained model, ready to score and generate."""
        return load(self.path)

    def told(self) -> list[str]:
        """What `tilth eval` prints of this run, and which weights were kept where that was a choice."""
        events = read_rows(self.path / "events.jsonl")
        chosen = [facts.kept_sentence(e) for e in events[::-1] if e.get("event") == "kept"][:1]
        return ["", *tell(self.evaluation), "", *chosen]

    def summary(self) -> dict[str, Any]:
        """What `tilth run --json` prints."""
        domains = self.evaluation.get("bits_per_byte", {}).get("domains", {})
        bits = {d: r["bits_per_byte"] for d, r in domains.items()}
        status = read_json(self.path / "status.json", Status)
        return {
            "run": str(self.path),
            "steps": len(self.metrics),
            "loss": self.loss,
            "bits_per_byte": bits,
            "seconds": status["seconds"],
            "report": str(self.path / "report.html"),
            "export": str(self.path / "export") if (self.path / "export").is_dir() else None,
        }
