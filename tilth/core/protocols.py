"""The seams of the house: what each kind of part must be able to do. Torch types are named only for the checker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch


Role = Literal["embed", "matrix", "vector", "head"]
"""What a parameter is to an optimizer: token embedding, hidden matrix, norm gain or bias, output head."""


# ---- data ------------------------------------------------------------------------------------------------------


@dataclass
class Verdicts:
    """What a curation step says of a record batch of n documents."""

    keep: np.ndarray
    """bool [n]"""
    reason: list[str]
    """n reasons; "" where kept."""
    value: np.ndarray | None = None
    """float64 [n]: what was measured of each document by the rule that is its reason; NaN where there is none."""
    threshold: np.ndarray | None = None
    """float64 [n]: the limit it was held against; NaN where there is none."""
    text: pa.LargeStringArray | None = None
    """The documents' new texts [n], from a step that edits; None leaves them as they are."""
    edits: list[Edit] = field(default_factory=list)
    """What was changed in the texts of kept documents, so that it can be looked at and undone."""
    metadata: dict[str, list[Any]] = field(default_factory=dict)
    """Facts to put into the documents' metadata: name -> n plain values (None: nothing for this one)."""


class Edit(NamedTuple):
    """One change to one text of a batch. Offsets are in characters (code points) of the text before the step."""

    row: int
    start: int
    stop: int
    rule: str
    """Why: few distinct values."""
    removed: str
    """What stood there; "" where it must not be kept (personal data)."""
    put: str
    """What stands there now."""


class SourceReader(Protocol):
    """A source's configuration: raw text in, documents out.

    One whose pieces can be read independently, by several processes, also has

        shards() -> list[str]                     names of the pieces, in order (plain texts, distinct, never none)
        read(ledger, shard=None) -> batches       the documents of one piece; None: of all, the same in the same order

    The division depends on the source and its configuration alone. Ids that repeat are found within a piece here;
    across pieces that is the engine's.
    """

    def fingerprint(self) -> str:
        """Changes when the text it would read changes (cheap: paths, sizes, times, versions)."""

    def read(self, ledger: Any) -> Iterator[pa.RecordBatch]:
        """Documents in a fixed order (schema tilth.data.document.SCHEMA); faults go to `ledger.quarantine`."""


class CurateStep(Protocol):
    """A curation step's configuration."""

    def build(self) -> Any:
        """One of three kinds of object (`tilth.data.engine.steps` tells them apart and runs them):

        of documents  `judge(batch, signals) -> Verdicts`, a pure function of each document by itself; `signals` is a
                      record batch of the columns of the techniques it lists in `needs` (area signal), row for row;
                      one that may change texts says so: `edits = True`
        in order      `judge(batch) -> Verdicts` is called on all batches in order and keeps state (`ordered = True`);
                      for small corpora in one process
        across        `sketch`, `rounds` and `judge`: sees all documents at once through small records of each and of
                      the signals it lists in `needs` (`tilth.data.across.space`)

        It may also have `notices`, sentences said before anything is read, and `account(run) -> dict`, what it has to
        say of a finished data run besides its decisions: plain data for the ledger, under its label.
        """


class SignalSpec(Protocol):
    """A signal technique's configuration: facts about each document, computed once and kept. One that reads a finished
    model is a `tilth.core.opening.OpensModel`, whose `build` is handed what opens it."""

    def columns(self) -> dict[str, str]:
        """Name of each column it gives, with a prefix of its own -> what it is and in what unit."""

    def build(self) -> Any:
        """An object with `compute(batch) -> dict[str, pa.Array]`: those columns, row for row; a pure function of the
        documents. Numbers are float64, int64 or bool; texts are string."""


class ExtractSpec(Protocol):
    """How the text of a web page is found: its configuration."""

    def build(self) -> Any:
        """An object with `extract(html, url) -> str`: HTML as text in, the page's text out, "" where there is none. It
        raises tilth.data.read.reading.Unreadable for a page it refuses; the reason drops the page."""


class TokenizerSpec(Protocol):
    """A tokenizer's configuration."""

    def prepare(self, documents: Any, cache: Path, say: Callable[[str], None]) -> Path:
        """A directory with tokenizer.json and tokenizer_config.json, made from `documents`
        (tilth.data.corpus.Documents) or found; one that is made lies in `cache` under the key of its content."""


