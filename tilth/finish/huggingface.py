"""The trained model as a Hugging Face directory (export/)."""

from __future__ import annotations

from tilth.arch import hf
from tilth.core.errors import DataError
from tilth.core.recipe import Recipe
from tilth.core.record import Record
from tilth.eval.speaker import Speaker
from tilth.report.live import Console


def make(recipe: Recipe, record: Record, weights: str, speaker: Speaker, out: Console) -> None:
    """Write export/, if weights or settings are others than those it is of, and an architecture can hold the model;
    `tilth.train.refuse.check` has said so before training if none can."""
    wanted = recipe.export
    if wanted.format == "none":
        return
    try:
        hf.choose(recipe.model, speaker.model.max_sequence, wanted.format, speaker.tokenizer)
    except DataError:
        return
    with record.part("export", [weights, recipe.to_dict()["export"]]) as todo:
        if todo:
            said = speaker.export(record.run.export, wanted.format, dtype=wanted.dtype)
            out.say(f"export: {record.run.export} ({said})")
