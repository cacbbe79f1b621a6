"""The main job: source -> curation -> tokenizer -> shards -> mixture -> training -> evaluation -> export -> report.

Each part is cached by the content of what goes into it: documents, tokenizer and shards in `<runs>/.cache`, weights
in the run directory (named after what decides them), evaluation, export and samples by the weights and their own
settings. A second run redoes nothing; a changed learning rate trains again and tokenizes nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache as cached
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml

from tilth.arch import hf, io
from tilth.arch.weights.common import foldable, load_dense_state, to_dense_state
from tilth.core import crash, device, machine
from tilth.core import recipe as recipes
from tilth.core.clock import Clock
from tilth.core.config import validate
from tilth.core.errors import DataError, Interrupted, PlanError, RecipeError, RunInUse, nearest
from tilth.core.formats import Evaluation, Status, StepRow
from tilth.core.hashing import content_hash, file_hash
from tilth.core.kinds import refuse_other_run
from tilth.core.manifest import LIST, Manifest, seal
from tilth.core.protocols import NamedParam
from tilth.core.recipe import Recipe, Resolved
from tilth.core.record import Record, claim, trained
from tilth.core.rundir import RunDir, read_json, read_rows, sweep, whole_dir, write_json, write_whole
from tilth.core.step import Part, Step, StepResult, View
from tilth.core.stopping import Interrupt, Stopped
from tilth.core.streams import key as stream_key
from tilth.core.technique import dump, resolve, use_name
from tilth.data.corpus import Documents, NothingLeft, documents_key
from tilth.data.corpus import prepare as prepare_documents
from tilth.data.tokens import ready
from tilth.data.tokens.elsewhere import brought
from tilth.eval import bits_per_byte
from tilth.eval.evaluate import evaluate as run_tasks
from tilth.eval.evaluate import figures, tell
from tilth.eval.speaker import Speaker
from tilth.report import facts, page
from tilth.report.live import Console, console
from tilth.train import estimate as estimating
from tilth.train.learner import equip
from tilth.train.plan import Machine, Plan, count, plan, remember, shape
from tilth.train.world import World

from .data.tokens.store import TokenStore, write_stores
from .data.tokens.tokenizer import Tokenizer

GENERATION = "generation_config.json"
ORIGIN = "origin.json"
"""How an imported model was stored: {"dtype"}. Both go along to what is trained from it."""
STDLIB = {
    "sources": {"code": {"use": "stdlib", "part": "code"}, "prose": {"use": "stdlib", "part": "prose"}},
    "curate": [{"use": "rules"}, {"use": "exact"}, {"use": "near"}],
    "holdout": {"fraction": 0.05},
}
"""Text every machine with Python has: the corpus of recipes/first.yaml."""


@dataclass
class Prepared:
    """Text that became tokens."""

    documents: Documents
    tokenizer: Tokenizer
    stores: dict[str, dict[str, TokenStore]]


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


def run(
    recipe: str | Path | Recipe,
    overrides: dict[str, Any] | list[str] | None = None,
    *,
    run_dir: str | Path | None = None,
    root: str | Path = "runs",
    out: Console | None = None,
) -> Finished:
    """Do the whole job a recipe asks for and return the finished run. Nothing that is done already is done again.

    Raises RecipeError, DataError, PlanError before anything is trained; Interrupted after a signal, with a
    checkpoint saved: the same call goes on from there.
    """
    resolved = _resolved(recipe, overrides)
    with World(resolved.recipe.timeout) as world, Interrupt(raising=True) as interrupt:
        world.limit_threads()
        out = out or console(quiet=world.rank > 0)
        job = _Job(resolved, run_dir, Path(root), world, out, interrupt)
        try:
            return job.run()
        except Stopped as err:
            raise Interrupted(
                f"{err}: stopped while {job.doing}.", fix="The same command goes on from what is finished."
            ) from None
        except Exception as err:
            crash.remember(err, job.scene())
            raise
        finally:
            out.close()


def make_plan(
    recipe: str | Path | Recipe, overrides: Any = None, *, root: str | Path = "runs", out: Console | None = None
) -> tuple[Resolved, Plan, Prepared]:
    """Prepare the data (cached) and count what the recipe will cost; trains nothing."""
    resolved = _resolved(recipe, overrides)
    cache = Path(root) / ".cache"
    say = (out or console()).say
    prepared = prepare(resolved.recipe, cache, say)
    start = start_of(resolved.recipe, prepared.tokenizer)
    check(resolved.recipe, start, prepared.tokenizer, say)
    check_held_out(resolved.recipe, prepared.documents, say)
    return resolved, plan(resolved.recipe, prepared.stores, start.vocab_size, cache), prepared


def estimate(
    recipe: str | Path | Recipe,
    overrides: Any = None,
    *,
    on: Machine = Machine(),
    exact: bool = False,
    root: str | Path = "runs",
    out: Console | None = None,
) -> Plan:
    """Count what a recipe will cost `on` a machine: from what is prepared already, else in seconds from a glimpse of
    the text (`numbers["estimate"]` says so). With `exact` the data are prepared first. A plan that cannot work says
    why (`refusal`); what the recipe or its data do not allow anyway raises.
    """
    resolved = _resolved(recipe, overrides)
    cache, asked, say = Path(root) / ".cache", resolved.recipe, (out or console()).say
    if exact or asked.data is not None or brought(asked.corpus.sources) or _mark(asked, cache).exists():
        prepared = prepare(asked, cache, say)
        have: dict[str, Any] = {name: splits["train"] for name, splits in prepared.stores.items()}
        seen: dict[str, Any] = have
        tokenizer, vocab_size, told, unknown = prepared.tokenizer, prepared.tokenizer.vocab_size, None, []
    else:
        found = estimating.estimate(asked)
        have, seen, tokenizer, vocab_size = found.expected, found.seen, found.tokenizer, found.vocab_size
        told, unknown = found.numbers(), found.unknown
    start = start_of(asked, tokenizer, vocab_size)
    check(asked, start, tokenizer, say)
    with device.pretending(bfloat16=True) if on.memory_bytes else contextlib.nullcontext():
        counted = count(asked, have, seen, start.vocab_size, cache, on, unknown)
    counted.numbers |= {"estimate": told, "rate_named": on.rate is not None}
    if isinstance(counted.refusal, PlanError):
        counted.refusal.numbers = counted.numbers
    return counted


def _mark(recipe: Recipe, cache: Path) -> Path:
    """Lies in the cache once a recipe's data are prepared."""
    return cache / f"prepared-{content_hash([documents_key(recipe.corpus), dump(recipe.tokenizer)])}"


