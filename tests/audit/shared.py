"""Data that lies beside the checkout, in `../shared/data`: real deliveries and schemas, which are no part of the project."""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def shared(name: str) -> Path:
    """A file or folder of the shared data; the test is skipped where there is none."""
    for parent in ROOT.parents:
        if (place := parent / "shared" / "data" / name).exists():
            return place
    pytest.skip(f"needs shared/data/{name} beside the checkout: real data that is not part of this repository")


@cache
def ocsf_schema() -> dict[str, Any]:
    """The compiled schema of OCSF 1.8.0 (https://github.com/ocsf/ocsf-schema, Apache-2.0)."""
    return json.loads(gzip.decompress(shared("ocsf/ocsf-1.8.0.json.gz").read_bytes()))
