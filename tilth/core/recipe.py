"""A recipe: what is trained, on what, for how long. Strict, typed, inheritable, and every value knows its origin.

Reading is one pure function, `load`: read the file, follow `extends:`, apply the dotted overrides (`layers.py`), let
each stage inherit the fields that stand at the top, validate, make paths absolute (`located.py`).
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from . import layers
from .config import Config, validate
from .errors import RecipeError
from .harvest import NAME, Harvest, check_file_names, spell_out_harvest
from .hashing import content_hash
from .kinds import refuse_other_recipe
from .located import Located, anchored, locate
from .protocols import (
    HookSpec,
    Mixture,
    ModelSpec,
    OptimSpec,
    PrecisionSpec,
    SourceReader,
    Task,
    TokenizerSpec,
)
from .shipped import recipe_file
from .step import ObjectiveConfig, ScheduleConfig
from .technique import excluded, sketching, slot, use, used
from .tokens import HoldsTokens, made


class Holdout(Config):
    """Documents kept out of training for evaluation, chosen by the hash of their text."""

    fraction: float = Field(0.02, ge=0.0, lt=1.0)
    """Share of each source's documents that is held out."""
    max_bytes: int = Field(2_000_000, ge=0)
    """At most so many bytes of text are held out per source."""


class Data(Harvest):
    """Where the text comes from and what is done to it before it becomes tokens: the fields of a data recipe, and what
    is held out of training. A directory stands for `{run: directory}`."""

    run: Located | None = None
    """Directory of a finished data run whose tokens are trained on as they are, stream or packed. It takes the place of
    `tokenizer` and of all fields here but `held_out`."""
    held_out: dict[str, Annotated[SourceReader, slot("source")]] = {}
    """Domain name -> text of your own to evaluate on: never curated, never trained on, held against the training text.
    Under the name of a source it takes the place of what `holdout` would hold out of it."""
    holdout: Holdout = Holdout()

    @field_validator("held_out", mode="before")
    @classmethod
    def _own_named(cls, value: Any) -> Any:
        return cls._named(value)

    @model_validator(mode="after")
    def _distinct_names(self) -> Data:
        check_file_names(self.held_out)
        check_file_names({**self.sources, **self.held_out})
        return self


class BatchSize(Config):
    """How many tokens make one optimizer step, and in what pieces they are computed."""

    tokens: int = Field(4096, gt=0, le=2**40)
    """Tokens per optimizer step over all ranks (a multiple of `sequence`)."""
    sequence: int = Field(256, ge=8, le=2**32)
    """Tokens per sequence (the context length)."""
    micro: int | None = Field(None, gt=0)
    """Sequences per forward pass on one rank; None: all of the rank's share at once."""

    @model_validator(mode="after")
    def _whole_sequences(self) -> BatchSize:
        if self.tokens % self.sequence:
            near = max(self.sequence, round(self.tokens / self.sequence) * self.sequence)
            raise ValueError(
                f"batch.tokens ({self.tokens}) is no multiple of batch.sequence ({self.sequence}); {near} would be"
            )
        if self.micro is not None and self.sequences % self.micro:
            raise ValueError(f"batch.micro ({self.micro}) does not divide the {self.sequences} sequences of a step")
        return self

    @property
    def sequences(self) -> int:
        """Sequences per optimizer step over all ranks."""
        return self.tokens // self.sequence


class Budget(Config):
    """How long a stage lasts; exactly one of the four."""

    tokens: int | None = Field(None, gt=0, le=10**18)
    steps: int | None = Field(None, gt=0, le=10**12)
    flops: float | None = Field(None, gt=0, le=1e30)
    """Model FLOPs (6 per matrix parameter and token, plus attention)."""
    epochs: float | None = Field(None, gt=0, le=1e9)
    """Passes over the source that is repeated most under the mixture."""

    @model_validator(mode="after")
    def _one(self) -> Budget:
        given = [k for k, v in self if v is not None]
        if len(given) != 1:
            raise ValueError(f"a budget is exactly one of tokens, steps, flops, epochs (got {given or 'none'})")
        return self