def load(path: str | Path) -> Speaker:
    """A speaker from a run directory or a Hugging Face directory, on the device at hand. Raises DataError for anything
    else."""
    speaker = _read(Path(path))
    speaker.model.to(device.at_hand())
    return speaker


def _read(path: Path) -> Speaker:
    """The same in the machine's memory."""
    refuse_other_run(path, "training run")
    if (path / "model" / "model.json").is_file():
        _check_files(path)
        dtype = read_json(path / ORIGIN, missing={}).get("dtype", "float32")
        generation = read_json(path / GENERATION, missing=None, finite=False)
        model, tokenizer = io.load_model(path / "model"), Tokenizer.load(path / "tokenizer")
        return Speaker(model, tokenizer, generation=generation, dtype=dtype)
    if (path / "config.json").is_file():
        changed = f"Export the model again. If the change was meant, remove {path / LIST}."
        Manifest(path).check(fix=changed)
        brought = hf.import_hf(path)
        tokenizer, generation = Tokenizer.load(brought.tokenizer), hf.generation_config(path)
        return Speaker(brought.model, tokenizer, generation=generation, dtype=brought.dtype)
    if (path / "recipe.yaml").is_file():
        raise DataError("this run has no finished model yet.", where=str(path), fix="`tilth run` it to its end first.")
    lists = "`tilth ls` lists the runs; 'latest' is the newest."
    if not path.exists():
        raise DataError("there is no such directory.", where=str(path), fix=lists)
    raise DataError(
        "this is neither a run directory (model/model.json) nor a Hugging Face directory (config.json).",
        where=str(path),
        fix=f"`tilth run {path}` makes a run of a recipe. {lists}" if path.suffix in (".yaml", ".yml") else lists,
    )


