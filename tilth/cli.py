"""The command line. Every verb is a thin call into the library and takes `--json`; nothing heavy is imported early."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tilth import command
from tilth.cli_data import app as data_app
from tilth.cli_first import app as first_app
from tilth.command import ALL_RUNS, Json, Overrides, RecipePath, Root, RunPath
from tilth.command import console_for as _console

app = typer.Typer(
    name="tilth",
    epilog=command.EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
verb = functools.partial(command.verb, app)


def _version(asked: bool) -> None:
    if asked:
        from tilth.core.version import VERSION

        print(f"tilth {VERSION}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Raw text to a trained, evaluated language model. Start with: tilth demo, then tilth init my.yaml"""


app.add_typer(first_app)
app.add_typer(data_app, name="data")


@verb("run", goes_on=True)
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option("--run", help="Run directory; by default named by content.")] = None,
    root: Root = Path("runs"),
    json_output: Json = False,
) -> Any:
    """Do the whole job: text, tokenizer, training, evaluation, export, report. Goes on where it stopped."""
    from tilth.core import recipe as recipes

    recipes.check_early(recipe, overrides)  # before torch is imported, which takes seconds

    from tilth import job
    from tilth.core import ranks

    out = _console(json_output)
    finished = job.run(recipe, overrides, run_dir=run_dir, root=root, out=out)
    return finished.summary() if ranks.is_first() else None


@verb("plan", goes_on=True)
def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    world: Annotated[int, typer.Option(help="Processes that train together.", min=1)] = 1,
    memory: Annotated[
        str | None, typer.Option(help="Memory of each process on another machine, such as 80GiB (default: this one's).")
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(help="Speed of each process, such as 400TFLOP/s or 12000tok/s (default: that of past runs)."),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Read and tokenise all text (cached) and count it.")] = False,
    root: Root = Path("runs"),
    json_output: Json = False,
) -> Any:
    """Say in seconds, from a part of the text, what a recipe will cost and consume. Refuses what cannot work."""
    from tilth.core import recipe as recipes

    recipes.check_early(recipe, overrides)  # before torch is imported, which takes seconds

    from tilth import job
    from tilth.core import units
    from tilth.train.plan import Machine
    from tilth.train.plan_words import describe

    on = Machine(world, None if memory is None else units.memory(memory), None if rate is None else units.rate(rate))
    out = _console(json_output)
    planned = job.estimate(recipe, overrides, on=on, exact=exact, root=root, out=out)
    for line in describe(planned.numbers):
        out.say(line)
    if planned.refusal is not None:
        raise planned.refusal
    return planned.numbers


@verb("verify")
def verify(
    proofs: Annotated[
        str, typer.Argument(help="resume, packing, accumulation, export, data, determinism, all; or files.")
    ],
    recipe: Annotated[
        Path,
        typer.Argument(help="Recipe file (YAML); of files, a directory, or 'latest'.", show_default=False),
        ALL_RUNS,
    ],
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(help="Steps of the short runs the proofs make.")] = 8,
    root: Root = Path("runs"),
    json_output: Json = False,
) -> Any:
    """Prove on this recipe that resume, packing, accumulation, export, data order and determinism hold. `tilth verify
    files RUN` compares a run's files with what was written."""
    from tilth.core import recipe as recipes

    if proofs != "files":  # those are of a directory, not of a recipe
        recipes.check_early(recipe, overrides)  # before torch is imported, which takes seconds

    from tilth import verify as proving

    return proving.verify(proofs, recipe, overrides, steps=steps, root=root, out=_console(json_output))


@verb("eval")
def evaluate(
    model: RunPath,
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", help="Recipe whose held-out text and tasks are used (default: the run's)."),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            help="Instead of the recipe's, between commas: tasks lm-eval knows (arc_easy), YAML tasks of its kind, "
            ".jsonl files of questions, bits_per_byte, minimal_pairs; or {use: …} as in a recipe. May be repeated."
        ),
    ] = None,
    shots: Annotated[int | None, typer.Option(help="Examples before each question of lm-eval's tasks.", min=0)] = None,
    limit: Annotated[int | None, typer.Option(help="Questions per task, the first ones.", min=1)] = None,
    root: Root = Path("runs"),
    json_output: Json = False,
) -> Any:
    """Evaluate a run or a Hugging Face directory on held-out text and tasks."""
    from tilth import job
    from tilth.eval.asked import parse

    asked = parse(tasks or (), shots, limit)
    return job.evaluate(model, recipe, tasks=asked, root=root, out=_console(json_output))