class Mixture(Protocol):
    """A mixture's configuration."""

    def shares(self, tokens: Mapping[str, int]) -> dict[str, float]:
        """Share of the training tokens per source; `tokens` holds what each source has."""


# ---- model and learning ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NamedParam:
    """A parameter with its name and role, as optimizers receive it."""

    name: str
    param: torch.nn.Parameter
    role: Role


class ModelSpec(Protocol):
    """A model's configuration."""

    @property
    def layers(self) -> int:
        """Blocks."""

    @property
    def width(self) -> int:
        """Size of the residual stream."""

    @property
    def ffn_width_(self) -> int:
        """Width inside the feed-forward network, derived if not given."""

    def build(self, vocab_size: int, max_sequence: int) -> Model:
        """A torch module whose parameters still need `init_weights` or loading."""

    def num_parameters(self, vocab_size: int, max_sequence: int | None = None) -> dict[str, int]:
        """Parameters by place, their `total`, and `matmul`: weights each token is multiplied with."""

    def flops_per_token(self, vocab_size: int, sequence: int) -> float:
        """Floating-point operations of training on one token, forward and backward."""

    def activation_elements(self) -> int:
        """Elements a block keeps per token for its backward pass."""


class Model(Protocol):
    """What `ModelSpec.build` returns: a torch module that also has these. Weights are float32."""

    config: Any
    """The configuration it was built from."""
    vocab_size: int
    """Rows of the embedding, at least the tokenizer's tokens."""
    max_sequence: int
    """Tokens it can read at once."""
    compute_dtype: torch.dtype
    """Dtype of the activations; may be set."""
    recompute: bool
    """Recompute activations in the backward pass instead of keeping them; may be set."""

    def init_weights(self, seed: int, within: str = "") -> None:
        """First weights, a function of the seed and each parameter's name and shape alone; `within`: only of the
        parameters whose names begin so."""

    def to_compute(self, dtype: torch.dtype) -> Model:
        """Set `compute_dtype`, refusing what it cannot compute in; returns itself."""

    extras: Any
    """torch.nn.ModuleDict: modules that objectives brought along, by technique name; no part of the final weights."""

    def hidden(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor | None = None,
        cache: Any = None,
        prefix: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Final normalised hidden states [B, T, D] in the compute dtype. `positions` alone define the document mask;
        with a cache (without `positions`) the tokens follow those stored. `prefix` int [B, T]: leading positions of
        its document that a position may see besides those before it (see `Batch.prefix`)."""

    def head(self) -> Any:
        """The output head, for objectives that never hold all logits: .weight [V, D], .bias or None, .softcap or None;
        logits = softcap(hidden @ weight.T + bias)."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states [..., D] -> logits float32 [..., V] (float64 if that is the compute dtype)."""

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor | None = None, cache: Any = None) -> torch.Tensor:
        """Logits of `hidden`, [B, T, V]."""

    def new_cache(self, batch: int, capacity: int | None = None) -> Cache:
        """Nothing stored yet, for `batch` sequences of at most `capacity` tokens (None: max_sequence)."""

    def roles(self) -> dict[str, Role]:
        """Parameter name -> role; every parameter has exactly one."""


class PartSpec(Protocol):
    """A swappable part of a decoder (areas attention, feedforward): its configuration. The module may be a
    `tilth.core.step.Part` too, which acts before and after each step, on all ranks alike; what it remembers lies in
    buffers or parameters."""

    def build(self, config: Any, layer: int) -> torch.nn.Module:
        """The part of one layer. attention: forward(x, where, cache), with `tilth.arch.parts.Where`; feedforward:
        forward(x)."""


class EmbeddingSpec(Protocol):
    """What stands between the tokens and the first block, and before the head: its configuration."""

    def build(self, config: Any, vocab_size: int) -> torch.nn.Module:
        """A module with forward(index int64 [B, T], dtype) -> [B, T, D]; `finish(hidden)` [..., D] -> [..., D], applied
        to the final normed states; and `weight` [V, D], the table a tied head uses."""