def _check_files(run: Path) -> None:
    """Raise DataError naming a file of a run or import that decides what the model says and has changed. The weights
    are compared with model.json when they are read."""
    again = run / "recipe.yaml"
    fix = f"`tilth run {again} --run {run}` tells what helps." if again.exists() else "Import the model again."
    Manifest(run).check(lambda n: n in ("model/model.json", GENERATION, ORIGIN) or n.startswith("tokenizer/"), fix)


def prepare(recipe: Recipe, cache: Path, say: Any) -> Prepared:
    """Documents, tokenizer and token shards of a recipe, each from the cache where its inputs have not changed."""
    cache.mkdir(parents=True, exist_ok=True)
    sweep(cache.parent)
    there = None if recipe.data is None else ready.tokens(recipe.data)
    documents = prepare_documents(recipe.corpus, cache, say)
    if there is not None:
        tokenizer = ready.tokenizer(there, recipe.tokenizer.prepare(documents, cache, say))
        return Prepared(documents, tokenizer, ready.stores(there, documents, say))
    tokenizer = Tokenizer.load(recipe.tokenizer.prepare(documents, cache, say))
    made = write_stores(documents, tokenizer, cache, say, brought=brought(recipe.corpus.sources))
    prepared = Prepared(documents, tokenizer, made)
    if not (mark := _mark(recipe, cache)).exists():
        mark.touch()
    return prepared


def evaluate(
    model: str | Path,
    recipe: str | Path | None = None,
    *,
    tasks: Sequence[Any] = (),
    root: str | Path = "runs",
    out: Console | None = None,
) -> dict[str, Any]:
    """Evaluate a run or Hugging Face directory with the held-out text and tasks of a recipe (default: the run's).

    `tasks` are measured instead of the recipe's: configurations of the area "task", or `{use: …}`. A Hugging Face
    directory without a recipe is scored on held-out parts of this Python's standard library.
    """
    given = [resolve("task", task) for task in tasks]
    for task in given:
        if hasattr(task, "check"):
            task.check()
    out = out or console()
    speaker = load(model)
    if recipe is None and (Path(model) / "recipe.yaml").is_file():
        recipe = Path(model) / "recipe.yaml"
    if recipe is not None:
        Manifest(model).check(lambda name: Path(model) / name == Path(recipe), "Name another recipe with --recipe.")
        asked = recipes.load(recipe).recipe
        corpus, wanted = asked.corpus, asked.eval.tasks
        speaker.model.to_compute(asked.precision.compute_dtype)
    else:
        if not given:
            out.say("no recipe was named: scoring held-out parts of this Python's standard library")
        corpus, wanted = validate(recipes.Corpus, STDLIB), recipes.Eval().tasks
    cache = Path(root) / ".cache"
    cache.mkdir(parents=True, exist_ok=True)
    documents = cached(lambda: prepare_documents(corpus, cache, out.say))
    result = run_tasks(speaker, documents, given or wanted, say=out.say)
    for line in ["", *tell(result)]:
        out.say(line)
    return result