@verb("generate")
def generate(
    model: RunPath,
    prompt: Annotated[str, typer.Argument(help="Text to continue.")],
    max_tokens: Annotated[int, typer.Option(help="Tokens to write at most.", min=1)] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.8,
    top_p: Annotated[float, typer.Option(help="Nucleus: the smallest set with this much probability.")] = 0.95,
    top_k: Annotated[int | None, typer.Option(help="Only the k likeliest tokens.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same text.")] = 0,
    json_output: Json = False,
) -> Any:
    """Continue a text, streaming."""
    from tilth import job
    from tilth.core.text import visible

    speaker = job.load(model)
    stream = speaker.stream(prompt, max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
    pieces = []
    if not json_output:
        print(visible(prompt), end="", flush=True)
    for piece in stream:
        pieces.append(piece)
        if not json_output:
            print(visible(piece), end="", flush=True)
    if not json_output:
        print()
    return {"prompt": prompt, "text": "".join(pieces)}


@verb("chat")
def chat(
    model: RunPath,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.8,
    max_tokens: Annotated[int, typer.Option(help="Tokens per answer at most.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Same seed, same answers.")] = 0,
    json_output: Json = False,
) -> Any:
    """Talk to a model in the terminal (it continues text; it was not tuned to answer)."""
    from tilth import job
    from tilth.eval.chat import chat as talk

    return talk(job.load(model), temperature=temperature, max_tokens=max_tokens, seed=seed, json_output=json_output)


@verb("report")
def report(
    run: RunPath,
    watch: Annotated[
        bool, typer.Option("--watch", help="Serve it on 127.0.0.1 and renew it while the run goes on.")
    ] = False,
    port: Annotated[int, typer.Option(help="With --watch: the port; 0 takes a free one.", min=0, max=65535)] = 0,
    json_output: Json = False,
) -> Any:
    """Write the run's single-file HTML report, or serve it while the run goes on."""
    from tilth.core.rundir import require_run
    from tilth.report import page

    if watch:
        from tilth.report.watch import serve

        return {"url": serve(require_run(run), port, _console(json_output).say)}
    path = page.write(require_run(run))
    if not json_output:
        print(path)
    return {"report": str(path)}


@verb("import")
def import_(
    hf_dir: Annotated[Path, typer.Argument(help="Hugging Face directory.")],
    run_dir: Annotated[Path, typer.Argument(help="New run directory.")],
    ignore: Annotated[list[str] | None, typer.Option(help="A config.json field to pass over, though unknown.")] = None,
    json_output: Json = False,
) -> Any:
    """Bring a Hugging Face checkpoint into a run directory, with a base.yaml to extend for further training."""
    from tilth import job

    data = job.import_hf(hf_dir, run_dir, ignore=ignore or ())
    if not json_output:
        print(f"{run_dir}: {data['parameters']:,} parameters; go on with `extends: {data['base']}`.")
    return data


@verb("export")
def export(
    run: RunPath,
    hf_dir: Annotated[Path, typer.Argument(help="New Hugging Face directory.")],
    format: Annotated[str, typer.Option(help="llama, mistral, qwen2, qwen3, gemma2, olmo2, gpt2 or auto.")] = "auto",
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; by default as an import was stored.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write beside other files of that directory; they stay.")
    ] = False,
    json_output: Json = False,
) -> Any:
    """Write a model as a Hugging Face directory and compare logits and token ids."""
    from tilth import job

    said = job.load(run).export(hf_dir, format=format, dtype=dtype, force=force)
    if not json_output:
        print(f"{hf_dir}: {said}")
    return said.to_dict() | {"path": str(hf_dir), "parity": str(said)}


@verb("list")
def list_(
    area: Annotated[str | None, typer.Argument(help="optim, schedule, weights, …; all areas if left out.")] = None,
    json_output: Json = False,
) -> Any:
    """List the techniques with what they claim, our verdict and what each is exempt from."""
    from tilth.core.technique import broken
    from tilth.lab import catalog

    found = catalog.entries(area)
    if not json_output:
        print("\n".join(catalog.table(found)))
    for left_out in broken():
        print(f"tilth list: {left_out}", file=sys.stderr)
    return [e.as_dict() for e in found]


@verb("show")
def show(
    technique: Annotated[str, typer.Argument(help="Such as optim.muon.", show_default=False)],
    json_output: Json = False,
) -> Any:
    """Show one technique: what it does, its knobs, its evidence, the paper's number beside ours."""
    from tilth.lab import catalog

    data = catalog.show(technique)
    if not json_output:
        print("\n".join(catalog.tell(data)))
    return data


