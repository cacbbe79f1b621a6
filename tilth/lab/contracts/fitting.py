"""What a technique says of itself for its contracts."""

from __future__ import annotations

import sys
from typing import Any

from tilth.core.technique import card, config_class


def small(identity: str) -> dict[str, Any]:
    """The technique as a recipe names it, with the fields that make it fit the contract's tiny model."""
    area, name = identity.split(".", 1)
    module = sys.modules[config_class(area, name).__module__]
    return {"use": name, **getattr(module, "SMALL", {})}


def is_elementwise(identity: str) -> bool:
    """Whether the card says that sharded parameters need nothing else."""
    return str(card(*identity.split(".", 1)).get("sharded", "")).lower().startswith("elementwise: yes")