def import_hf(hf_dir: str | Path, run_dir: str | Path, ignore: Sequence[str] = ()) -> dict[str, Any]:
    """Bring a Hugging Face checkpoint into a new run directory, with a `base.yaml` a recipe can extend.

    Raises RunInUse if the directory holds a run already.
    """
    target = RunDir(run_dir)
    if target.path.exists():
        raise RunInUse("there is something in this place already.", where=str(target.path), fix="Name a new one.")
    config, model, tokenizer_dir, dtype = hf.import_hf(Path(hf_dir), ignore=tuple(ignore))
    tokenizer = Tokenizer.load(tokenizer_dir)
    Speaker(model, tokenizer)  # refuses a tokenizer that does not fit
    base = {"model": dump(config), "tokenizer": {"use": "pretrained", "path": "tokenizer"}, "init": "."}
    with whole_dir(target.path) as aside:
        tokenizer.save(aside / "tokenizer")
        io.save_model(aside / "model", config, model, model.vocab_size, model.max_sequence)
        write_json(aside / GENERATION, hf.generation_config(hf_dir))
        write_json(aside / ORIGIN, {"dtype": dtype})
        write_whole(aside / "base.yaml", yaml.safe_dump(base, sort_keys=False))
        seal(aside)
    total = config.num_parameters(model.vocab_size, model.max_sequence)["total"]
    return {"run": str(target.path), "base": str(target / "base.yaml"), "parameters": total}


@dataclass(frozen=True)
class Start:
    """The sizes training starts with and, with `init:`, the content of the weights it starts from."""

    vocab_size: int
    max_sequence: int
    weights: str | None = None
    generation: Mapping[str, Any] | None = None
    """Fields of the generation_config.json that came with these weights."""
    dtype: str = "float32"
    """What they were stored as."""


def start_of(recipe: Recipe, tokenizer: Tokenizer, vocab_size: int | None = None) -> Start:
    """Sizes of the model to train; `vocab_size`: of the tokenizer, where this one stands for it.

    Raises DataError or RecipeError if `init:` names weights that do not fit.
    """
    longest = max(stage.batch.sequence for stage in recipe.stages)
    extra = max(stage.objective.extra_tokens for stage in recipe.stages)
    if recipe.init is None:
        return Start((vocab_size or tokenizer.vocab_size) + extra, longest)
    source = _read(Path(recipe.init))
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
    )


def check(recipe: Recipe, start: Start, tokenizer: Tokenizer, say: Any) -> None:
    """Refuse, before anything is trained, what would only fail after it: the export, the prompts, the tasks' files."""
    try:
        if recipe.export.format != "none":
            hf.choose(recipe.model, start.max_sequence, recipe.export.format, tokenizer)
    except DataError as err:
        if recipe.export.format != "auto":
            raise RecipeError(err.what, where="export.format", fix=err.fix) from None
        say(f"there will be no export: {err.what}")
    for stage in recipe.stages:
        stage.objective.check(tuple(recipe.corpus.sources))
        _rehearse(recipe, stage)
    for i, prompt in enumerate(recipe.eval.samples):
        tokens = len(tokenizer.encode(prompt)) + 1
        if tokens > start.max_sequence:
            raise RecipeError(
                f"this prompt has {tokens} tokens and the model will read at most {start.max_sequence}.",
                where=f"eval.samples.{i}",
                fix="Shorten it, or train on longer sequences.",
            )
    figure, _, domain = recipe.eval.by.partition(".")
    known = ["bits_per_byte", *(use_name(t) for t in recipe.eval.during)]
    if recipe.eval.keep == "best" and figure not in known:
        raise RecipeError(f"'{figure}' is not measured while training.", where="eval.by", fix=nearest(figure, known))
    domains = {**recipe.corpus.sources, **recipe.corpus.held_out}
    if recipe.eval.keep == "best" and figure == "bits_per_byte" and domain not in ("", *domains):
        raise RecipeError(f"there is no source '{domain}'.", where="eval.by", fix=nearest(domain, domains))
    for task in (*recipe.eval.tasks, *recipe.eval.during):
        if hasattr(task, "check"):
            task.check()


