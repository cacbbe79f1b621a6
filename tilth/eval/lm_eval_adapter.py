"""A speaker as EleutherAI's lm-evaluation-harness wants it: `lm_eval.simple_evaluate(model=TilthLM(speaker), …)`.

Scores are the speaker's own: every text starts behind the begin token, spaces between context and continuation count to
the continuation, long documents are scored in overlapping windows (lm-eval's own models use disjoint ones). Needs the
extra `tilth[lm-eval]`; only this module imports it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tilth.core.errors import DataError, TilthError
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

    def __init__(self, speaker: Speaker, max_gen_toks: int = 256) -> None:
        """`max_gen_toks`: longest reply where a task does not say."""
        super().__init__()
        self.speaker, self.max_gen_toks = speaker, max_gen_toks

    @property
    def tokenizer_name(self) -> str:
        """Identifies the tokenizer in lm-eval's request cache."""
        return self.speaker.tokenizer.fingerprint

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log p, is greedy) of each (context, continuation)."""
        scores = [tuple(s) for s in self.speaker.loglik([r.args for r in requests])]
        return self._kept("loglikelihood", requests, scores)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """log p of each whole text."""
        return self._kept("loglikelihood_rolling", requests, self.speaker.loglik_rolling([r.args[0] for r in requests]))

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
            for i, reply in zip(rows, self.speaker.generate(prompts, length, stop=stop, **sampling), strict=True):
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


def harness(speaker: Speaker, tasks: Sequence[Any], **settings: Any) -> dict[str, dict[str, float]]:
    """Run lm-eval tasks (names, or task dictionaries) on a speaker: task -> metric -> value, with standard errors.

    `settings` go to `lm_eval.simple_evaluate` (num_fewshot, limit, task_manager, …). Named tasks download their data.
    """
    import lm_eval
    from lm_eval.tasks import TaskManager

    if not any(isinstance(task, str) for task in tasks):  # no need to look through lm-eval's thousands of own tasks
        settings.setdefault("task_manager", TaskManager(include_defaults=False))
    found = lm_eval.simple_evaluate(model=TilthLM(speaker), tasks=list(tasks), **settings)
    results = {} if found is None else found["results"]
    return {
        task: {m: float(v) for m, v in row.items() if isinstance(v, int | float) and math.isfinite(v)}
        for task, row in results.items()
    }
