"""Checkpoints that are whole or absent: written aside, fsynced, renamed, checksummed, committed by a marker last.

    checkpoints/
      step-00000200/                a checkpoint
        owner                       whose it is: nothing of another run is removed
        rank-00000.safetensors      tensors this rank wrote (tilth.train.shards)
        state.json                  the state's structure and its plain values
        manifest.json               identity, versions, table of tensors, SHA-256 and size of each file
        COMMITTED                   SHA-256 of manifest.json; its presence makes the checkpoint
      step-00000400.writing/        one being written, or left by a crash

A crash at any instant leaves either a committed checkpoint or something that is ignored and swept away at the next
save. A step that is saved again (after resuming from an older one) becomes `step-00000200.1`, so that nothing good
is ever moved or overwritten; older attempts go once the newer is committed. All ranks write into one directory,
which they must all see. There is no pickle in any file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.tensor import DTensor

from tilth.core.config import Config
from tilth.core.errors import CheckpointError, DataError, remedy
from tilth.core.hashing import content_hash, file_hash
from tilth.core.rundir import fsync_dir, inside, write_whole
from tilth.core.version import VERSION

from .shards import DTYPE_NAMES, Entry, File, ShardReader, ShardWriter, Size, copy, empty_tensors

FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})(?:\.(\d+))?")
warnings.filterwarnings("ignore", "torch.distributed is disabled")  # DCP says so at each save of a single process


OWNER = "owner"
"""The first file of a checkpoint: a hash of the identity of the run it is of."""


class _Attempt(NamedTuple):
    """A committed checkpoint directory; the order is that of age."""

    step: int
    attempt: int
    path: Path


class Manifest(Config):
    """What manifest.json holds."""

    format: int
    step: Size
    identity: dict[str, Any]
    versions: dict[str, str]
    world: int
    """Ranks that wrote it; any number may read it."""
    files: dict[str, File]
    tensors: dict[str, Entry]


class _Damaged(Exception):
    """Why a checkpoint cannot be used."""


class Store:
    """The checkpoints of one run.

    `keep` newest ones are kept, and for good those at multiples of `milestones`. `identity` is plain data naming
    what a checkpoint belongs to (recipe hash, model hash); `load` refuses another's. With `asynchronous`, `save`
    returns once the tensors are copied and a thread writes them, at the price of that copy in memory. `log` gets
    rows {"event": "save" | "skip" | "resume" | "note", …}, always in the calling thread. With several ranks `waiting`
    is called each second while they write, and may raise; `timeout` bounds an exchange between them, in seconds.

    Under several ranks every rank makes a store and calls `save`, `load`, `wait` alike; plain values and tensors
    that are no DTensor must be the same on all. Replicated tensors are dealt out to the ranks.
    """

    def __init__(
        self,
        directory: str | Path,
        keep: int = 2,
        milestones: int | None = None,
        asynchronous: bool = True,
        identity: Mapping[str, Any] | None = None,
        log: Callable[[dict[str, Any]], None] | None = None,
        waiting: Callable[[], None] = lambda: None,
        timeout: float = 1800.0,
    ) -> None:
        self.directory, self.keep, self.milestones = Path(directory), keep, milestones
        self.identity = json.loads(json.dumps(dict(identity or {})))
        self._owner = content_hash(self.identity)
        self._log, self._waiting = log, waiting
        self.hold: int | None = None
        """A step whose checkpoint is kept whatever is newer."""
        self._rows: deque[dict[str, Any]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if asynchronous else None
        self._job: Future[None] | None = None
        self._buffers: dict[str, Tensor] = {}
        self._damaged: set[Path] = set()
        self._swept = False
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        # A group of its own, so that the writing thread's collectives never mix with training's.
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout)) if several else None
        self.rank = dist.get_rank() if several else 0
        self.world = dist.get_world_size() if several else 1

    # ---- saving ----------------------------------------------------------------------------------------------

    def save(self, step: int, state: Mapping[str, Any], blocking: bool = False) -> None:
        """Write `state` (nested dicts and lists of tensors and plain values) as the checkpoint of `step`.

        Waits for the save before it, and raises the CheckpointError that one ended with (this one is then not
        begun; the caller may go on and save again). `blocking` writes from the tensors themselves, without a copy,
        and returns when the checkpoint is committed.
        """
        began = time.perf_counter()
        self.wait()
        tensors: dict[str, Tensor] = {}
        tree = _split(state, "", tensors)
        text = json.dumps(tree, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        local = {name: (t.to_local() if isinstance(t, DTensor) else t).detach() for name, t in tensors.items()}
        if blocking and self._pool is not None and self._group is not None:  # in the thread, for `waiting`
            self._job = self._pool.submit(self._write, step, tensors, local, text, began)
            self.wait()
            return
        if self._pool is None or blocking:
            try:
                self._write(step, tensors, local, text, began)
            finally:
                self.poll()
            return
        local = self._stage(local)
        row = {"blocking_seconds": time.perf_counter() - began}
        self._job = self._pool.submit(self._write, step, tensors, local, text, began, row)

    def wait(self) -> None:
        """Wait for the save under way. Raises CheckpointError if it failed (once)."""
        job, self._job = self._job, None
        try:
            if job is not None:
                while self._group is not None and not wait([job], timeout=1.0).done:
                    self._waiting()
                job.result()
        finally:
            self.poll()

    def poll(self) -> None:
        """Hand the rows the writing thread left to `log`. Cheap; never raises for a failed save."""
        while self._rows:
            row = self._rows.popleft()
            if self._log is not None:
                self._log(row)

    def close(self) -> None:
        """Wait, and end the writing thread."""
        try:
            self.wait()
        finally:
            if self._pool is not None:  # nothing is left to wait for, unless a rank was lost
                self._pool.shutdown(wait=False)

    def _stage(self, local: dict[str, Tensor]) -> dict[str, Tensor]:
        """A copy in CPU memory that the next save reuses; pinned where it comes from a GPU."""
        old, self._buffers = self._buffers, {}
        for name, t in local.items():
            buffer = old.get(name)
            if buffer is None or buffer.shape != t.shape or buffer.dtype != t.dtype:
                buffer = torch.empty(t.shape, dtype=t.dtype, pin_memory=t.is_cuda)
            copy(t, buffer)
            self._buffers[name] = buffer
        if any(t.is_cuda for t in local.values()):
            torch.cuda.synchronize()
        return self._buffers

    def _write(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        local: Mapping[str, Tensor],
        text: bytes,
        began: float,
        row: Mapping[str, Any] | None = None,
    ) -> None:
        """The save itself, on all ranks; in the writing thread if asynchronous."""
        aside = self.directory / f"step-{step:08d}.writing"
        final: list[Path] = []
        total = 0

        def prepare() -> None:
            self._sweep()
            _remove(aside)
            aside.mkdir()
            (aside / OWNER).write_text(self._owner, encoding="utf-8")

        def commit(table: dict[str, Entry], files: dict[str, File]) -> None:
            nonlocal total
            _write_synced(aside / "state.json", text)
            files["state.json"] = File(sha256=hashlib.sha256(text).hexdigest(), bytes=len(text))
            total = sum(f.bytes for f in files.values())
            manifest = Manifest(
                format=FORMAT,
                step=step,
                identity=self.identity,
                versions={"tilth": VERSION, "torch": str(torch.__version__)},
                world=self.world,
                files=files,
                tensors=table,
            )
            raw = manifest.model_dump_json().encode()
            _write_synced(aside / "manifest.json", raw)
            fsync_dir(aside)
            final.append(self._free_name(step))
            os.rename(aside, final[0])
            fsync_dir(self.directory)
            write_whole(final[0] / "COMMITTED", _marker(raw))

        writer = ShardWriter(aside, local, prepare, commit)
        planner = dcp.DefaultSavePlanner(flatten_state_dict=False)
        try:
            dcp.save(
                dict(tensors),
                storage_writer=writer,
                planner=planner,
                process_group=self._group,
                no_dist=self._group is None,
            )
        except (Exception, dcp.CheckpointException) as err:  # the latter derives from BaseException
            if self.rank == 0:
                for path in (aside, *final):
                    with contextlib.suppress(OSError):
                        _remove(path)
            rank, cause = _first(err, self.rank)
            if not isinstance(cause, Exception):
                raise cause from None
            where = f" (rank {rank})" if self.world > 1 else ""
            good = [a.step for a in self._committed()]
            last = f"Step {good[-1]} is the last checkpoint." if good else "There is no earlier checkpoint."
            raise CheckpointError(
                f"saving step {step} failed{where}: {_reason(cause)}.",
                where=str(self.directory),
                fix=" ".join(filter(None, (remedy(cause), last))),
            ) from cause
        if self.rank == 0:
            seconds = time.perf_counter() - began
            self._rows.append(
                {"event": "save", "step": step, "bytes": total, "seconds": seconds, "blocking_seconds": seconds}
                | dict(row or {})
            )
            self._retain(final[0])

    def _sweep(self) -> None:
        """Before the first save: refuse a directory of another run, remove what crashes left."""
        if self._swept:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        for attempt in self._committed():
            try:
                self._check_identity(attempt, _manifest(attempt.path))
            except _Damaged:
                continue
        for path in self.directory.iterdir():
            begun = path.name.endswith(".writing") or (_NAME.fullmatch(path.name) and not _is_committed(path))
            if begun and path.name.startswith("step-") and path.is_dir() and self._wrote(path):
                _remove(path)
        self._swept = True

    def _wrote(self, path: Path) -> bool:
        """Whether a checkpoint, finished or not, is of this run: nothing else is ever removed."""
        with contextlib.suppress(OSError, ValueError):
            return bool((path / OWNER).read_text(encoding="utf-8") == self._owner)
        with contextlib.suppress(_Damaged, CheckpointError):
            return bool(_manifest(path).identity == self.identity)  # of before there were owners
        return not any(path.iterdir())  # killed before it said whose it is

    def _free_name(self, step: int) -> Path:
        """A name that nothing has, after those of other attempts at the step."""
        attempts = [
            int(m[2] or 0) for p in self.directory.iterdir() if (m := _NAME.fullmatch(p.name)) and int(m[1]) == step
        ]
        return self.directory / (f"step-{step:08d}" + (f".{max(attempts) + 1}" if attempts else ""))

    def _retain(self, newest: Path) -> None:
        """Remove what retention does not hold; `newest` was just committed and always stays."""
        latest = {a.step: a for a in self._committed() if a.path not in self._damaged}  # the last attempt of each
        held = {a.path for a in [*latest.values()][-self.keep :]} | {newest}
        held |= {a.path for a in latest.values() if a.step == self.hold}
        if self.milestones:
            held |= {a.path for a in latest.values() if a.step % self.milestones == 0}
        for attempt in self._committed():
            if attempt.path not in held and self._wrote(attempt.path):
                try:
                    _remove(attempt.path)
                except OSError as err:
                    text = f"could not remove the old checkpoint {attempt.path.name}: {_reason(err)}"
                    self._rows.append({"event": "note", "text": text})

    # ---- loading ---------------------------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """Steps that have a committed checkpoint, rising."""
        return sorted({a.step for a in self._committed()})

    def load(self, step: int | None = None) -> tuple[int, dict[str, Any]] | None:
        """(step, state) of the newest checkpoint that verifies, or of `step`; None if nothing was ever committed.

        Tensors are on the CPU. Each checkpoint passed over is logged as {"event": "skip", "step", "why"}. Raises
        CheckpointError if it belongs to another identity, if `step` is missing, or if all are damaged.
        """
        self.wait()
        name = self._agree(lambda: self._choose(step))
        self.poll()
        if not name:
            return None
        path = self.directory / name
        try:
            manifest = _manifest(path)
            tensors = empty_tensors(manifest.tensors)
            reader = ShardReader(path, manifest.tensors)
            planner = dcp.DefaultLoadPlanner(flatten_state_dict=False)
            if tensors:
                dcp.load(tensors, storage_reader=reader, planner=planner, no_dist=True)
            state = _join(json.loads((path / "state.json").read_bytes()), tensors)
        except (_Damaged, dcp.CheckpointException, OSError, ValueError, LookupError, TypeError, RuntimeError) as err:
            raise CheckpointError(f"this checkpoint cannot be read: {_reason(err)}.", where=str(path)) from err
        return manifest.step, state

    def _choose(self, step: int | None) -> str:
        """The directory `load` reads, verified; "" if there is none. Only rank 0 looks."""
        wanted = [a for a in reversed(self._committed()) if step is None or a.step == step]
        why: list[str] = []
        for attempt in wanted:
            try:
                manifest = _manifest(attempt.path)
                self._check_identity(attempt, manifest)
                _verify_files(attempt.path, manifest)
            except _Damaged as err:
                self._damaged.add(attempt.path)
                self._rows.append({"event": "skip", "step": attempt.step, "why": str(err)})
                why.append(f"{attempt.path.name}: {err}")
                continue
            self._rows.append({"event": "resume", "step": attempt.step})
            return attempt.path.name
        if wanted:
            raise CheckpointError(
                "every checkpoint here is damaged (" + "; ".join(why) + ").",
                where=str(self.directory),
                fix="Restore one, or remove this directory to start anew.",
            )
        if step is not None:
            known = ", ".join(map(str, self.steps())) or "none"
            raise CheckpointError(
                f"there is no checkpoint of step {step}.", where=str(self.directory), fix=f"Steps: {known}."
            )
        for path in sorted(self.directory.glob("step-*")):
            self._rows.append({"event": "skip", "step": _step_of(path), "why": f"{path.name} was never committed"})
        return ""

    def _check_identity(self, attempt: _Attempt, manifest: Manifest) -> None:
        theirs = manifest.identity
        for field in sorted({*theirs, *self.identity}):
            if theirs.get(field) != self.identity.get(field):
                raise CheckpointError(
                    f"this checkpoint belongs to another run: its {field} is {theirs.get(field)!r:.80}, "
                    f"here it is {self.identity.get(field)!r:.80}.",
                    where=str(attempt.path),
                    fix="Go on with the recipe that wrote it, or use another run directory.",
                )

    def _committed(self) -> list[_Attempt]:
        """Committed checkpoints, oldest first."""
        found = []
        for path in self.directory.iterdir() if self.directory.is_dir() else ():
            match = _NAME.fullmatch(path.name)
            if match and _is_committed(path):
                found.append(_Attempt(int(match[1]), int(match[2] or 0), path))
        return sorted(found)

    def _agree(self, choose: Callable[[], str]) -> str:
        """Rank 0's choice on all ranks; its error too."""
        if self._group is None:
            return choose()
        error, said = None, b""
        if self.rank == 0:
            try:
                said = b"+" + choose().encode()
            except Exception as err:  # whatever it is, the other ranks must not wait for ever
                error, said = err, b"-" + str(err).encode()
        size = torch.tensor(len(said))
        dist.broadcast(size, 0, group=self._group)
        text = (
            torch.frombuffer(bytearray(said), dtype=torch.uint8) if said else torch.empty(int(size), dtype=torch.uint8)
        )
        dist.broadcast(text, 0, group=self._group)
        said = bytes(text.tolist())
        if said[:1] == b"-":
            raise error or CheckpointError(said[1:].decode())
        return said[1:].decode()