def check_held_out(recipe: Recipe, documents: Documents, say: Any) -> None:
    """Say, before anything is trained, what will not be measured because no text is held out."""
    has = [*documents.held_out, *(n for n, a in documents.ledger.items() if a["held_out"]["documents"])]
    names = [use_name(t) for t in (*recipe.eval.tasks, *recipe.eval.during) if getattr(t, "path", None) is None]
    needing = [name for name in dict.fromkeys(names) if name in ("bits_per_byte", "minimal_pairs")]
    if not has and needing:
        helps = "corpus.held_out takes text of your own"
        if recipe.data is None:
            helps = f"corpus.holdout.fraction above 0 holds documents out, {helps}"
        say(f"no text is held out, so {' and '.join(needing)} will have nothing to score: {helps}")


def _rehearse(recipe: Recipe, stage: Any) -> None:
    """One step of one small layer of the recipe's parameterisation with the stage's optimizer.

    Raises PlanError if the parameterisation cannot deal with the state that optimizer keeps.
    """
    weights: Any = getattr(recipe.model, "weights", None)
    width = recipe.model.width
    place, layer = "blocks.0.attention.v", None
    for side in sorted({min(64, width), width}) if weights is not None else ():
        with contextlib.suppress(PlanError):  # its rank may need the full width; what does not fit at all is said later
            layer = weights.linear(side, side, place)
            break
    if layer is None or not (parts := [m for m in layer.modules() if isinstance(m, Part)]):
        return
    layer.reset(recipe.seed, place, 0.02)
    named = [(n, p) for n, p in layer.named_parameters() if p.requires_grad]
    roles = [NamedParam(f"{place}.{n}", p, "matrix" if p.ndim > 1 else "vector") for n, p in named]
    try:
        optimizer = recipe.precision.wrap(stage.optim.build(roles))
    except PlanError:  # it wants a whole model; the plan builds it on one
        return
    view = _Rehearsal(optimizer)
    step = Step(layer, _NOTHING, Clock(0, 1), view=view)
    for part in parts:
        part.before(step)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()
    result = StepResult(0.0, 0.0, 0.0, 1, 1, {}, True)
    for part in parts:
        part.after(step, result)


_NOTHING: Any = None
"""The batch of a step in which no text is read."""