@verb("new")
def new(
    technique: Annotated[str, typer.Argument(help="Such as optim.my_rule.", show_default=False)],
    area: Annotated[str | None, typer.Option("--area", help="Its area, if the name alone is given.")] = None,
    json_output: Json = False,
) -> Any:
    """Write a new technique, a copy of one that works: two files of a checkout, or elsewhere a package."""
    from tilth.lab import new as writing

    paths = writing.new(technique, area=area)
    if not json_output:
        print("\n".join(writing.tell(paths, technique if area is None else f"{area}.{technique}")))
    return {"files": [str(p) for p in paths]}


@verb("check", goes_on=True)
def check(
    technique: Annotated[str | None, typer.Argument(help="Such as optim.muon.", show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="Every technique that claims something.")] = False,
    short: Annotated[bool, typer.Option("--short", help="A few steps on generated text; no evidence.")] = False,
    seeds: Annotated[int, typer.Option(help="Seeds both arms are run with.", min=1)] = 3,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Your own setting instead of recipes/lab/check.yaml.")
    ] = None,
    root: Root = Path("runs"),
    json_output: Json = False,
) -> Any:
    """Hold a technique to its contracts, then try its claim in a small setting and write the evidence."""
    from tilth.core.errors import ProofFailed, RecipeError
    from tilth.lab import check as checking

    if every == (technique is not None):
        raise RecipeError("name one technique, or --all.", fix="tilth check optim.muon")
    say = _console(json_output).say
    options: dict[str, Any] = {"short": short, "seeds": seeds, "recipe": recipe, "root": root, "say": say}
    if technique is None:
        return checking.check_all(**options)
    result = checking.check(technique, **options)
    if not result["passed"]:
        broken = ", ".join(r["name"] for r in result["contracts"] if not r["passed"])
        raise ProofFailed(f"{technique} does not keep its contracts: {broken}.", results=result)
    return result


@verb("compare", goes_on=True)
def compare(
    recipe: RecipePath,
    overrides: Overrides = None,
    arms: Annotated[
        list[str] | None,
        typer.Option(help="optim=adamw,muon or fast=optim.lr=0.01+schedule.use=wsd or a YAML file; may be repeated."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds per arm, from the recipe's on; arms share them.")] = 3,
    budget: Annotated[
        str | None, typer.Option(help="3e13flop, 2e6tok, 60s or 500steps for every run (default: the recipe's own).")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Arm the others are compared with (default: the first); 'recipe': as it is.")
    ] = None,
    tune: Annotated[
        list[str] | None,
        typer.Option(help="optim.lr=1e-4:1e-1 or optim.lr=0.001,0.01; muon:optim.lr=... for one arm; may be repeated."),
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Tuning trials of each arm.", min=1)] = None,
    margin: Annotated[
        str | None, typer.Option(help="Judge 'no worse than the baseline by 0.02' (or 2%) instead of 'better'.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Runs at a time (default: cores / threads).", min=1)] = None,
    threads: Annotated[int, typer.Option(help="Threads of each run.", min=1)] = 1,
    engine: Annotated[str, typer.Option(help="processes, or ray.")] = "processes",
    out_dir: Annotated[Path | None, typer.Option("--out", help="Where compare.json and compare.html go.")] = None,
    root: Root = Path("runs"),
    json_output: Json = False,
) -> Any:
    """Compare methods at one budget over several seeds, with a null control, intervals and a verdict."""
    from tilth.core import recipe as recipes

    recipes.check_early(recipe, overrides)  # before torch is imported, which takes seconds

    from tilth.lab import compare as comparing

    out = _console(json_output)
    result = comparing.from_command_line(
        recipe,
        arms or (),
        overrides=overrides or (),
        seeds=seeds,
        budget=budget,
        baseline=baseline,
        tune=tune or (),
        trials=trials,
        margin=margin,
        workers=workers,
        threads=threads,
        engine=engine,
        root=root,
        out=out_dir,
        say=out.say,
    )
    if not json_output:
        for line in ["", *comparing.tell(result), "", f"report: {result['page']}"]:
            out.say(line)
    return result


@verb("schema")
def schema(json_output: Json = False) -> Any:
    """Print the JSON Schema of recipes, for editors."""
    from tilth.core.schema import schema as recipe_schema

    data = recipe_schema()
    if not json_output:
        print(json.dumps(data, indent=1))
    return data


def main() -> None:
    """Entry point of the `tilth` command."""
    app()


if __name__ == "__main__":
    main()
