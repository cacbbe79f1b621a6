"""`tilth data …`: the verbs of the data engine."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from tilth import command
from tilth.command import Json, Overrides, RecipePath, Root, console_for
from tilth.core.text import visible

app = typer.Typer(
    help="From a crawl to clean, deduplicated, traceable tokens. Start with: tilth data run recipes/data/first.yaml",
    no_args_is_help=True,
    rich_markup_mode=None,
)

DataRun = Annotated[
    Path, typer.Argument(help="Directory of a data run; 'latest': the newest.", show_default=False), ("data run",)
]
Engine = Annotated[str, typer.Option(help="daft (worker processes here), ray (a cluster) or inline (this process).")]
Workers = Annotated[int | None, typer.Option(help="Worker processes (default: one per core).", min=1)]


def verb(name: str, goes_on: bool = False) -> Any:
    """A verb of `tilth data`."""
    return functools.partial(command.verb, app)(name, f"data {name}", goes_on)


@verb("run", goes_on=True)
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    engine: Engine = "daft",
    workers: Workers = None,
    run_dir: Annotated[Path | None, typer.Option("--run", help="Run directory; by default named by content.")] = None,
    root: Root = Path("runs"),
    json_output: Json = False,
) -> Any:
    """Do a data recipe: read, judge, deduplicate, write documents and tokens. Goes on where it stopped."""
    from tilth.data.engine import run as engine_run

    out = console_for(json_output)
    finished = _reported(
        out.say,
        recipe,
        overrides,
        root=root,
        run_dir=run_dir,
        engine=engine_run.known_engine(engine),
        num_workers=workers,
    )
    return finished.summary()


def _reported(say: Any, *what: Any, **options: Any) -> Any:
    """Do a data run; of one that leaves nothing, write the report that says why."""
    from tilth import job
    from tilth.data.engine import run as engine
    from tilth.data.engine.ledger import NothingLeft

    run: Any = engine.run
    try:
        return run(*what, say=say, opens=job.load, **options)
    except NothingLeft as err:
        from tilth.report import data_page

        say(f"report: {data_page.write(err.run)}")
        raise


@verb("signals", goes_on=True)
def signals(
    recipe: RecipePath,
    overrides: Overrides = None,
    engine: Engine = "daft",
    workers: Workers = None,
    root: Root = Path("runs"),
    json_output: Json = False,
) -> Any:
    """Compute every signal the steps read of every document, drop nothing, and show how they are distributed."""
    from tilth.data.engine import run as engine_run

    from .data.engine import distributions as tables
    from .data.engine.recipe import load

    out = console_for(json_output)
    finished = _reported(
        out.say,
        tables.only_signals(load(recipe, overrides)),
        root=root,
        engine=engine_run.known_engine(engine),
        num_workers=workers,
    )
    found = tables.distributions(finished.dir)
    for line in tables.tell(found):
        out.say(line)
    return {"dir": str(finished.dir), "signals": found}


@verb("tune")
def tune(
    run: DataRun,
    thresholds: Annotated[
        list[str],
        typer.Argument(
            help="Moved thresholds, as `data run` takes them: steps.gopher_quality.min_words=30", show_default=False
        ),
    ],
    examples: Annotated[int, typer.Option(help="Documents shown on each side.", min=0)] = 3,
    json_output: Json = False,
) -> Any:
    """Show what would enter and leave if thresholds moved, from the kept signals alone."""
    from tilth.data.engine import tune as tuning

    result = tuning.tune(run, thresholds, examples)
    if not json_output:
        print("\n".join(tuning.tell(result)))
    return result


@verb("trace")
def trace(
    what: Annotated[
        str,
        typer.Argument(
            help="A document's id, or a training run's directory; 'latest': the newest.", show_default=False
        ),
        command.TRAINED,
    ],
    run: Annotated[
        Path | None, typer.Option("--run", help="The data run that knows the document (default: look in --root).")
    ] = None,
    step: Annotated[int | None, typer.Option(help="Of a training run: this step's documents.", min=0)] = None,
    root: Root = Path("runs"),
    json_output: Json = False,
) -> Any:
    """Follow a document through every decision about it, or a training step back to its documents and their bytes."""
    from tilth import tracing

    result = tracing.trace(what, run=run, step=step, root=root)
    if not json_output:
        print("\n".join(tracing.tell(result)))
    return result


@verb("import")
def import_tokens(
    path: Annotated[
        Path,
        typer.Argument(help="Megatron prefix, folder of MDS shards, or token store.", show_default=False),
    ],
    target: Annotated[Path, typer.Argument(help="New directory for the store and its tokenizer.", show_default=False)],
    tokenizer: Annotated[
        Path, typer.Option(help="What made the tokens: tokenizer.json, or a directory with one.", show_default=False)
    ],
    format: Annotated[str | None, typer.Option(help="megatron, mds or store (default: what is there).")] = None,
    column: Annotated[str, typer.Option(help="MDS: the column of token ids.")] = "tokens",
    dtype: Annotated[str, typer.Option(help="MDS: integers of a column of bare bytes.")] = "int64",
    json_output: Json = False,
) -> Any:
    """Bring in tokens made elsewhere: Megatron's .bin and .idx, MDS shards, or a token store."""
    from tilth.data.tokens import exchange

    wanted = None if format is None else exchange.known_format(format)
    found = exchange.bring_in(path, target, tokenizer, wanted, column, dtype)
    if not json_output:
        print(f"{target}: {found['tokens']:,} tokens of {found['documents']:,} documents ({found['format']})")
        print(f"the first begins: {visible(found['begins'])[:100]}")
        print(f"a recipe trains on it: data: {{sources: {{web: {{use: store, path: {target}}}}}}}, tokenizer: ", end="")
        print(f"{{use: pretrained, path: {target / 'tokenizer'}}}")
    return found


