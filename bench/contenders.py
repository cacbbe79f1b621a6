"""What bench/train_cpu.py measures: each contender trains in a process of its own, in its own trainer's loop.

    python bench/contenders.py KIND SHAPE BATCHES.npy PRECISION SEED     # started by train_cpu.py

A contender blocks on standard input at the end of its first step and trains as many steps as each line asks for. This
file is also run by the peers' Python, which knows no tilth.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHAPES: dict[str, dict[str, int]] = {
    "A": {"layers": 8, "width": 384, "heads": 6, "ffn": 1024, "vocab": 8192, "sequence": 512, "batch": 8},
    "B": {"layers": 4, "width": 256, "heads": 4, "ffn": 704, "vocab": 4096, "sequence": 256, "batch": 16},
}
BATCHES = 256  # different ones; longer runs see them again
NEVER = 10**6  # steps


def model_fields(shape: dict[str, int]) -> dict[str, Any]:
    """The shape as a recipe's model section."""
    return {
        "use": "decoder",
        **{k: shape[k] for k in ("layers", "width", "heads")},
        "ffn_width": shape["ffn"],
        "tied": False,
    }


def overrides(shape: dict[str, int]) -> dict[str, Any]:
    """The shape as changes of recipes/first.yaml."""
    model = {f"model.{k}": v for k, v in model_fields(shape).items()}
    batch = {"batch.sequence": shape["sequence"], "batch.tokens": shape["batch"] * shape["sequence"]}
    return {**model, **batch, "tokenizer.vocab_size": shape["vocab"], "optim.use": "adamw", "optim.lr": 1e-3}


def write_batches(shape: dict[str, int], root: Path, path: Path) -> None:
    """int32 [3, BATCHES, B, T]: tokens, targets and positions of recipes/first.yaml, tokenised for this shape."""
    import numpy as np

    from tilth import job
    from tilth.core import recipe as recipes
    from tilth.data.feed.sampler import Sampler

    recipe = recipes.load(ROOT / "recipes/first.yaml", overrides(shape)).recipe
    stores = {n: s["train"] for n, s in job.prepare(recipe, root / ".cache", print).stores.items()}
    shares = recipe.stages[0].mixture.shares({n: s.num_tokens for n, s in stores.items()})  # type: ignore[attr-defined]
    sampler = Sampler(stores, shares, shape["sequence"], shape["batch"], seed=0)
    batches = [sampler.batch(step) for step in range(BATCHES)]
    stacked = [np.stack([getattr(b, n).numpy() for b in batches]) for n in ("tokens", "targets", "positions")]
    np.save(path, np.stack(stacked).astype(np.int32))


class Gate:
    """Stands at the end of every step: lets the steps asked for pass, reports, and sleeps until more are asked for."""

    def __init__(self) -> None:
        self._reply = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what the libraries print goes to the log
        self._left, self._begin, self._losses = 1, time.perf_counter(), []
        self.about: dict[str, Any] = {}

    def __call__(self, loss: float | None = None) -> None:
        self._losses.append(loss)
        self._left -= 1
        if self._left == 0:
            seconds = time.perf_counter() - self._begin
            self._reply.write(json.dumps({"seconds": seconds, "losses": self._losses, **self.about}) + "\n")
            self._reply.flush()
            asked = sys.stdin.readline()
            if not asked:
                os._exit(0)
            self._left, self._losses, self._begin = int(asked), [], time.perf_counter()


def train_tilth(gate: Gate, shape: dict[str, int], data: Any, precision: str, seed: int) -> None:
    """tilth's own loop, learner, objective, optimizer and document mask."""
    import torch

    from tilth.arch import native
    from tilth.core.batch import Batch
    from tilth.core.clock import Clock
    from tilth.core.technique import resolve
    from tilth.train.learner import Learner, World, compile_model
    from tilth.train.loop import Timers
    from tilth.train.loop import train as loop

    class Watch:
        def step(self, clock: Clock, result: Any, seconds: float, data_wait: float) -> None:
            gate(result.loss)

        def bad_step(self, clock: Clock, result: Any, batch: Batch) -> None:
            raise RuntimeError(f"the loss is {result.loss} at step {clock.step}")

        def should_stop(self) -> None:
            return None

    def fetch(step: int) -> Batch:
        tokens, targets, positions = torch.from_numpy(data[:, step % BATCHES].copy())
        return Batch(tokens.long(), targets.long(), positions)

    config: Any = resolve("model", model_fields(shape))
    model = config.build(shape["vocab"], shape["sequence"])
    model.init_weights(seed)
    model.compute_dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    world = World()
    compile_model(model, "auto", world.device)
    parts: list[Any] = [
        resolve("objective", "next_token"),
        resolve("optim", {"use": "adamw", "lr": 1e-3}),
        resolve("schedule", {"use": "constant", "warmup": 20}),
    ]
    learner = Learner(model, *parts, clip=1.0, micro=None, world=world)
    gate.about = {
        "parameters": config.num_parameters(shape["vocab"])["total"],
        "flops_per_token": config.flops_per_token(shape["vocab"], shape["sequence"]),
        "native": native.available(),
    }
    loop(learner, fetch, Clock(0, NEVER), Timers(None, None), Watch(), lambda clock: "", lambda clock: None)