class WeightSpec(Protocol):
    """A parameterisation of the linear layers: its configuration."""

    def linear(self, inputs: int, outputs: int, place: str, bias: bool = False) -> torch.nn.Module | None:
        """The layer at `place` (such as "blocks.3.attention.q"), or None to leave it dense. The module has

        forward(x) [..., inputs] -> [..., outputs]; inputs; bias; num_multiplied, weights each token meets;
        dense() -> [outputs, inputs], or PlanError where the method has no dense form; load_dense(weight);
        reset(seed, name, std), its first weights from keyed streams
        """


class PositionSpec(Protocol):
    """A way of stretching rotary positions to longer sequences: its configuration."""

    @property
    def magnitude_(self) -> float:
        """Multiplier of cos and sin."""

    def base(self, theta: float, head_width: int) -> float | None:
        """The base that plain RoPE would need to have these frequencies; None: no plain RoPE has them. Raises
        RecipeError for a head it cannot serve."""

    def rewrite(self, inverse: torch.Tensor, theta: float) -> tuple[torch.Tensor, float]:
        """Frequencies float64 [E/2] -> (frequencies, magnitude of the tables)."""


class PrecisionSpec(Protocol):
    """Arithmetic of the forward and backward pass: its configuration. Masters stay float32."""

    @property
    def compute_dtype(self) -> torch.dtype:
        """Dtype of the activations."""

    @property
    def notice(self) -> str | None:
        """A line to say before training, if there is something to know."""

    def attach(self, model: Model) -> None:
        """Install its products on the model's layers (`tilth.arch.parts.Linear.multiply`)."""

    def wrap(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimizer with its states compressed; itself by default."""


class Cache(Protocol):
    """What a model keeps of the tokens it has read, so that generation reads each once."""

    capacity: int
    """Tokens it has room for."""
    end: int
    """Places in use; no stored sequence is longer."""

    def keep(self, lengths: torch.Tensor) -> None:
        """Keep only the first `lengths[b]` tokens of each sequence, int64 [B]."""

    def select(self, rows: torch.Tensor) -> None:
        """Keep only these sequences, int64."""


@dataclass
class Loss:
    """A sum and its count: division happens once, after accumulation over micro-batches and ranks."""

    total: torch.Tensor
    """float32 scalar, the sum over targets, with gradient."""
    count: torch.Tensor
    """int64 scalar, the number of targets."""
    logs: dict[str, torch.Tensor]
    """More sums to be divided by count and logged."""
    weight: torch.Tensor | None = None
    """float scalar, the sum of the targets' weights, which divides the total; None: count."""


class OptimSpec(Protocol):
    """An optimizer's configuration. What it builds may be a `tilth.core.step.Part` too, which acts before and after
    each step, and says which weights to evaluate and to keep."""

    lr: float

    def state_bytes(self, params: Sequence[NamedParam]) -> int:
        """Bytes of optimizer state by the method's formula, without building it."""

    def build(self, params: Sequence[NamedParam]) -> torch.optim.Optimizer:
        """An optimizer that owns each parameter once. Groups keep their base rate under `initial_lr`."""


# ---- the run ---------------------------------------------------------------------------------------------------


class HookSpec(Protocol):
    """A hook's configuration."""

    def build(self, run_dir: Path, name: str) -> Hook:
        """The hook of the run called `name`. Raises RecipeError if a package it needs is not installed."""


class Hook(Protocol):
    """A listener. Hooks see plain values and cannot change the run."""

    def on_start(self, run: Mapping[str, Any]) -> None:
        """Recipe, plan, directory, before the first step."""

    def on_step(self, row: Mapping[str, Any]) -> None:
        """One optimizer step: the row that goes to metrics.jsonl."""

    def on_eval(self, row: Mapping[str, Any]) -> None:
        """One held-out evaluation."""

    def on_stop(self, row: Mapping[str, Any]) -> None:
        """The run ended, was interrupted or failed."""


# ---- evaluation ------------------------------------------------------------------------------------------------


class Task(Protocol):
    """An evaluation task's configuration. One that reads files also has `check()`, which is called before training
    and raises for what it could not read, and `files()`, whose contents are part of what was measured."""

    def run(
        self, speaker: Any, held_out: Mapping[str, Sequence[str]], train: Mapping[str, Sequence[str]]
    ) -> dict[str, Any]:
        """Results as plain data. `held_out` and `train` map a domain to its documents' texts."""