@verb("export")
def export_tokens(
    path: Annotated[Path, typer.Argument(help="Training run, data run or token store.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="Prefix (megatron) or new folder.", show_default=False)],
    format: Annotated[str, typer.Option(help="megatron, mds or store.")] = "megatron",
    max_tokens: Annotated[
        int | None, typer.Option(help="Megatron: begin another pair of files rather than hold more in one.", min=1)
    ] = None,
    source: Annotated[str | None, typer.Option(help="Of a training run with several: which source.")] = None,
    json_output: Json = False,
) -> Any:
    """Take tokens out for other trainers: Megatron's .bin and .idx, MDS shards, or a copy of the store."""
    from tilth.data.tokens import exchange

    made = exchange.take_out(path, target, exchange.known_format(format), max_tokens, source)
    if not json_output:
        print(f"{made['tokens']:,} tokens of {made['documents']:,} documents: {', '.join(made['files'])}")
    return made


@verb("report")
def report(run: DataRun, json_output: Json = False) -> Any:
    """Write the data run's single-file HTML report."""
    from tilth.report import data_page

    path = data_page.write(run)
    if not json_output:
        print(path)
    return {"report": str(path)}


@verb("train-classifier")
def train_classifier(
    folder: Annotated[Path, typer.Argument(help="New folder for the classifier.", show_default=False)],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Learning, e.g. epochs=10 lr=0.5 word_ngrams=2.", show_default=False)
    ] = None,
    positive: Annotated[list[str] | None, typer.Option(help="File of positive examples; may be repeated.")] = None,
    negative: Annotated[list[str] | None, typer.Option(help="File of negative examples; may be repeated.")] = None,
    labelled: Annotated[list[str] | None, typer.Option(help="JSON lines with text and label; may be repeated.")] = None,
    target: Annotated[str, typer.Option(help="The label whose probability is the score.")] = "positive",
    json_output: Json = False,
) -> Any:
    """Train a text classifier from examples, measure it on held-out texts, and keep it for `model:` in a recipe."""
    from tilth.data.scoring import training

    found = training.classifier(folder, positive or [], negative or [], labelled or [], settings or [], target)
    if not json_output:
        print("\n".join(training.tell(folder, found)))
    return {"model": str(folder), **found}
