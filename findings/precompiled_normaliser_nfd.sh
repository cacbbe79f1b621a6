#!/usr/bin/env bash
# tokenizers 0.23.3, normalizers.Precompiled, beside sentencepiece 0.2.2 whose table it reads.
# One would guess: the same table (a model's precompiled_charsmap, here of the rule nfkc) normalises a text alike in both.
# Seen: of a letter with two combining marks in decomposed form (NFD: e, dot below, circumflex), SentencePiece makes the
# one composed letter, and tokenizers loses the second mark: other characters, so other ids.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet tokenizers==0.23.3 sentencepiece==0.2.2 protobuf==7.36.2
"$work/env/bin/python" - <<'PY'
import io
import unicodedata

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import normalizers

written = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["rain falls on the river and the meadow"] * 50), model_writer=written, vocab_size=40,
    model_type="unigram", normalization_rule_name="nfkc", hard_vocab_limit=False, minloglevel=2,
)
model = pb.ModelProto.FromString(written.getvalue())
text = unicodedata.normalize("NFD", "\u1ec7")
theirs = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue()).normalize(text).lstrip("\u2581")
ours = normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap).normalize_str(text)
print("given", ascii(text), "sentencepiece", ascii(theirs), "tokenizers", ascii(ours))
assert theirs == "\u1ec7", "sentencepiece no longer composes the letter"
assert unicodedata.normalize("NFC", ours) == "\u1eb9", "tokenizers no longer loses the second mark"
PY
