"""The longest location that a path lies in, found by walking down its components: it does not matter how many locations there are.

tree = PrefixTree()
tree.add(locate("s3://lake/raw"), artifact, LOCATION)
tree.find(locate("s3://lake/raw/2026-01-01.parquet"))   # (artifact, 1)
"""

from typing import Final

import msgspec

from mlsec_dagster.audit.artifacts import Artifact
from mlsec_dagster.audit.locations import Location

MATERIALIZATION: Final = 1
LEDGER: Final = 2
REGISTRY: Final = 3
LOCATION: Final = 4
"""Whose word counts, the greater before the smaller: assets' own reports, the signed ledger, the registry, the user."""


class _Node:
    __slots__ = ("artifact", "below", "rank")

    def __init__(self) -> None:
        self.artifact: Artifact | None = None
        self.rank = 0
        self.below: dict[str, _Node] | None = None


class PrefixTree:
    """Locations and what lies there. Filled once, then only read."""

    def __init__(self) -> None:
        self._roots: dict[tuple[str, str], _Node] = {}

    def add(self, location: Location, artifact: Artifact, rank: int) -> None:
        """Claim a place. Claims are added in the order in which they count: a later one only completes what an earlier one left open."""
        node = self._roots.setdefault((location.store, location.container), _Node())
        for part in location.parts:
            below = node.below
            if below is None:
                below = node.below = {}
            following = below.get(part)
            if following is None:
                following = below[part] = _Node()
            node = following
        if node.artifact is None:
            node.artifact, node.rank = artifact, rank
        else:
            node.artifact = completed(node.artifact, artifact)

    def find(self, location: Location) -> tuple[Artifact | None, int]:
        """The artifact of the longest location that is a prefix of this one by whole components, and its depth.

        Data that lies below a model by the word of somebody who counts less only completes it: whoever can materialize an asset cannot
        take the files of a registered model out of sight.
        """
        node = self._roots.get((location.store, location.container))
        if node is None:
            return None, 0
        best, depth, rank = node.artifact, 0, node.rank
        for level, part in enumerate(location.parts, 1):
            if node.below is None:
                break
            node = node.below.get(part)
            if node is None:
                break
            if node.artifact is None:
                continue
            if best is not None and best.kind == "model" and rank > node.rank and node.artifact.kind != "model":
                best, depth = completed(best, node.artifact), level
            else:
                best, depth, rank = node.artifact, level, node.rank
        return best, depth


def completed(artifact: Artifact, other: Artifact) -> Artifact:
    """A model that lacks its asset or its registered model, with those of another claim to the same place. Anything else stays as it is."""
    if artifact.kind != "model":
        return artifact
    if artifact.asset is None and other.asset is not None:
        artifact = msgspec.structs.replace(artifact, asset=other.asset, partition=other.partition)
    if artifact.model is None and other.model is not None:
        artifact = msgspec.structs.replace(artifact, model=other.model, version=other.version)
    return artifact
