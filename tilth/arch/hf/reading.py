"""A Hugging Face directory as a decoder: config.json and safetensors in, everything checked, nothing executed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tilth.arch.backbone import Decoder
from tilth.arch.decoder import Config
from tilth.arch.io import check_sizes, fill, read_tensors
from tilth.core.errors import DataError
from tilth.core.rundir import named_inside, read_json

from .families import FAMILIES, Family
from .fields import Fields

DTYPES = ("float32", "bfloat16", "float16")
"""What weights can be written as."""


class Imported(NamedTuple):
    """What `import_hf` found."""

    config: Config
    model: Decoder
    tokenizer: Path
    """Directory that holds tokenizer.json and tokenizer_config.json."""
    dtype: str
    """What the weights are stored as: float32, bfloat16 or float16."""


def import_hf(path: str | Path, ignore: Iterable[str] = ()) -> Imported:
    """Read config.json and (sharded) safetensors; weights become float32.

    ignore: fields of config.json to pass over although tilth does not know them.
    Raises DataError naming the field, tensor or file that cannot be had.
    """
    path = Path(path)
    family, config, vocab_size, max_sequence = read_config(path, ignore)
    weights = _read_weights(path)
    check_sizes(config, vocab_size, weights, str(path / "config.json"))
    dtypes = Counter(str(t.dtype).removeprefix("torch.") for t in weights.values())
    stored = next((name for name, _ in dtypes.most_common() if name in DTYPES), "float32")
    with torch.device("meta"):  # shapes only; the file's tensors become the parameters
        model = config.build(vocab_size, max_sequence)
    fill(model, _ours(family, model, weights, path), str(path))
    return Imported(config, model, path, stored)


def read_config(path: Path, ignore: Iterable[str] = ()) -> tuple[Family, Config, int, int]:
    """config.json -> (family, decoder, vocab_size, max_sequence)."""
    where = str(path / "config.json")
    data = read_json(path / "config.json", finite=False)
    family = FAMILIES.get(str(data.get("model_type")))
    if family is None:
        raise DataError(
            f"the architecture {data.get('model_type')!r:.60} is not one tilth can read.",
            where=where,
            fix="It reads " + ", ".join(FAMILIES) + ".",
        )
    fields = Fields(data, where)
    config = family.config(fields)
    vocab_size = fields.size("vocab_size")
    max_sequence = fields.size(family.sequence, most=1 << 32)
    fields.finish(frozenset(ignore))
    return family, config, vocab_size, max_sequence


def generation_config(path: str | Path) -> dict[str, Any]:
    """generation_config.json as plain data, with the ids of special tokens that only config.json has."""
    about = read_json(Path(path) / "config.json", missing={}, finite=False)
    ids = {k: about[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id") if about.get(k) is not None}
    return ids | read_json(Path(path) / "generation_config.json", missing={}, finite=False)


def end_tokens(eos_id: int | None, generation: Mapping[str, Any] | None) -> list[int]:
    """Every token that ends a reply: the tokenizer's, then those of a generation_config.json (one, or a list)."""
    named = (generation or {}).get("eos_token_id")
    several = named if isinstance(named, list) else [named]
    return list(dict.fromkeys(i for i in (eos_id, *several) if type(i) is int and i >= 0))


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Every tensor of model.safetensors or of the shards its index names."""
    whole, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if whole.is_file():
        return read_tensors(whole)
    if not index.is_file():
        pickles = sorted(p.name for p in path.glob("*.bin")) + sorted(p.name for p in path.glob("*.pt*"))
        if pickles:
            raise DataError(
                f"the weights are a pickle ({pickles[0]}), which can run code when it is opened; tilth opens none.",
                where=str(path),
                fix="Have transformers write them again: from_pretrained(...), then save_pretrained(...).",
            )
        raise DataError("there is neither model.safetensors nor model.safetensors.index.json here.", where=str(path))
    data = read_json(index)
    names = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
        raise DataError("weight_map must name a file for each tensor.", where=str(index))
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(names.values())):
        tensors.update(read_tensors(named_inside(path, shard)))
    absent = sorted(names.keys() - tensors.keys())
    if absent:
        raise DataError(f"no shard holds {absent[0]}, which the index names.", where=str(index))
    return tensors


def _ours(family: Family, model: Decoder, theirs: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Their tensors under our names, split and turned as ours are."""
    theirs = _plain_names(family, theirs)
    layout = family.layout(name for name, _ in model.named_parameters())
    if model.output is None and "lm_head.weight" in theirs:
        embedding = next(name for name, ours in layout.items() if ours == ["embedding.weight"])
        if embedding in theirs and not torch.equal(theirs.pop("lm_head.weight"), theirs[embedding]):
            raise DataError(
                "config.json ties the head to the embedding, but lm_head.weight differs from it.",
                where=str(path),
                fix='Set "tie_word_embeddings" to false in config.json if the separate head is meant.',
            )
    for names, what in ((layout.keys() - theirs.keys(), "missing"), (theirs.keys() - layout.keys(), "not expected")):
        if names:
            raise DataError(f"the tensor {min(names)} is {what} ({len(names)} such).", where=str(path))
    shapes = {name: p.shape for name, p in model.named_parameters()}
    out: dict[str, Tensor] = {}
    for name, ours in layout.items():
        tensor = theirs.pop(name)
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            raise DataError(f"{name} is {tensor.dtype}; quantised weights are not read.", where=str(path))
        tensor = tensor.T if family.is_transposed(name) else tensor
        rows = [shapes[n][0] for n in ours]
        expected = [sum(rows), *shapes[ours[0]][1:]]
        if list(tensor.shape) != expected:
            raise DataError(f"{name} has shape {list(tensor.shape)}, read as {expected}.", where=str(path))
        out.update((n, part.contiguous()) for n, part in zip(ours, tensor.split(rows), strict=True))
    return out


def _plain_names(family: Family, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as the causal model has them: base-model checkpoints lack the prefix, old ones hold constant buffers."""
    prefix = family.blocks.partition(".")[0] + "."
    out = {}
    for name, tensor in theirs.items():
        if name.endswith((".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")):
            continue  # constants of old versions: frequencies, causal masks
        out[name if name.startswith((prefix, "lm_head.")) else prefix + name] = tensor
    return out
