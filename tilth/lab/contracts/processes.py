"""Two processes equal one, and shards the whole: half the rows on each of two ranks give what one process makes of all.

Three steps each. Ranks are processes of their own on the CPU that meet over gloo on this machine. Many techniques share
one launch:
`together` tries them all, and `hold` then only reads what came of it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tilth.core.clock import Clock
from tilth.core.protocols import NamedParam, Role
from tilth.core.step import part
from tilth.core.streams import stream
from tilth.core.technique import card, resolve

from .fitting import is_elementwise, small
from .learning import LENGTH, ROWS, batch, learner, rounding, weights

STEPS = 3
RANKS = 2
SECONDS = 900
"""After which a launch is given up."""
APART: dict[str, dict[str, Any]] = {
    "schedule.batch_warmup": {"begin": 0.25, "over": 3, "multiple": RANKS},  # grows within three steps
    "schedule.sequence_warmup": {"begin": 8, "over": 2},
    "optim.soap": {"eps": 1e-3},  # it gives directions without gradient, which are rounding, the size of the others
}
"""Fields that make a technique fit to be compared."""
_found: dict[str, str] = {}
"""Technique -> why it does not hold, or nothing."""
_sharded: dict[str, str] = {}
"""The same of its steps on sharded parameters."""


def hold(identity: str) -> None:
    """Raises AssertionError if two processes do not make what one makes."""
    together([identity])
    assert not _found[identity], _found[identity]


def hold_sharded(identity: str) -> None:
    """Raises AssertionError if an optimizer steps parameters sharded over the ranks otherwise than whole ones."""
    together([identity])
    assert not _sharded[identity], _sharded[identity]


def together(identities: Iterable[str]) -> None:
    """Try techniques in one launch, but those that were tried already or are exempt."""
    todo = [i for i in identities if i not in _found and not _exempt(i)]
    if todo:
        _found.update(_launch(todo))


def _exempt(identity: str) -> bool:
    return "contract:processes" in (card(*identity.split(".", 1)).get("exempt") or {})


def _launch(identities: list[str]) -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "CUDA_VISIBLE_DEVICES": ""}
        env |= {"OMP_NUM_THREADS": "1"}
        env.pop("WORLD_SIZE", None)
        command = [sys.executable, "-m", __name__, folder, json.dumps(identities)]
        ranks = []
        for rank in range(RANKS):
            with Path(folder, f"{rank}.txt").open("w", encoding="utf-8") as said:
                own = {**env, "RANK": str(rank)}
                ranks.append(subprocess.Popen(command, env=own, stdout=said, stderr=subprocess.STDOUT))
        try:
            codes = [process.wait(SECONDS) for process in ranks]
        finally:
            for process in ranks:
                process.kill()
        if any(codes):
            told = "\n".join(Path(folder, f"{rank}.txt").read_text(encoding="utf-8")[-2000:] for rank in range(RANKS))
            raise RuntimeError(f"the two processes did not finish: {told}")
        whole, *parts = (_read(Path(folder, name)) for name in ("whole", *map(str, range(RANKS))))
    _sharded.update({i: "; ".join(filter(None, (part[i].get("sharded") for part in parts))) for i in identities})
    return {i: difference(whole[i], [part[i] for part in parts]) for i in identities}


def difference(whole: dict[str, Any], ranks: list[dict[str, Any]]) -> str:
    """What is wrong, or nothing. Sums in another order round differently, and a sign may turn there."""
    for run in (whole, *ranks):
        if "error" in run:
            return run["error"]
    first, *rest = ranks
    for other in rest:
        unequal = [n for n, t in first["weights"].items() if not torch.equal(t, other["weights"][n])]
        if unequal:
            return f"the ranks end with different weights: {', '.join(unequal[:3])}"
    for what in ("losses", "norms"):
        for a, b in zip(whole[what], first[what], strict=True):
            if not abs(a - b) <= 1e-3 * max(1, abs(a)):
                return f"{what} {whole[what]} in one process and {first[what]} in two"
    if whole["targets"] != first["targets"]:
        return f"targets {whole['targets']} in one process and {first['targets']} in two"
    pairs = [(t, first["weights"][n]) for n, t in whole["weights"].items() if t.numel()]
    off = sum(int(((x.double() - y.double()).abs() > whole["rounding"]).sum()) for x, y in pairs)
    share = off / sum(x.numel() for x, _ in pairs)
    return "" if share <= 0.01 else f"{100 * share:.1f} % of the weights differ between one process and two"


# ---- in the processes ------------------------------------------------------------------------------------------


def _train(identity: str, rank: int, ranks: int) -> dict[str, Any]:
    """Three steps of one technique on this rank's rows."""
    area = identity.partition(".")[0]
    given = {**small(identity), **APART.get(identity, {})}
    it = learner(area, given)
    spec: Any = resolve(area, given)
    sizes = spec.sequences(20, ROWS) if area == "schedule" else []
    steps = []
    for step in range(STEPS):
        rows = sizes[step] if step < len(sizes) else ROWS
        share = batch(step).rows(slice(rows * rank // ranks, rows * (rank + 1) // ranks))
        steps.append(it.step(share, Clock(step, 20, step * ROWS * LENGTH)))
    return {
        "losses": [s.loss for s in steps],
        "norms": [s.grad_norm for s in steps],
        "targets": [s.targets for s in steps],
        "rounding": rounding(it),
        "weights": weights(it),
    }


def _steps_on_shards(identity: str) -> str:
    """What is wrong, or nothing, with four steps on parameters of which each rank holds some rows."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (RANKS,))
    shapes: dict[str, tuple[Role, tuple[int, ...]]] = {
        "blocks.0.ffn.up.weight": ("matrix", (6, 4)),
        "embedding.weight": ("embed", (7, 3)),  # ranks hold unequally many rows
        "blocks.0.norm.weight": ("vector", (5,)),
    }
    ended = []
    for shard in (False, True):
        rng = stream(0, "contract", 3)

        def draw(shape: tuple[int, ...], rng: Any = rng, shard: bool = shard) -> torch.Tensor:
            whole = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
            return distribute_tensor(whole, mesh, [Shard(0)]) if shard else whole

        params = [NamedParam(n, torch.nn.Parameter(draw(shape)), role) for n, (role, shape) in shapes.items()]
        spec: Any = resolve("optim", small(identity))
        optimizer = spec.build(params)
        for _ in range(4):
            for n in params:
                n.param.grad = draw(tuple(n.param.shape))
            if identity == "optim.sophia":  # the curvature, which `before` would estimate
                optimizer.observe([n.param.grad for n in params], 8.0)
            optimizer.step()
        with part(optimizer).evaluated():
            held: list[Any] = [n.param.detach() for n in params]
            ended.append([p.full_tensor() if shard else p.clone() for p in held])
    unequal = [n for n, a, b in zip(shapes, *ended, strict=True) if not torch.allclose(a, b, rtol=1e-6, atol=1e-7)]
    return f"sharded, {', '.join(unequal)} are stepped otherwise" if unequal else ""


def _write(folder: Path, identities: list[str], rank: int, ranks: int) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    plain = {}
    for i, identity in enumerate(identities):
        try:
            run = _train(identity, rank, ranks)
            save_file({n: t.contiguous().clone() for n, t in run.pop("weights").items()}, folder / f"{i}.safetensors")
        except Exception as err:
            run = {"error": f"{type(err).__name__}: {err}"}
        if ranks > 1 and is_elementwise(identity):
            try:
                run["sharded"] = _steps_on_shards(identity)
            except Exception as err:
                run["sharded"] = f"{type(err).__name__}: {err}"
        plain[identity] = run
    (folder / "runs.json").write_text(json.dumps(plain), encoding="utf-8")


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    from safetensors.torch import load_file

    plain = json.loads((folder / "runs.json").read_text(encoding="utf-8"))
    for i, run in enumerate(plain.values()):
        if "error" not in run:
            run["weights"] = load_file(folder / f"{i}.safetensors")
    return plain


def _rank(folder: Path, identities: list[str]) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    if rank == 0:  # alone, before it knows of the other
        _write(folder / "whole", identities, 0, 1)
    os.environ["WORLD_SIZE"] = str(RANKS)
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=SECONDS))
    _write(folder / str(rank), identities, rank, RANKS)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _rank(Path(sys.argv[1]), json.loads(sys.argv[2]))