def check_files(directory: Path) -> dict[str, str]:
    """Checkpoint -> what is wrong with it, "" if nothing; {} where there are none."""
    found = {}
    for path in sorted(p for p in directory.glob("step-*") if _NAME.fullmatch(p.name) and _is_committed(p)):
        try:
            _verify_files(path, _manifest(path))
            found[path.name] = ""
        except (_Damaged, CheckpointError) as err:
            found[path.name] = str(err)
    return found


def owned(directory: Path, identity: Mapping[str, Any]) -> list[Path]:
    """The checkpoints in a directory that are of this run, finished or not."""
    store = Store(directory, asynchronous=False, identity=identity)
    found = sorted(directory.iterdir()) if directory.is_dir() else []
    return [p for p in found if p.name.startswith("step-") and p.is_dir() and store._wrote(p)]


def clear(directory: Path, identity: Mapping[str, Any]) -> None:
    """Remove the checkpoints of a run, and the directory if nothing else is in it."""
    for path in owned(directory, identity):
        _remove(path)
    with contextlib.suppress(OSError):
        directory.rmdir()


# ---- a state as JSON and tensors -----------------------------------------------------------------------------------


def _split(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON: tensors move into `tensors` under their path ("optim/wte.weight/exp_avg"), tuples and the
    floats JSON lacks become marked objects, so that `_join` gives back exactly what was there."""
    if isinstance(value, Tensor):
        if value.dtype not in DTYPE_NAMES or value.layout != torch.strided:
            raise CheckpointError(f"a tensor of {value.dtype}, {value.layout} cannot be saved.", where=name)
        tensors[name] = value
        return {"$tensor": name}
    if isinstance(value, Mapping):
        odd = [k for k in value if not isinstance(k, str) or k.startswith("$")]
        if odd:
            raise CheckpointError(f"the key {odd[0]!r} cannot be saved.", where=name, fix="Use text without a '$'.")
        return {k: _split(v, _below(name, k), tensors) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_split(v, _below(name, str(i)), tensors) for i, v in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(float(value))}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise CheckpointError(
        f"a value of type {type(value).__name__} cannot be saved.", where=name, fix="Use tensors and plain values."
    )


def _below(name: str, key: str) -> str:
    """The path of `key` under `name`; '/' and '~' in keys are escaped as in JSON Pointer (RFC 6901)."""
    key = key.replace("~", "~0").replace("/", "~1")
    return f"{name}/{key}" if name else key


def _join(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `_split` took apart."""
    if isinstance(tree, list):
        return [_join(v, tensors) for v in tree]
    if not isinstance(tree, dict):
        return tree
    if "$tensor" in tree:
        return tensors[tree["$tensor"]]
    if "$tuple" in tree:
        return tuple(_join(v, tensors) for v in tree["$tuple"])
    if "$float" in tree:
        return float(tree["$float"])
    return {k: _join(v, tensors) for k, v in tree.items()}


# ---- one checkpoint directory --------------------------------------------------------------------------------------


def _marker(manifest: bytes) -> bytes:
    return hashlib.sha256(manifest).hexdigest().encode() + b"\n"


def _is_committed(path: Path) -> bool:
    return (path / "COMMITTED").is_file()


def _step_of(path: Path) -> int | None:
    digits = re.match(r"step-(\d+)", path.name)
    return int(digits[1]) if digits else None


def _manifest(path: Path) -> Manifest:
    """The manifest, checked against the marker. Raises _Damaged."""
    try:
        raw, marker = (path / "manifest.json").read_bytes(), (path / "COMMITTED").read_bytes()
    except OSError as err:
        raise _Damaged(f"{Path(str(err.filename)).name} cannot be read: {_reason(err)}") from err
    if marker != _marker(raw):
        raise _Damaged("manifest.json does not match COMMITTED")
    try:
        number = json.loads(raw)["format"]
        if number > FORMAT:
            raise CheckpointError(
                f"this checkpoint has format {number}, and this tilth reads up to {FORMAT}.",
                where=str(path),
                fix="Use the tilth that wrote it, or a newer one.",
            )
        return Manifest.model_validate_json(raw, strict=True)
    except (ValueError, TypeError, LookupError, RecursionError) as err:
        raise _Damaged(f"manifest.json is no manifest ({type(err).__name__})") from err


def _verify_files(path: Path, manifest: Manifest) -> None:
    """Compare each file with its size and hash. Raises _Damaged naming the first that differs."""
    for name, entry in manifest.files.items():
        try:
            file = inside(path, name)
            size = file.stat().st_size
            if size != entry.bytes:
                raise _Damaged(f"{name} has {size} of {entry.bytes} bytes")
            if file_hash(file) != entry.sha256:
                raise _Damaged(f"{name} does not have the checksum it was written with")
        except (OSError, ValueError, DataError) as err:
            raise _Damaged(f"{name} cannot be read: {_reason(err)}") from err


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def _remove(path: Path) -> None:
    """Remove a checkpoint, its marker first: half removed, it is none. Nothing happens if there is none."""
    (path / "COMMITTED").unlink(missing_ok=True)
    if path.is_dir():
        shutil.rmtree(path)


def _first(err: BaseException, rank: int) -> tuple[int, BaseException]:
    """The rank that failed first in order, and its error; DCP gathers them into one."""
    if isinstance(err, dcp.CheckpointException) and err.failures:
        failed = min(err.failures)
        return failed, err.failures[failed][0]
    return rank, err


def _reason(err: BaseException) -> str:
    """An error in a few words, without what only a debugger wants."""
    _, err = _first(err, 0)
    return (err.strerror if isinstance(err, OSError) and err.strerror else str(err)).rstrip(".") or type(err).__name__
