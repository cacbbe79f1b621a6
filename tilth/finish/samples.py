"""What a trained model writes behind the recipe's prompts (samples.json)."""

from __future__ import annotations

from typing import Any

from tilth.core.recipe import Recipe
from tilth.core.record import Record
from tilth.core.rundir import write_json
from tilth.eval.speaker import Speaker


def make(recipe: Recipe, record: Record, weights: str, speaker: Speaker) -> None:
    """Write samples.json, if weights, prompts or settings are others than those it is of."""
    asked = recipe.eval
    settings: dict[str, Any] = {
        "max_tokens": asked.sample_tokens,
        "temperature": asked.sample_temperature,
        "top_p": 0.95,
    }
    with record.part("samples.json", [weights, asked.samples, settings]) as todo:
        if todo:
            texts = speaker.generate(asked.samples, seed=recipe.seed, **settings)
            pairs = zip(asked.samples, texts, strict=True)
            write_json(record.run / "samples.json", [{"prompt": p, "text": t} for p, t in pairs])