class _Rehearsal(View):
    """What a layer may ask of a step without a learner: its optimizer."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """See View."""
        return self._optimizer


def identity(recipe: Recipe, prepared: Prepared, start: Start) -> dict[str, Any]:
    """What decides the weights: two runs with equal identities train equal models."""
    return {
        "data": _data(recipe, prepared),
        "model": content_hash(dump(recipe.model)),
        "stages": content_hash(recipe.to_dict()["stages"]),
        "seed": recipe.seed,
        "precision": content_hash([dump(recipe.precision), str(recipe.precision.compute_dtype)]),
        "init": start.weights,
        **({"init_draw": recipe.init_draw} if recipe.init_draw else {}),
        **({"keep": _measured_while_training(recipe)} if recipe.eval.keep == "best" else {}),
    }


def _data(recipe: Recipe, prepared: Prepared) -> str:
    """Content of what is trained on. Tokens that were there already are cut in their own way."""
    made = [prepared.documents.key, prepared.tokenizer.fingerprint]
    if recipe.data is not None or brought(recipe.corpus.sources):
        made += [splits["train"].fingerprint for splits in prepared.stores.values()]
    return content_hash(made)


def _measured_while_training(recipe: Recipe) -> str:
    """Content of what decides which weights are the best."""
    asked = recipe.eval
    return content_hash([asked.every, asked.max_tokens, asked.by, _content(asked.during)])


def _content(tasks: Sequence[Any]) -> list[Any]:
    """Tasks with the content of the files they read."""
    return [[dump(t), [file_hash(f) for f in t.files()] if hasattr(t, "files") else []] for t in tasks]


def _init_seed(recipe: Recipe) -> int:
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


def _resolved(recipe: str | Path | Recipe, overrides: Any) -> Resolved:
    if isinstance(recipe, Recipe):
        return recipes.override(recipe.to_dict(), {}, overrides, where=recipe.name)
    return recipes.load(recipe, overrides)


class _Job:
    """One run of one recipe by one process among `world`."""

    def __init__(
        self, resolved: Resolved, run_dir: Any, root: Path, world: World, out: Console, interrupt: Interrupt
    ) -> None:
        self.recipe, self.resolved, self.world, self.out = resolved.recipe, resolved, world, out
        self.cache = root / ".cache"
        self.root, self.given = root, run_dir
        self.interrupt = interrupt
        self.begin = time.time()
        self.doing = "preparing the data"
        self.opened: Path | None = None

    def scene(self) -> crash.Scene:
        """Where this job is, for a crash file."""
        rows: list[dict[str, Any]] = []
        if self.opened is not None:
            with contextlib.suppress(DataError, OSError):  # the fault may be theirs
                rows = read_rows(self.opened / "metrics.jsonl")
        step = rows[-1]["global_step"] if rows else None
        return crash.Scene(self.opened, self.doing, step, recipes.to_yaml(self.recipe))

    def run(self) -> Finished:
        first = self.world.rank == 0
        given = None if self.given is None else str(Path(self.given).resolve())
        asked = {"recipe": self.recipe.to_dict(), "run directory": given, "root": str(self.root.resolve())}
        self.world.compare("asked", {**asked, "versions": machine.libraries()})
        with self.world.first_before_others(self.doing):
            self.prepared = self._prepare() if first else prepare(self.recipe, self.cache, self.out.say)
        self.start = start_of(self.recipe, self.prepared.tokenizer)
        check(self.recipe, self.start, self.prepared.tokenizer, self.out.say)
        check_held_out(self.recipe, self.prepared.documents, self.out.say)
        self.identity = identity(self.recipe, self.prepared, self.start)
        name = f"{self.recipe.name}-{content_hash(self.identity, 8)}"
        self.dir = RunDir(self.given or self.root / name)
        self.plan = plan(self.recipe, self.prepared.stores, self.start.vocab_size, self.cache, self.world.size)
        self.world.compare("data", {**self.identity, "trained already": trained(self.dir)})
        self.world.connect()
        if not first:
            return self._train_only()
        claim(self.dir, self.identity)  # before the lock is put there
        with self.dir.lock():
            self.record = Record(self.dir, self.identity, self.out.say)
            self._open()
            self.opened = self.dir.path
            try:
                self._train_if_needed()
                self.world.leave()  # what follows is this rank's alone
                self._after_training()
            except BaseException as err:
                stopped = isinstance(err, (Interrupted, KeyboardInterrupt))
                # the disk may be what failed; the first error is the one to tell
                with contextlib.suppress(Exception):
                    self._end("interrupted" if stopped else "failed", error=str(err) or type(err).__name__)
                raise
            page_path = self._end("done")
            for line in self._results():
                self.out.say(line)
            self.out.say(f"report: {page_path}")
        return Finished(self.dir.path, self.recipe)

    def _end(self, status: str, **more: Any) -> Path:
        self.record.status(status, **more)
        report = page.write(self.dir.path)
        self.record.close()
        return report

    def _prepare(self) -> Prepared:
        """The data; of a source of which nothing is left, the funnel and a report that says why."""
        try:
            return prepare(self.recipe, self.cache, self.out.say)
        except NothingLeft as err:
            for line in err.funnel():
                self.out.say(line)
            self._tell_nothing_left(err, self.root / f"{self.recipe.name}-nothing-left")
            raise

    def _tell_nothing_left(self, err: NothingLeft, folder: Path) -> None:
        """The report in `folder`, in place of an earlier one; of another's files there none is touched."""
        listed = Manifest(folder)
        for name in ("recipe.yaml", "data.json", "report.html"):
            if (folder / name).exists() and not listed.lists(name):
                self.out.say(f"no report: {folder / name} was there already, and is not listed as a report's")
                return
        with listed.writing("recipe.yaml", "data.json"):
            write_whole(folder / "recipe.yaml", recipes.to_yaml(self.recipe))
            examples = [{"reason": r, **e} for r, es in err.account["examples"].items() for e in es]
            write_json(folder / "data.json", {"sources": {err.name: err.account | {"examples": examples}}})
        report = page.write(folder)
        listed.add(report.name)
        self.out.say(f"report: {report}")

    # ---- opening the run directory -----------------------------------------------------------------------------

    def _open(self) -> None:
        self.record.open(recipes.to_yaml(self.recipe), self.resolved.origins, self.plan.numbers)
        self.prepared.tokenizer.save(self.dir.tokenizer)
        if self.start.generation is not None:
            write_json(self.dir / GENERATION, self.start.generation)
            write_json(self.dir / ORIGIN, {"dtype": self.start.dtype})
        self._write_data()
        self.out.say(f"run: {self.dir.path}")
        self.record.status("running")

    def _write_data(self) -> None:
        """data.json: what went in, the plan per source and, once trained, what was realised."""
        realised: list[list[dict[str, Any]]] = []
        if trained(self.dir):
            rows = self.record.rows()
            counted = [
                max((r["step"] for r in rows if r["stage"] == s.stage.name), default=0) for s in self.plan.stages
            ]
            realised = [s.sampler.plan(n) for s, n in zip(self.plan.stages, counted, strict=True)]
        sources = {}
        for name, counts in self.prepared.documents.ledger.items():
            splits = self.prepared.stores[name]
            examples = [{"reason": r, **e} for r, es in counts.get("examples", {}).items() for e in es]
            sources[name] = {
                **counts,
                "examples": examples,
                "tokens_train": splits["train"].num_tokens,
                "tokens_held_out": splits["held_out"].num_tokens if "held_out" in splits else 0,
            }
        per_token = {n: c["kept_bytes"] / max(1, c["tokens_train"] + c["tokens_held_out"]) for n, c in sources.items()}
        data = {
            "key": self.prepared.documents.key,
            "notices": [*self.prepared.documents.notices, *self.prepared.documents.promises],
            "held_out": self.prepared.documents.held_out,
            "sources": sources,
            "tokenizer": {"vocab_size": self.start.vocab_size, "bytes_per_token": per_token},
            "stages": [
                {"name": s.stage.name, "plan": _shown(s.rows), "realised": _shown(realised[i]) if realised else []}
                for i, s in enumerate(self.plan.stages)
            ],
        }
        write_json(self.dir / "data.json", data)

    # ---- training ------------------------------------------------------------------------------------------------

    def _train_only(self) -> Finished:
        """What ranks other than the first do: only the steps."""
        self._train_if_needed()
        return Finished(self.dir.path, self.recipe)

    def _train_if_needed(self) -> None:
        self.doing = "training"
        with self.world.watched():
            self._train_together()

    def _train_together(self) -> None:
        self.world.barrier()  # the first rank has opened the directory
        self.opened = self.dir.path
        if trained(self.dir):
            self.out.say("trained already: this recipe's weights are in model/")
            return
        from tilth.train.session import Session, Setting  # with what saves checkpoints, which planning does without

        model = Session(
            Setting(
                recipe=self.recipe,
                plan=self.plan,
                dir=self.dir,
                world=self.world,
                out=self.out,
                identity=self.identity,
                build_model=self._build_model,
                evaluate=self._quick_bits,
                measure=self._figures,
                decode=self.prepared.tokenizer.decode,
                interrupt=self.interrupt,
            )
        ).run()
        if self.world.rank == 0:
            self._keep_weights(model)

    def _quick_bits(self, model: Any) -> dict[str, float]:
        speaker = Speaker(model, self.prepared.tokenizer)
        return bits_per_byte.quick(speaker, self.prepared.documents, self.recipe.eval.max_tokens)

    def _figures(self, model: Any) -> dict[str, float]:
        speaker = Speaker(model, self.prepared.tokenizer)
        return figures(run_tasks(speaker, lambda: self.prepared.documents, self.recipe.eval.during))

    def _keep_weights(self, model: Any) -> None:
        with self.record.manifest.writing("model"):
            io.save_model(self.dir / "model", self.recipe.model, model, self.start.vocab_size, self.start.max_sequence)
        self._write_data()
        rows = self.record.rows()
        seconds = sum(r["step_seconds"] for r in rows)
        measured = {
            "seconds": seconds,
            "peak_memory_bytes": max(r["peak_memory_bytes"] for r in rows),
            "flops_per_second": self.plan.numbers["flops_total"] / seconds,
            "run": self.dir.path.name,
            "shape": shape(self.recipe),
        }
        if not self.dir.path.parent.name.startswith(".verify."):  # a proof's few steps say nothing of speed
            remember(self.cache, self.plan.numbers, measured, self.world.size)

    def _build_model(self) -> Any:
        recipe = self.recipe
        model: Any = recipe.model.build(self.start.vocab_size, self.start.max_sequence)
        if recipe.init is None:
            model.init_weights(_init_seed(recipe))
        else:
            source = _read(Path(recipe.init)).model
            if getattr(source.config, "weights", None) == getattr(recipe.model, "weights", None):
                model.load_state_dict(_with_rows(source.state_dict(), model), strict=True)
            else:
                model.init_weights(_init_seed(recipe))
                load_dense_state(model, _with_rows(to_dense_state(source), model))
        equip(model, (stage.objective for stage in recipe.stages), _init_seed(recipe))
        return model

    # ---- after training ------------------------------------------------------------------------------------------

    def _after_training(self) -> None:
        self.doing = "evaluating and exporting"
        speaker = load(self.dir.path)
        weights = read_json(self.dir / "model" / "model.json")["sha256"]
        speaker.model.to_compute(self.recipe.precision.compute_dtype)
        recipe = self.recipe.to_dict()
        tasks = self.recipe.eval.tasks
        with self.record.part("eval.json", [weights, _content(tasks), self.prepared.documents.key]) as todo:
            if todo:
                self.out.say("evaluating …")
                result = run_tasks(speaker, lambda: self.prepared.documents, tasks, say=self.out.say)
                write_json(self.dir / "eval.json", result)
        asked = self.recipe.eval
        settings: dict[str, Any] = {
            "max_tokens": asked.sample_tokens,
            "temperature": asked.sample_temperature,
            "top_p": 0.95,
        }
        with self.record.part("samples.json", [weights, asked.samples, settings]) as todo:
            if todo:
                texts = speaker.generate(asked.samples, seed=self.recipe.seed, **settings)
                pairs = zip(asked.samples, texts, strict=True)
                write_json(self.dir / "samples.json", [{"prompt": p, "text": t} for p, t in pairs])
        if self.recipe.export.format != "none" and self._exportable():
            with self.record.part("export", [weights, recipe["export"]]) as todo:
                if todo:
                    wanted = self.recipe.export
                    said = speaker.export(self.dir.export, wanted.format, dtype=wanted.dtype)
                    self.out.say(f"export: {self.dir.export} ({said})")

    def _results(self) -> list[str]:
        """What `tilth eval` prints of this run, and which weights were kept where that was a choice."""
        chosen = [facts.kept_sentence(e) for e in read_rows(self.dir.events)[::-1] if e.get("event") == "kept"][:1]
        return ["", *tell(read_json(self.dir / "eval.json")), "", *chosen]

    def _exportable(self) -> bool:
        """Whether an architecture can hold the model; `check` has said so before training if none can."""
        try:
            return bool(
                hf.choose(
                    self.recipe.model, self.start.max_sequence, self.recipe.export.format, self.prepared.tokenizer
                )
            )
        except DataError:
            return False


def _shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sampler's rows as data.json holds them."""
    return [
        {"source": r["source"], "weight": r["share"], "tokens": r["planned_tokens"], "epochs": r["epochs"]}
        for r in rows
    ]