def train_hf(gate: Gate, shape: dict[str, int], data: Any, precision: str, seed: int) -> None:
    """`transformers.Trainer` with LlamaForCausalLM."""
    import torch
    import transformers

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return BATCHES * shape["batch"]

        def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
            row = torch.from_numpy(data[0, i // shape["batch"], i % shape["batch"]].copy()).long()
            return {"input_ids": row, "labels": row}

    class Stop(transformers.TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            gate()

    transformers.set_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=shape["vocab"],
        hidden_size=shape["width"],
        intermediate_size=shape["ffn"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        max_position_embeddings=shape["sequence"],
        tie_word_embeddings=False,
        use_cache=False,
    )
    model = transformers.LlamaForCausalLM(config)
    gate.about = {"parameters": model.num_parameters(), "version": transformers.__version__}
    args = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=precision == "bf16",
        optim="adamw_torch_fused",
        learning_rate=1e-3,
        weight_decay=0.1,
        max_grad_norm=1.0,
        per_device_train_batch_size=shape["batch"],
        max_steps=NEVER,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    transformers.Trainer(model=model, args=args, train_dataset=Rows(), callbacks=[Stop()]).train()


def train_litgpt(gate: Gate, shape: dict[str, int], data: Any, precision: str, seed: int) -> None:
    """`litgpt pretrain` in bf16-true: its own main function, which compiles the whole model."""
    import importlib.metadata

    import lightning
    import litgpt
    import torch
    from litgpt import pretrain
    from litgpt.args import EvalArgs, TrainArgs

    class Rows(torch.utils.data.IterableDataset):
        def __init__(self, after: Callable[[], None]) -> None:
            self.after = after

        def __iter__(self) -> Iterator[torch.Tensor]:
            for step in range(NEVER):
                tokens, targets, _ = torch.from_numpy(data[:, step % BATCHES].copy()).long()
                yield torch.cat([tokens, targets[:, -1:]], dim=1)
                self.after()  # the next batch is asked for: the step is done

    class Data(litgpt.data.DataModule):
        def connect(self, *args: Any, **kwargs: Any) -> None: ...

        def train_dataloader(self) -> torch.utils.data.DataLoader:
            return torch.utils.data.DataLoader(Rows(gate), batch_size=None)

        def val_dataloader(self) -> torch.utils.data.DataLoader:
            return torch.utils.data.DataLoader(Rows(lambda: None), batch_size=None)  # two batches before training

    config = litgpt.Config(
        name="bench",
        block_size=shape["sequence"],
        n_layer=shape["layers"],
        n_embd=shape["width"],
        n_head=shape["heads"],
        padded_vocab_size=shape["vocab"],
        vocab_size=shape["vocab"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        intermediate_size=shape["ffn"],
    )
    with torch.device("meta"):
        gate.about["parameters"] = sum(p.numel() for p in litgpt.GPT(config).parameters())
    gate.about["version"] = importlib.metadata.version("litgpt")
    fabric = lightning.Fabric(devices=1, accelerator="cpu", precision="bf16-true" if precision == "bf16" else "32-true")
    fabric.launch()
    tokens = shape["batch"] * shape["sequence"]
    pretrain.main(
        fabric=fabric,
        devices=1,
        seed=seed,
        initial_checkpoint_dir=None,
        resume=False,
        config=config,
        data=Data(),
        out_dir=Path(tempfile.mkdtemp()),
        tokenizer_dir=None,
        tokenizer=None,
        train=TrainArgs(
            save_interval=None,
            log_interval=NEVER,
            global_batch_size=shape["batch"],
            micro_batch_size=shape["batch"],
            max_tokens=NEVER * tokens,
            max_norm=1.0,
            min_lr=1e-4,
            lr_warmup_steps=20,
            tie_embeddings=False,
        ),
        eval=EvalArgs(interval=NEVER, max_iters=2, initial_validation=False, final_validation=False),
        optimizer={"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3, "weight_decay": 0.1}},
    )


def multiply(gate: Gate, shape: dict[str, int], data: Any, precision: str, seed: int) -> None:
    """A "step" is one pass over every product of weights; its figure is (all products, forward ones) in FLOP/s."""
    import torch

    rows, d, f = shape["batch"] * shape["sequence"], shape["width"], shape["ffn"]
    weights = [(shape["layers"], d, n) for n in (3 * d, d, 2 * f)] + [(shape["layers"], f, d), (1, d, shape["vocab"])]
    products = []
    for count, k, n in weights:
        x, w, y, g, v = (torch.randn(s).bfloat16() for s in ((rows, k), (n, k), (rows, n), (rows, k), (n, k)))
        products.append((count, 2 * rows * k * n, ((x, w.T, y), (y, w, g), (y.T, x, v))))
    while True:
        spent = [0.0, 0.0, 0.0]  # forward, input gradient, weight gradient
        for count, _, three in products:
            for which, (a, b, out) in enumerate(three):
                times = []
                for _ in range(4):
                    begin = time.perf_counter()
                    torch.mm(a, b, out=out)
                    times.append(time.perf_counter() - begin)
                spent[which] += count * statistics.median(times[1:])
        flops = sum(count * each for count, each, _ in products)
        gate.about["rates"] = [3 * flops / sum(spent), flops / spent[0]]
        gate()


if __name__ == "__main__":
    import numpy as np

    kind, name, path, precision, seed = sys.argv[1:]
    train = {"tilth": train_tilth, "hf": train_hf, "litgpt": train_litgpt, "matmul": multiply}[kind]
    train(Gate(), SHAPES[name], np.load(path, mmap_mode="r"), precision, int(seed))
