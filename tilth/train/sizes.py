"""How many bytes a run holds: asked of its model and optimizers, built without memory, where they can be."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from tilth.core import device
from tilth.core.errors import PlanError
from tilth.core.protocols import NamedParam
from tilth.core.recipe import Recipe, Stage
from tilth.core.technique import use_name

from .learner import equip, named_params

PROCESS_BYTES = 380_000_000
"""Resident memory of a Python process that has imported torch and tilth and opened the data (measured, CPU)."""


class State(NamedTuple):
    """What training keeps of every parameter, over the whole model."""

    parameters: int
    """Numbers in the model, those that are not trained included."""
    trained: int
    optimizer_bytes: int
    """Largest over the stages."""

    @property
    def checkpoint_bytes(self) -> int:
        """Masters in float32 and the optimizer's state."""
        return 4 * self.parameters + self.optimizer_bytes


def state(recipe: Recipe, vocab_size: int) -> State:
    """Parameters and optimizer state of a recipe's model."""
    longest = max(stage.batch.sequence for stage in recipe.stages)
    total = recipe.model.num_parameters(vocab_size, longest)["total"]
    try:
        named = named_params(empty_model(recipe, vocab_size, longest))
        trained = sum(p.param.numel() for p in named)
    except (NotImplementedError, RuntimeError):  # a part that needs real numbers: two moments of everything
        return State(total, total, 8 * total)
    return State(
        total, trained, max(_optimizer_bytes(recipe, i, stage, named) for i, stage in enumerate(recipe.stages))
    )


def empty_model(recipe: Recipe, vocab_size: int, max_sequence: int) -> Any:
    """The recipe's model without memory, with its arithmetic and what its objectives bring along: for its shapes."""
    with torch.device("meta"):
        model: Any = recipe.model.build(vocab_size, max_sequence)
        equip(model, (stage.objective for stage in recipe.stages), recipe.seed)
    recipe.precision.attach(model)
    return model


def _optimizer_bytes(recipe: Recipe, number: int, stage: Stage, named: list[NamedParam]) -> int:
    """Of the state after a first step, taken on tensors without memory, as the precision keeps it; else as the rule's
    own formula says. Raises PlanError for an optimizer that cannot be built on this model."""
    optim = stage.optim
    optimizer = build_optimizer(recipe, number, named)
    try:
        for p in named:
            p.param.grad = torch.empty_like(p.param)
        optimizer.step()
    except Exception:  # rules look at numbers too
        return int(optim.state_bytes(named))
    finally:
        for p in named:
            p.param.grad = None
    return _bytes(optimizer.state_dict()["state"])


def build_optimizer(recipe: Recipe, number: int, named: list[NamedParam]) -> torch.optim.Optimizer:
    """The optimizer of stage `number` over these parameters, which may be without memory, as the precision keeps it.
    Raises PlanError if it cannot be built."""
    optim = recipe.stages[number].optim
    try:
        return recipe.precision.wrap(optim.build(named))
    except PlanError:
        raise
    except Exception as err:
        raise PlanError(
            f"{use_name(optim)} cannot be built on this model: {type(err).__name__}: {err}.",
            where=f"stages.{number}.optim",
            fix="Another optimizer would do; if it is your own, its `build` is at fault.",
        ) from err


def _bytes(node: Any) -> int:
    if isinstance(node, torch.Tensor):
        return node.numel() * node.element_size()
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ()
    return sum(map(_bytes, inner))


def memory_bytes(
    recipe: Recipe, stage: Stage, kept: State, vocab_size: int, world: int = 1, micro: int | None = None
) -> int:
    """Predicted peak memory of one rank: parameters, gradients, optimizer state, activations, the copy being saved.

    The activations a block keeps for its backward pass are counted per token from the sizes of its parts, in the
    compute dtype; the loss keeps one chunk of logits. Measured against real runs by `tilth plan`.
    """
    model: Any = recipe.model
    size = recipe.precision.compute_dtype.itemsize
    share = max(1, stage.batch.sequences // world)
    sequences = min(micro or stage.batch.micro or share, share)
    rows = sequences * stage.batch.sequence
    per_token = model.activation_elements() * size
    block = model.width * size if recipe.recompute else per_token
    activations = model.layers * block + (per_token if recipe.recompute else 0)
    logits = min(rows, 1024) * vocab_size * 4
    fixed = PROCESS_BYTES if device.at_hand().type == "cpu" else 0
    weights = (4 + size) * kept.parameters + 4 * kept.trained + kept.optimizer_bytes
    saved = kept.checkpoint_bytes if recipe.checkpoint.asynchronous else 0
    return int(fixed + weights + saved + rows * (activations + 4 * model.width * size) + 2 * logits)
