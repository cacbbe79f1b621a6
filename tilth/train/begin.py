"""Where training begins: the sizes of the model, its first weights, and what identifies the run that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tilth.arch.weights.common import foldable, load_dense_state, to_dense_state
from tilth.core.errors import RecipeError
from tilth.core.hashing import content_hash, file_hash
from tilth.core.recipe import Recipe
from tilth.core.streams import key as stream_key
from tilth.core.technique import dump
from tilth.data.prepared import Prepared
from tilth.data.tokens.tokenizer import Tokenizer
from tilth.eval.open import read
from tilth.eval.speaker import Speaker

from .learner import equip


@dataclass
class Start:
    """The sizes training starts with and, with `init:`, the content of the weights it starts from."""

    vocab_size: int
    max_sequence: int
    weights: str | None = None
    generation: Mapping[str, Any] | None = None
    """Fields of the generation_config.json that came with these weights."""
    dtype: str = "float32"
    """What they were stored as."""
    source: Speaker | None = field(default=None, repr=False, compare=False)
    """What `init:` names; the first model takes its weights, and they are held no longer."""

    def take(self, init: str) -> Speaker:
        """The source, handed over; read again by whoever asks again."""
        source, self.source = self.source, None
        return source or read(Path(init))


def start_of(recipe: Recipe, tokenizer: Tokenizer, vocab_size: int | None = None) -> Start:
    """Sizes of the model to train; `vocab_size`: of the tokenizer, where this one stands for it.

    Raises DataError or RecipeError if `init:` names weights that do not fit.
    """
    longest = max(stage.batch.sequence for stage in recipe.stages)
    extra = max(stage.objective.extra_tokens for stage in recipe.stages)
    if recipe.init is None:
        return Start((vocab_size or tokenizer.vocab_size) + extra, longest)
    source = read(Path(recipe.init))
    if source.tokenizer.vocabulary != tokenizer.vocabulary:
        brought = Path(recipe.init) / "tokenizer"
        path = brought if brought.is_dir() else recipe.init
        raise RecipeError(
            f"the tokenizer does not fit the weights of {recipe.init}.",
            where="tokenizer",
            fix=f"tokenizer: {{use: pretrained, path: {path}}} would.",
        )
    asked, there = dump(recipe.model), dump(source.model.config)
    other = [k for k in asked if asked[k] != there.get(k) and not k.startswith("init_")]
    if "weights" in other and foldable(source.model.config):
        other.remove("weights")  # through dense matrices
    if other:
        raise RecipeError(
            f"the weights of {recipe.init} are of a model with {other[0]}: {there.get(other[0])}.",
            where=f"model.{other[0]}",
            fix="`tilth import` writes a base.yaml with the fields that fit; `extends:` it.",
        )
    has = source.model.max_sequence
    if asked.get("position") == "learned" and longest > has:
        raise RecipeError(
            f"the weights of {recipe.init} have learned positions for {has} tokens.",
            where="batch.sequence",
            fix=f"At most {has} would work.",
        )
    folder = Path(recipe.init) / "model"
    files = sorted((folder if folder.is_dir() else Path(recipe.init)).glob("*.safetensors"))
    return Start(
        max(source.model.vocab_size, tokenizer.vocab_size + extra),
        max(has, longest),
        content_hash([file_hash(f) for f in files]),
        source.generation,
        source.dtype,
        source,
    )


def make_model(recipe: Recipe, start: Start) -> Any:
    """The model a run of the recipe begins with, float32 on the CPU: random weights by the seed, or those of `init:`;
    with the modules its objectives bring along. Whatever trains, proves or compares a recipe begins here."""
    model: Any = recipe.model.build(start.vocab_size, start.max_sequence)
    seed = first_seed(recipe)
    if recipe.init is None:
        model.init_weights(seed)
    else:
        source = start.take(recipe.init).model
        if getattr(source.config, "weights", None) == getattr(recipe.model, "weights", None):
            model.load_state_dict(_with_rows(source.state_dict(), model), strict=True)
        else:
            model.init_weights(seed)
            load_dense_state(model, _with_rows(to_dense_state(source), model))
    equip(model, (stage.objective for stage in recipe.stages), seed)
    return model


def first_seed(recipe: Recipe) -> int:
    """The seed of the first weights."""
    return stream_key(recipe.seed, "first weights", recipe.init_draw) >> 1 if recipe.init_draw else recipe.seed


def _with_rows(state: dict[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """Weights with the rows of tokens the model has besides: each the mean of those there are."""
    wanted, out = model.state_dict(), dict(state)
    for name, tensor in state.items():
        more = len(wanted[name]) - len(tensor) if name in ("embedding.weight", "output.weight") else 0
        if more > 0:
            out[name] = torch.cat([tensor, tensor.mean(0, keepdim=True).expand(more, -1)])
    return out


def identity(recipe: Recipe, prepared: Prepared, start: Start) -> dict[str, Any]:
    """What decides the weights: two runs with equal identities train equal models."""
    return {
        "data": prepared.fingerprint(recipe),
        "model": content_hash(dump(recipe.model)),
        "stages": content_hash(recipe.to_dict()["stages"]),
        "seed": recipe.seed,
        "precision": content_hash([dump(recipe.precision), str(recipe.precision.compute_dtype)]),
        "init": start.weights,
        **({"init_draw": recipe.init_draw} if recipe.init_draw else {}),
        **({"keep": _measured_while_training(recipe)} if recipe.eval.keep == "best" else {}),
    }


def _measured_while_training(recipe: Recipe) -> str:
    """Content of what decides which weights are the best."""
    asked = recipe.eval
    return content_hash([asked.every, asked.max_tokens, asked.by, content_of(asked.during)])


def content_of(tasks: Sequence[Any]) -> list[Any]:
    """Tasks with the content of the files they read."""
    return [[dump(t), [file_hash(f) for f in t.files()] if hasattr(t, "files") else []] for t in tasks]