class Stage(Config):
    """One stretch of training. Every field but `name` may stand at the top of the recipe and is inherited."""

    name: str = Field("train", pattern=NAME)
    mixture: Annotated[Mixture, slot("mixture")]
    objective: Annotated[ObjectiveConfig, slot("objective")]
    optim: Annotated[OptimSpec, slot("optim")]
    schedule: Annotated[ScheduleConfig, slot("schedule")]
    batch: BatchSize = BatchSize()
    budget: Budget
    clip: float | None = Field(1.0, gt=0)
    """Global gradient-norm limit; null: none."""
    max_epochs: float = Field(8.0, gt=0)
    """A source that would be repeated more often is refused before the first step."""


STAGE_DEFAULTS: dict[str, Any] = {
    "mixture": {"use": "proportional"},
    "objective": {"use": "next_token"},
    "optim": {"use": "adamw"},
    "schedule": {"use": "cosine"},
}


class Checkpoint(Config):
    """When checkpoints are written and which are kept."""

    every: int = Field(200, gt=0)
    """Steps between checkpoints; one is also tried at step 1 and written at the end."""
    keep: int = Field(2, ge=1)
    """The newest so many are kept."""
    milestones: int | None = Field(None, gt=0)
    """Checkpoints at multiples of this step are kept for good."""
    asynchronous: bool = True
    """Write in a background thread from a copy; training goes on."""


class Log(Config):
    """The step line and the metrics file."""

    every: int = Field(10, gt=0)
    """Steps between step lines (metrics.jsonl gets every step)."""


class Eval(Config):
    """What is measured at the end, and while training."""

    every: int | None = Field(None, gt=0)
    """Steps between held-out evaluations while training; null: only at the end."""
    max_tokens: int = Field(15_000, gt=0)
    """Held-out tokens per domain used while training; the final evaluation uses all of them."""
    tasks: list[Annotated[Task, slot("task")]] = Field([use("bits_per_byte")])
    """What is measured at the end."""
    during: list[Annotated[Task, slot("task")]] = []
    """What is measured at each evaluation while training, besides bits per byte; a `limit` keeps it short."""
    keep: Literal["last", "best"] = "last"
    """Which weights the run ends with: the last ones, or those whose figure `by` was best while training."""
    by: str = "bits_per_byte"
    """The figure: bits_per_byte (mean over the domains), bits_per_byte.code, minimal_pairs.accuracy,
    multiple_choice.acc_norm, lm_eval.arc_easy.acc."""
    samples: list[str] = []
    """Prompts whose continuations go into the report."""
    sample_tokens: int = Field(96, gt=0)
    """Tokens per continuation."""
    sample_temperature: float = Field(0.8, ge=0)
    """Temperature of continuations; 0 always takes the likeliest token."""

    @model_validator(mode="after")
    def _measured(self) -> Eval:
        if self.every is None and (self.during or self.keep == "best"):
            raise ValueError("`during` and `keep: best` need evaluations while training; `every: 200` gives them")
        return self


class Export(Config):
    """The Hugging Face directory written at the end."""

    format: Literal["auto", "llama", "mistral", "qwen2", "qwen3", "gemma2", "olmo2", "gpt2", "none"] = "auto"
    """Architecture to write as; auto: the one these parts amount to; none: no export."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What weights are written as; null: as those of `init` were stored, else float32."""


