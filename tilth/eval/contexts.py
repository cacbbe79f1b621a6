"""Scores in the contexts that EleutherAI's lm-evaluation-harness gives its own models, so that numbers can be compared.

They differ from the speaker's own in this: what does not fit is cut off on the left once, however long the continuation
is; where a continuation changes its context's last token, the context's tokens stay and the rest of the whole's follow;
a long text is scored in windows that do not overlap, each behind one token of the window before; and where the
tokenizer puts a begin token before every text, that token is scored too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from tilth.core.errors import DataError

from .speaker import Score, Speaker

Contexts = Literal["lm-eval", "tilth"]
"""Whose contexts texts are scored in."""
SAID = {
    "lm-eval": "lm-eval's: cut on the left, windows that do not overlap",
    "tilth": "tilth's: windows that overlap by half",
}


def loglik(speaker: Speaker, pairs: Sequence[tuple[str, str]]) -> list[Score]:
    """log p(continuation | context) of pairs of texts, in nats.

    Raises DataError for a continuation without a token of its own, or one longer than the model's sequence.
    """
    encode, begin = speaker.tokenizer.encode_batch, speaker.begin(empty=False)
    moved = [(c.rstrip(), c[len(c.rstrip()) :] + text) if c else (c, text) for c, text in pairs]
    wholes = encode([c + text for c, text in moved])
    contexts = encode([c for c, _ in moved])
    sequences, first = [], []
    for (given, text), context, whole in zip(pairs, contexts, wholes, strict=True):
        before = [*begin, *context.tolist()] if given else speaker.begin(empty=True)
        after = whole.tolist()[len(context) :]
        if not after:
            raise DataError(
                f"the continuation {text!r:.60} adds no token to its context, so it has no probability.",
                where="loglikelihood",
                fix="Leave out empty choices.",
            )
        if len(after) > speaker.max_sequence:
            raise DataError(
                f"a continuation has {len(after):,} tokens and the model reads at most {speaker.max_sequence:,}.",
                where="loglikelihood",
                fix="contexts: tilth scores it in windows.",
            )
        ids = np.array([*(before or speaker.begin(empty=True)), *after], np.int64)[-(speaker.max_sequence + 1) :]
        sequences.append(ids)
        first.append(len(ids) - len(after))
    return speaker.score(sequences, first)


def loglik_rolling(speaker: Speaker, texts: Sequence[str]) -> list[float]:
    """log p of each whole text, in nats."""
    prefix, begin = speaker.begin(empty=True), speaker.begin(empty=False)
    ids = [np.array([*prefix, *begin, *i], np.int64) for i in speaker.tokenizer.encode_batch(texts)]
    return [s.nats for s in speaker.score(ids, [1] * len(ids), speaker.max_sequence)]
