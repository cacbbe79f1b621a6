"""A speaker as EleutherAI's lm-evaluation-harness wants it: `lm_eval.simple_evaluate(model=TilthLM(speaker), …)`.

Texts are scored in the contexts lm-eval gives its own Hugging Face models (`tilth.eval.contexts`), so that numbers can
be compared; with `contexts="tilth"` in the speaker's own, where long texts are scored in overlapping windows. Needs the
extra `tilth[lm-eval]`.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from tilth.core.errors import DataError, TilthError
from tilth.eval import contexts as as_lm_eval
from tilth.eval.contexts import Contexts
from tilth.eval.speaker import Speaker

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
except ImportError as err:
    raise TilthError(
        f"lm-eval cannot be imported ({err}).", where="lm-eval", fix="Install it: pip install 'tilth[lm-eval]'."
    ) from None

LENGTH = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""What tasks call the longest reply, in lm-eval's order of precedence."""
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")


class TilthLM(LM):
    """lm-eval's model interface over one speaker, one process."""

    def __init__(self, speaker: Speaker, max_gen_toks: int = 256, contexts: Contexts = "lm-eval") -> None:
        """`max_gen_toks`: longest reply where a task does not say. `contexts`: whose texts are scored in."""
        super().__init__()
        self.speaker, self.max_gen_toks, self.contexts = speaker, max_gen_toks, contexts

    @property
    def tokenizer_name(self) -> str:
        """Identifies the tokenizer in lm-eval's request cache."""
        return self.speaker.tokenizer.fingerprint

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log p, is greedy) of each (context, continuation)."""
        pairs = [r.args for r in requests]
        scores = as_lm_eval.loglik(self.speaker, pairs) if self.contexts == "lm-eval" else self.speaker.loglik(pairs)
        return self._kept("loglikelihood", requests, [tuple(s) for s in scores])

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """log p of each whole text."""
        texts = [r.args[0] for r in requests]
        rolling = as_lm_eval.loglik_rolling if self.contexts == "lm-eval" else Speaker.loglik_rolling
        return self._kept("loglikelihood_rolling", requests, rolling(self.speaker, texts))

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Replies. Contexts that leave no room are cut on the left, as lm-eval's own models do.

        Raises DataError for a setting this speaker does not have.
        """
        groups: dict[str, list[int]] = {}  # equal settings share batches
        for i, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(i)
        replies = [""] * len(requests)
        for rows in groups.values():
            length, stop, sampling = self._settings(requests[rows[0]].args[1])
            room = max(1, self.speaker.max_sequence - 1 - min(length, self.speaker.max_sequence // 2))
            prompts = [self.speaker.last_part(requests[i].args[0], room)[0] for i in rows]
            heal = self.contexts == "tilth"  # lm-eval's own models take white space at a prompt's end as it stands
            found = self.speaker.generate(prompts, length, stop=stop, heal=heal, **sampling)
            for i, reply in zip(rows, found, strict=True):
                replies[i] = reply
        return self._kept("generate_until", requests, replies)

    def _settings(self, asked: dict[str, Any]) -> tuple[int, list[str], dict[str, Any]]:
        """(longest reply, stop texts, sampling fields) of a task's generation settings."""
        known = {"until", "do_sample", *LENGTH, *SAMPLING}
        if unknown := sorted(set(asked) - known):
            raise DataError(
                f"the task asks to generate with {', '.join(unknown)}, which this speaker does not have.",
                where="generation_kwargs",
                fix="Known: " + ", ".join(sorted(known)) + ".",
            )
        until = asked.get("until") or []
        length = next((int(asked[name]) for name in LENGTH if asked.get(name) is not None), self.max_gen_toks)
        sampling = {name: asked[name] for name in SAMPLING if asked.get(name) is not None}
        sampling["temperature"] = float(sampling.get("temperature", 0.0))
        if asked.get("do_sample") is False:
            sampling["temperature"] = 0.0
        if sampling.get("top_k") == 0 or sampling.get("top_k") == -1:  # other libraries' way to say none
            del sampling["top_k"]
        return length, [until] if isinstance(until, str) else list(until), sampling

    def _kept(self, kind: str, requests: Sequence[Instance], results: list[Any]) -> list[Any]:
        """Give results to lm-eval's cache, where one is in use."""
        for request, result in zip(requests, results, strict=True):
            self.cache_hook.add_partial(kind, request.args, result)
        return results


def harness(
    speaker: Speaker, tasks: Sequence[Any], *, contexts: Contexts = "lm-eval", **settings: Any
) -> dict[str, dict[str, Any]]:
    """Run lm-eval tasks on a speaker: task -> n and metrics, each with its value and standard error (None: not given).

    `tasks` are lm-eval's task objects, names or dictionaries; `settings` go to `lm_eval.simple_evaluate` (num_fewshot,
    limit, …). A metric behind a filter is named with it: "exact_match (strict-match)".
    """
    import lm_eval
    from lm_eval.tasks import TaskManager

    if not any(isinstance(task, str) for task in tasks):  # no need to look through lm-eval's thousands of own tasks
        settings.setdefault("task_manager", TaskManager(include_defaults=False))
    with _same_draws():
        found = lm_eval.simple_evaluate(
            model=TilthLM(speaker, contexts=contexts), tasks=list(tasks), log_samples=False, **settings
        )
    if found is None:  # another process of this group speaks
        return {}
    return {
        task: {"n": found.get("n-samples", {}).get(task, {}).get("effective"), "metrics": _metrics(row)}
        for task, row in found["results"].items()
    }


def _metrics(row: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    out: dict[str, dict[str, float | None]] = {}
    for key, value in row.items():
        name, comma, through = key.partition(",")
        if not comma or name.endswith("_stderr"):
            continue
        error = row.get(f"{name}_stderr,{through}")
        shown = name if through == "none" else f"{name} ({through})"
        out[shown] = {"value": _number(value), "stderr": _number(error)}
    return out


def _number(value: Any) -> float | None:
    """A finite number; lm-eval writes "N/A" where it has none."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


@contextlib.contextmanager
def _same_draws() -> Iterator[None]:
    """Leave the random numbers of this process as they were: lm-eval seeds them all, and training may go on."""
    python, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)
