"""Crash files: what is needed to find a fault that tilth has no sentence for, and the sentence that names the file."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from . import machine
from .errors import Crashed, OutOfMemory
from .text import visible

_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


@dataclass(frozen=True)
class Scene:
    """Where a job was when it failed."""

    folder: Path | None
    """Its run directory, if it has one."""
    doing: str
    step: int | None
    """Finished steps over all stages."""
    recipe: str
    """The resolved recipe as YAML."""


def remember(err: BaseException, scene: Scene) -> None:
    """Let an error carry where it happened, for whoever turns it into a sentence."""
    vars(err)["scene"] = scene


def told(err: Exception, command: str) -> Crashed:
    """The sentence for an error of another kind than tilth's own; writes its crash file.

    It lies in the run directory, or where there is none (or no room) in a temporary folder.
    """
    scene: Scene | None = vars(err).get("scene")
    memory = is_of_memory(err)
    file = _write(err, scene, command)
    said = " ".join(str(err).split())
    what = f"{type(err).__name__}: {visible(said[:300])}" if said else type(err).__name__
    doing = f" while {scene.doing}" if scene else ""
    step = f" after step {scene.step}" if scene and scene.step is not None else ""
    if memory:
        what = f"the memory of this machine or its device was not enough{doing}{step} ({what})."
        fix = "batch.micro: 1, or a smaller number than now, computes a step in smaller pieces with the same result; "
        fix += "recompute: true needs less memory too."
        training = scene is not None and scene.doing == "training"
        return OutOfMemory(what, where=_said(file), fix=fix if training else "A machine with more memory would do.")
    what = f"{what} ({_place(err)}){doing}{step}."
    return Crashed(what, where=_said(file), fix="The file holds the traceback; TILTH_DEBUG=1 prints it here.")


def is_of_memory(err: BaseException) -> bool:
    """Whether an error says that memory is used up: Python's, a GPU's or torch's own allocator's."""
    text = str(err)
    return isinstance(err, MemoryError) or (
        isinstance(err, RuntimeError) and any(w in text or w in text.lower() for w in _MEMORY)
    )


def _said(file: Path | None) -> str:
    return f"crash file {file}" if file else "no crash file could be written"


def _place(err: BaseException) -> str:
    frames = traceback.extract_tb(err.__traceback__)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else "no place known"


def _write(err: Exception, scene: Scene | None, command: str) -> Path | None:
    versions = "\n".join(f"{k}: {v}" for k, v in machine.versions().items())
    parts = [
        f"tilth {command}, {time.strftime('%Y-%m-%d %H:%M:%S %z')}, rank {os.environ.get('RANK', '0')}",
        "command: " + " ".join(sys.argv),
        *([f"doing: {scene.doing}", f"step: {scene.step}"] if scene else []),
        "",
        "".join(traceback.format_exception(err)),
        versions,
        "",
        f"recipe:\n{scene.recipe}" if scene else "",
    ]
    text = visible("\n".join(parts))
    name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (scene.folder if scene else None, Path(tempfile.gettempdir())):
        if folder is not None:
            try:
                with open(folder / name, "x", encoding="utf-8") as f:
                    f.write(text)
                return folder / name
            except OSError:  # no room, or not ours to write in: the next place
                continue
    return None
