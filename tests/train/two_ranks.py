"""What two ranks do to one directory: run by test_store.py as `two_ranks.py DIR`; starts its ranks itself (gloo)."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from tilth.core.errors import CheckpointError
from tilth.core.stopping import Interrupt
from tilth.train import shards
from tilth.train.store import Store
from tilth.train.world import World


def whole(step: int) -> dict[str, torch.Tensor]:
    """The tensors as one rank would hold them: replicated, sharded by rows unevenly, sharded by columns."""
    draw = torch.Generator().manual_seed(step)
    shapes = {"plain": (40, 3), "other": (40, 3), "rows": (7, 6), "columns": (4, 10), "copied": (3, 3)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def rank_main(rank: int, directory: str, port: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank), "WORLD_SIZE": "2"}
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    rows: list[dict] = []
    store = Store(directory, identity={"recipe": "x"}, log=rows.append)

    def state(step: int) -> dict:
        t = whole(step)
        return {
            "model": {"plain": t["plain"], "other": t["other"]},
            "sharded": {
                "rows": distribute_tensor(t["rows"], mesh, [Shard(0)]),
                "columns": distribute_tensor(t["columns"], mesh, [Shard(1)]),
                "copied": distribute_tensor(t["copied"], mesh, [Replicate()]),
            },
            "lr": 0.1 * step,
        }

    assert store.load() is None
    store.save(10, state(10))
    store.save(20, state(20), blocking=True)
    step, got = store.load()
    assert step == 20 and got["lr"] == 2.0
    for name, t in whole(20).items():
        assert torch.equal((got["model"] | got["sharded"])[name], t), name

    # a rank that cannot write fails the save on both, and leaves nothing
    write = shards.write_safetensors
    if rank == 1:

        def no_room(*args: object) -> None:
            raise OSError(28, "No space left on device")

        shards.write_safetensors = no_room
    store.save(30, state(30))
    try:
        store.wait()
        raise SystemExit("the failure was not told")
    except CheckpointError as err:
        assert "saving step 30 failed (rank 1): No space left on device" in str(err), err
    shards.write_safetensors = write
    dist.barrier()
    assert store.steps() == [10, 20] and not list(Path(directory).glob("*.writing"))

    # an error of rank 0 reaches the other rank, and damage is stepped over alike
    try:
        store.load(99)
        raise SystemExit("a missing step was found")
    except CheckpointError as err:
        assert "there is no checkpoint of step 99" in str(err)
    if rank == 0:
        with open(Path(directory, "step-00000020", "rank-00001.safetensors"), "r+b") as f:
            f.seek(200)
            f.write(b"\xff\xff")
    dist.barrier()
    step, got = store.load()
    assert step == 10 and torch.equal(got["sharded"]["rows"], whole(10)["rows"])

    # one rank's signal stops both
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    world = World()  # of the group that is there
    with Interrupt() as interrupt:
        assert world.agree(interrupt.requested) is None
        if rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        assert world.agree(interrupt.requested) == "SIGTERM"
        assert interrupt.requested == ("SIGTERM" if rank == 1 else None)
    store.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(rank_main, (sys.argv[1], sys.argv[2]), nprocs=2)
    print("both ranks agree")