class Recipe(Config):
    """A resolved recipe: `stages` is complete, each stage holds all it needs."""

    written_also: ClassVar[tuple[str, ...]] = ("extends", *(f for f in Stage.model_fields if f != "name"))
    """Fields a recipe file may hold at the top besides these: they go to every stage."""
    name: str = Field(pattern=NAME)
    seed: int = Field(0, ge=0, lt=2**63)
    init_draw: int = Field(0, ge=0)
    """Which draw of the first weights: 0 is the seed's own; another gives other weights and the same order of data."""
    data: Data
    tokenizer: Annotated[TokenizerSpec, slot("tokenizer")]
    model: Annotated[ModelSpec, slot("model")]
    init: Located | None = None
    """A run or Hugging Face directory whose weights training starts from; null: random weights from `seed`."""
    stages: list[Stage] = Field(min_length=1)
    precision: Annotated[PrecisionSpec, slot("precision")] = Field(use("bf16"), validate_default=True)
    """Arithmetic of the forward and backward pass; weights and optimizer state are float32 either way."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile: auto uses it where it pays (CUDA)."""
    recompute: bool = False
    """Activation checkpointing: recompute each block in the backward pass, less memory, about a third more compute."""
    on_bad_step: Literal["stop", "skip", "roll_back"] = "stop"
    """What follows a step whose loss or gradient is not finite: the run stops; or its batch is skipped; or, besides,
    the weights go back to the last checkpoint of `checkpoint.every` and training goes on behind the batch."""
    max_bad_steps: int = Field(10, ge=1)
    """So many bad steps in a row (rolling back: since the last checkpoint of `checkpoint.every`) stop the run in any
    case."""
    timeout: float = Field(60.0, ge=1.0)
    """Seconds after which a rank that is silent, or late for a step, ends the run on the others; compiling, saving,
    evaluating and preparing data may take ten times as long."""
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    eval: Eval = Field(default_factory=Eval)
    export: Export = Export()
    hooks: list[Annotated[HookSpec, slot("hook")]] = []
    """Extra listeners: trackers such as tensorboard, wandb, trackio, mlflow."""

    @model_validator(mode="after")
    def _one_start(self) -> Recipe:
        if self.init is not None and self.init_draw:
            raise ValueError("`init` names the first weights, so `init_draw` has none to draw; leave one of them out")
        return self

    @model_validator(mode="after")
    def _distinct_stages(self) -> Recipe:
        seen = [s.name for s in self.stages]
        twice = {n for n in seen if seen.count(n) > 1}
        if twice:
            raise ValueError(f"two stages are named {sorted(twice)}; names must differ")
        return self

    @model_validator(mode="after")
    def _compatible(self) -> Recipe:
        for stage in self.stages:
            together = {**used(self), **used(stage)}
            for one, config in together.items():
                for other in (o for pattern in excluded(config) for o in fnmatch.filter(together, pattern) if o != one):
                    raise RecipeError(
                        f"{one} and {other} cannot work together.",
                        where=one.partition(".")[0],
                        fix=f"Leave one of them out; `tilth show {one}` says more.",
                    )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain data that loads back to an equal recipe."""
        plain: dict[str, Any] = json.loads(self.model_dump_json())
        return plain

    def hash(self) -> str:
        """Content hash of everything that decides what is trained and written (16 hex digits)."""
        return content_hash(self.to_dict())


class Resolved(Config):
    """A recipe with the origin of each of its values."""

    recipe: Recipe
    origins: dict[str, str]
    """Dotted path of each value -> file, 'command line' or 'default'; of what null took away, 'removed: ' and that."""


def load(path: str | Path, overrides: dict[str, Any] | list[str] | None = None) -> Resolved:
    """Read a recipe file, its ancestors and overrides (`{"optim.lr": 0.01}` or `["optim.lr=0.01"]`).

    Raises RecipeError with the full path of the field and the nearest thing that would work.
    """
    path = recipe_file(path)
    data, origins = layers.inherit(path, _spell_out)
    refuse_other_recipe(data, "training recipe", path)
    return override(data, origins, overrides, where=str(path))


def check_early(path: str | Path, overrides: dict[str, Any] | list[str] | None = None) -> None:
    """Raise the RecipeError that `load` would, as far as it shows without importing a technique: in a fraction of a
    second. What only a technique itself can judge is left to `load`."""
    with sketching():
        try:
            load(path, overrides)
        except RecipeError:
            raise
        except Exception:  # something asked a technique for more than its fields: `load` will tell
            return


def override(
    data: dict[str, Any],
    origins: dict[str, str],
    overrides: dict[str, Any] | list[str] | None,
    where: str = "recipe",
) -> Resolved:
    """Merge dotted overrides into plain data and validate.

    A stage field named without a stage (`optim.lr`) is set for every stage, those that say their own included.
    """
    data, origins = layers.apply(data, origins, overrides, _spell_out, _everywhere)
    return from_dict(data, where=where, origins=origins)


def from_dict(data: dict[str, Any], where: str = "recipe", origins: dict[str, str] | None = None) -> Resolved:
    """Validate plain data (as written by a user or by `Recipe.to_dict`) into a recipe.

    Relative paths are relative to the file that `origins` names for them, else to the working directory.
    """
    data = _spell_out(data)
    origins = origins or dict.fromkeys(layers.leaves(data), where)
    expanded = _expand_stages(data)

    def written_in(place: str) -> str:
        return layers.origin_of(_as_written(place, data), origins)

    try:
        run = expanded["data"].get("run") if isinstance(expanded.get("data"), dict) else None
        if isinstance(run, str):
            folder = Path(written_in("data.run")).parent
            expanded = _of_data_run(expanded, anchored(Located(run), folder, "data.run"))
        recipe = validate(Recipe, expanded)
        absolute = locate(recipe, expanded, written_in)
        recipe = recipe if absolute is None else validate(Recipe, absolute)
        told = _tell_tokenizer(recipe)
        recipe = recipe if told is None else validate(Recipe, told)
    except RecipeError as err:
        place = _as_written(err.where, data)
        raise RecipeError(err.what, where=f"{where}: {place}" if place else where, fix=err.fix) from None
    full = {leaf: written_in(leaf) for leaf in layers.leaves(recipe.to_dict())}
    gone = {p: f"removed: {written_in(p)}" for p in layers.nulls(expanded) if layers.none_at(p, full)}
    return Resolved.model_construct(recipe=recipe, origins={**full, **gone})


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML; loading it gives an equal recipe."""
    return str(yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True, width=100))


