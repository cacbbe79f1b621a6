"""A data recipe: which documents, what is asked of them, what becomes of those that pass.

Read like a training recipe (`extends:`, dotted overrides, strict fields, techniques by name), see `tilth.core.recipe`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import Field, model_validator

from tilth.core import layers
from tilth.core.config import Config, validate
from tilth.core.errors import RecipeError
from tilth.core.harvest import NAME, Harvest, spell_out_harvest
from tilth.core.kinds import refuse_other_recipe
from tilth.core.located import locate
from tilth.core.protocols import CurateStep, TokenizerSpec
from tilth.core.shipped import recipe_file
from tilth.core.technique import slot, use_name
from tilth.core.tokens import HoldsTokens

Tier = Literal["L0", "L1", "L2", "L3", "L4"]


class Card(Config):
    """What the recipe stands for."""

    title: str
    paper: str = ""
    """arXiv:… or a URL of the system's description."""
    follows: str = ""
    """What of the system this recipe expresses."""
    departs: str = ""
    """Where it differs, and why."""


class Pack(Config):
    """How documents fill training sequences."""

    how: Literal["concat", "bfd"] = "concat"
    """concat: one after another, cut where a sequence ends; bfd: best fit decreasing, cut only when too long."""
    sequence: int = Field(2048, ge=8)
    """Tokens per sequence."""
    seed: int = Field(0, ge=0)
    """Order of the packed sequences."""


class Tokens(Config):
    """The tokens made of the documents at the end."""

    tokenizer: Annotated[TokenizerSpec, slot("tokenizer")]
    tier: Tier = "L1"
    """Which tier's documents."""
    pack: Pack = Pack()


class DataRecipe(Harvest):
    """A resolved data recipe."""

    name: str = Field(pattern=NAME)
    card: Card | None = None
    tokens: Tokens | None = None

    @model_validator(mode="after")
    def _tokens_have_a_tokenizer(self) -> DataRecipe:
        for name, source in self.sources.items():
            if isinstance(source, HoldsTokens) and source.holds_tokens and source.tokenizer is None:
                raise ValueError(
                    f"sources.{name} holds tokens; name the tokenizer that made them: tokenizer: {{use: pretrained, "
                    "path: …}"
                )
        return self

    @model_validator(mode="after")
    def _tokens_of_a_tier(self) -> DataRecipe:
        if self.tokens and self.tokens.tier not in ("L1", *self.promote):
            raise ValueError(f"tokens.tier is {self.tokens.tier}, which no step leads to")
        return self

    def labelled(self) -> Iterator[tuple[str, str, CurateStep]]:
        """(tier, label, configuration) of all steps in order. A label is unique: `04-minhash`."""
        number = 1 if self.extract is not None else 0
        for tier, steps in [("L1", self.steps), *sorted(self.promote.items())]:
            for step in steps:
                yield tier, f"{number:02d}-{use_name(step)}", step
                number += 1

    def to_dict(self) -> dict[str, Any]:
        """Plain data that loads back to an equal recipe."""
        return json.loads(self.model_dump_json())

    def to_yaml(self) -> str:
        """The resolved recipe as YAML."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, width=100)


class Resolved(NamedTuple):
    """A data recipe with the origin of each of its values."""

    recipe: DataRecipe
    origins: dict[str, str]
    """Dotted path of each value -> file, 'command line' or 'default'."""


def load(path: str | Path, overrides: dict[str, Any] | list[str] | None = None) -> DataRecipe:
    """Read a data recipe with its ancestors and overrides. Raises RecipeError naming the field."""
    return resolved(path, overrides).recipe


def resolved(path: str | Path, overrides: dict[str, Any] | list[str] | None = None) -> Resolved:
    """The same with where each value comes from. Raises RecipeError naming the field."""
    path = recipe_file(path)
    data, origins = layers.inherit(path, _spell_out)
    refuse_other_recipe(data, "data recipe", path)
    data, origins = layers.apply(data, origins, overrides, _spell_out, lambda data, dotted: [place(dotted, data)])
    try:
        recipe = validate(DataRecipe, data)
        absolute = locate(recipe, data, lambda place: layers.origin_of(place, origins))
        recipe = recipe if absolute is None else validate(DataRecipe, absolute)
        return Resolved(recipe, {leaf: layers.origin_of(leaf, origins) for leaf in layers.leaves(recipe.to_dict())})
    except RecipeError as err:
        raise RecipeError(err.what, where=f"{path}: {err.where}" if err.where else str(path), fix=err.fix) from None


def place(dotted: str, data: dict[str, Any]) -> str:
    """Where an override belongs in plain data. A step may be named instead of numbered, with or without the list it
    stands in: `steps.gopher_quality.min_words`, `promote.L2.quality.keep`, `gopher_quality.min_words`,
    `03-gopher_quality.min_words`. Raises RecipeError if several steps have the name."""
    parts = dotted.split(".")
    at = {"steps": 1, "promote": 2, "signals": 1}.get(parts[0], 0)
    if len(parts) <= at or layers.is_index(parts[at]) or (not at and parts[0] in DataRecipe.model_fields):
        return dotted
    within = [p for p in _places(data) if p.where == ".".join(parts[:at]) or not at]
    named = [p for p in within if parts[at] in (p.use, p.label)]
    if len(named) != 1 and (at or named):
        fix = ", ".join(f"{p.at} ({p.use})" for p in (named or within))
        what = "several steps are" if named else "no step is"
        raise RecipeError(f"{what} '{parts[at]}'.", where=f"override {dotted}", fix=f"There are {fix}.")
    return ".".join([named[0].at, *parts[at + 1 :]]) if named else dotted


class _Place(NamedTuple):
    where: str
    """The list: steps, promote.L2, signals."""
    number: int
    use: str
    label: str

    @property
    def at(self) -> str:
        return f"{self.where}.{self.number}"


def _places(data: dict[str, Any]) -> Iterator[_Place]:
    """Every step and signal in plain data; labels are those of `DataRecipe.labelled`."""
    promote = data.get("promote")
    lists = [("steps", data.get("steps")), *sorted((promote if isinstance(promote, dict) else {}).items())]
    count = int(data.get("extract") is not None)
    for where, held in lists:
        for number, step in enumerate(held if isinstance(held, list) else []):
            use = str(step.get("use", "")) if isinstance(step, dict) else ""
            yield _Place(where if where == "steps" else f"promote.{where}", number, use, f"{count:02d}-{use}")
            count += 1
    signals = data.get("signals")
    for number, signal in enumerate(signals if isinstance(signals, list) else []):
        use = str(signal.get("use", "")) if isinstance(signal, dict) else ""
        yield _Place("signals", number, use, f"signal {use}")


def written(label: str, field: str, value: Any, recipe: DataRecipe) -> str:
    """The override that sets a field of the step with a label: `steps.gopher_quality.min_words=60`."""
    places = list(_places(recipe.to_dict()))
    here = next(p for p in places if p.label == label)
    alone = sum(p.where == here.where and p.use == here.use for p in places) == 1
    return f"{here.where}.{here.use if alone else here.number}.{field}={json.dumps(value, ensure_ascii=False)}"


def _spell_out(data: dict[str, Any]) -> dict[str, Any]:
    out = spell_out_harvest(data)
    if isinstance(out.get("tokens"), dict) and isinstance(out["tokens"].get("tokenizer"), str):
        out["tokens"] = {**out["tokens"], "tokenizer": {"use": out["tokens"]["tokenizer"]}}
    return out
