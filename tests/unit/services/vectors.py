"""Messages of existing implementations (``tests/vectors/services.json``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parents[2] / "vectors" / "services.json"


def of(service: str) -> Any:
    """The vectors of one service."""
    return json.loads(_FILE.read_text())[service]