_SLOTS = ("tokenizer", "model", "precision", *STAGE_DEFAULTS)


def _spell_out(data: dict[str, Any]) -> dict[str, Any]:
    """`optim: muon` as `optim: {use: muon}`, wherever a technique stands, so that every value has a path of its own."""

    def one(value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value

    def fields(node: Any, names: Iterable[str]) -> Any:
        return {k: one(v) if k in names else v for k, v in node.items()} if isinstance(node, dict) else node

    def items(node: Any, name: str) -> Any:
        if not isinstance(node, dict) or not isinstance(node.get(name), list):
            return node
        return {**node, name: [one(v) for v in node[name]]}

    out: dict[str, Any] = items(fields(data, _SLOTS), "hooks")
    if isinstance(out.get("data"), str):
        out["data"] = {"run": out["data"]}
    out = _renamed(out)
    if isinstance(out.get("data"), dict):
        out["data"] = spell_out_harvest(out["data"])
    if "eval" in out:
        out["eval"] = items(items(out["eval"], "tasks"), "during")
    if isinstance(out.get("stages"), list):
        out["stages"] = [fields(s, STAGE_DEFAULTS) for s in out["stages"]]
    return out


def _renamed(data: dict[str, Any]) -> dict[str, Any]:
    """`corpus:` and its `curate:`, as `data:` and its `steps:` were called; they go on working."""
    if "corpus" not in data:
        return data
    out = {k: v for k, v in data.items() if k != "corpus"}
    corpus = data["corpus"]
    if isinstance(corpus, dict) and "curate" in corpus:
        corpus = {**{k: v for k, v in corpus.items() if k != "curate"}, "steps": corpus["curate"]}
    here = out.get("data")
    if isinstance(corpus, dict) and isinstance(here, dict) and set(here) - {"run"}:
        raise RecipeError(
            "`corpus` is what `data` was called, and both are here.",
            where="corpus",
            fix="Write all of it under `data`.",
        )
    return {
        **out,
        "data": layers.merge(here, corpus)
        if isinstance(corpus, dict) and isinstance(here, dict)
        else here
        if corpus is None and here
        else corpus,
    }


def _everywhere(data: dict[str, Any], dotted: str) -> Iterator[str]:
    """An override's place, and those in the stages that have that field of their own."""
    parts = dotted.split(".")
    if parts[0] == "corpus":
        run = isinstance(data.get("data"), dict) and "run" in data["data"]
        if parts == ["corpus"] and run:  # all but the run, which stands in its place
            yield from (f"data.{name}" for name in data["data"] if name != "run")
            return
        parts[:2] = ["data", *("steps" if p == "curate" else p for p in parts[1:2])]
        dotted = ".".join(parts)
    field = dotted.partition(".")[0]
    if dotted.startswith("stages."):
        data.setdefault("stages", [{"name": "train"}])
    stages = data.get("stages") if field in _shared_fields() else None
    own = [i for i, s in enumerate(stages) if isinstance(s, dict) and field in s] if isinstance(stages, list) else []
    if stages is None or len(own) < len(stages):
        yield dotted
    for i in own:
        yield f"stages.{i}.{dotted}"


def _shared_fields() -> list[str]:
    return [f for f in Stage.model_fields if f != "name"]


def _expand_stages(data: dict[str, Any]) -> dict[str, Any]:
    """Let every stage inherit the stage fields written at the top."""
    data = dict(data)
    given = {k: data.pop(k) for k in _shared_fields() if k in data}
    shared = _technique_or_default(layers.merge(STAGE_DEFAULTS, given))
    stages = data.get("stages", [{"name": "train"}])
    if isinstance(stages, list):
        data["stages"] = [_inherit_stage(shared, s) for s in stages]
    return data


DATA_RUN = "data_run"
"""What the text of `data: DIRECTORY` is called among the sources."""


def _of_data_run(recipe: dict[str, Any], run: str) -> dict[str, Any]:
    """The recipe with the text and the tokenizer that `data: run` stands for."""
    source: dict[str, Any] = {"use": "curated", "path": run, "tiers": None, "where": {}}
    none_held_out = {**Holdout().model_dump(), "fraction": 0.0}
    ours: dict[str, Any] = {"sources": {DATA_RUN: source}, "steps": [], "holdout": none_held_out}
    given = {k: v for k, v in recipe["data"].items() if v is not None and k not in ("run", "held_out", "on_error")}
    for field, value in given.items():
        if value not in (ours.get(field), [], {}, Harvest.model_fields["partition_bytes"].default):
            raise RecipeError(
                f"`data` names tokens that are there, which {field} cannot change.",
                where=f"data.{field}",
                fix="Leave `data.run` out, or all of `data` but `held_out`.",
            )
    tokenizer = recipe.get("tokenizer") or {"use": "pretrained", "path": f"{run}/tokens/tokenizer"}
    if isinstance(tokenizer, dict) and tokenizer.get("use", "pretrained") != "pretrained":
        raise RecipeError(
            f"`data` names tokens that are there, and {tokenizer['use']} makes another tokenizer than they have.",
            where="tokenizer",
            fix="Leave `tokenizer` out (on the command line: tokenizer=null): the data run's own is taken.",
        )
    return {**recipe, "tokenizer": tokenizer, "data": {**recipe["data"], **ours, "run": run}}


def _tell_tokenizer(recipe: Recipe) -> dict[str, Any] | None:
    """The recipe with its tokenizer in every source of tokens that names none; None if there is no such source."""
    found = [
        (field, name)
        for field, sources in (("sources", recipe.data.sources), ("held_out", recipe.data.held_out))
        for name, source in sources.items()
        if isinstance(source, HoldsTokens) and source.holds_tokens and source.tokenizer is None
    ]
    if not found:
        return None
    made(recipe.tokenizer)
    data = recipe.to_dict()
    for field, name in found:
        data["data"][field][name]["tokenizer"] = data["tokenizer"]
    return data


def _inherit_stage(shared: dict[str, Any], stage: Any) -> Any:
    if not isinstance(stage, dict):
        return stage
    return _technique_or_default(layers.merge(shared, stage))


def _technique_or_default(stage: dict[str, Any]) -> dict[str, Any]:
    """A stage in which a technique that null took away is the default again."""
    return {**stage, **{k: v for k, v in STAGE_DEFAULTS.items() if stage[k] is None}}


def _as_written(path: str, data: dict[str, Any]) -> str:
    """Where a value of the expanded recipe stands in what the user wrote: `stages.0.optim.lr` -> `optim.lr`."""
    parts = path.split(".")
    if parts[0] == "stages" and len(parts) > 2 and layers.is_index(parts[1]):
        stages = data.get("stages")
        own: Any = stages[int(parts[1])] if isinstance(stages, list) and int(parts[1]) < len(stages) else {}
        at_top: Any = data
        for part in parts[2:]:
            if isinstance(own, dict) and part in own:
                return path
            own = own.get(part) if isinstance(own, dict) else None
            at_top = at_top.get(part) if isinstance(at_top, dict) else None
        first = stages[int(parts[1])] if isinstance(stages, list) and int(parts[1]) < len(stages) else {}
        if parts[2] in _shared_fields() and not (isinstance(first, dict) and parts[2] in first):
            return ".".join(parts[2:])
        if parts[2] in data and _get(data, parts[2:]) is not None:
            return ".".join(parts[2:])
    return path


def _get(data: Any, parts: list[str]) -> Any:
    for part in parts:
        data = data.get(part) if isinstance(data, dict) else None
    return data
