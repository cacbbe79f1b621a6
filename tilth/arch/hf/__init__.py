"""Hugging Face directories in and out: weights, config, tokenizer, generation config, and a proof that they agree."""

from .compare import Parity, parity
from .families import FAMILIES
from .reading import Imported, generation_config, import_hf
from .writing import Export, choose, export_hf

__all__ = [
    "FAMILIES",
    "Export",
    "Imported",
    "Parity",
    "choose",
    "export_hf",
    "generation_config",
    "import_hf",
    "parity",
]
