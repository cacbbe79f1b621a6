#!/usr/bin/env bash
# transformers 5.23.0, AutoTokenizer on a directory with a tokenizer.json, of the classes LlamaTokenizer,
# GemmaTokenizer and PreTrainedTokenizerFast.
# One would guess: "add_bos_token": true in tokenizer_config.json puts the begin token before a text, as it did for
# Llama's tokenizers in version 4, and false keeps it away.
# Seen: neither is heard; whether a text begins with it is decided by tokenizer.json's post-processor alone.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet transformers==5.23.0 tokenizers==0.23.3
cd "$work" && HF_HUB_OFFLINE=1 "$work/env/bin/python" - <<'PY'
import itertools
import json
from pathlib import Path

from tokenizers import Tokenizer, models, processors
from transformers import AutoTokenizer

CLASSES = ("LlamaTokenizer", "GemmaTokenizer", "PreTrainedTokenizerFast")
TOKENS = ["<s>", "</s>", "<unk>", "r", "a", "ra", "\u2581", "<pad>"]
for name, begins, asked in itertools.product(CLASSES, (False, True), (False, True)):
    at = Path(f"{name}-{begins}-{asked}")
    at.mkdir()
    made = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(TOKENS)}, merges=[("r", "a")], unk_token="<unk>"))
    made.add_special_tokens(["<s>", "</s>", "<unk>", "<pad>"])
    if begins:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made.save(str(at / "tokenizer.json"))
    about = {"tokenizer_class": name, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
             "pad_token": "<pad>", "add_bos_token": asked}
    (at / "tokenizer_config.json").write_text(json.dumps(about))
    ids = AutoTokenizer.from_pretrained(str(at))("ra")["input_ids"]
    print(f"{name}: post-processor {begins}, add_bos_token {asked}: {ids}")
    assert (ids[0] == 0) == begins, "add_bos_token is heard now"
PY
