"""Hugging Face directories in and out: weights, config, tokenizer, generation config, and a proof that they agree."""

from .families import FAMILIES
from .parity import Parity, parity
from .reading import Imported, generation_config, import_hf
from .writing import Export, export_hf

__all__ = ["FAMILIES", "Export", "Imported", "Parity", "export_hf", "generation_config", "import_hf", "parity"]
