"""What components that add checks have in common: whose assets they are, and where these lie."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg
from pydantic import Field

from mlsec_dagster import _compat
from mlsec_dagster.asset_checks.building import Resolver
from mlsec_dagster.components.base import SecurityComponent, definitions_around


class ChecksComponent(SecurityComponent):
    """A component that adds checks to assets which other parts of the project define."""

    resolver: str | None = Field(
        None,
        description="Python path (package.module.function) of a function that says where assets lie that write for themselves:"
        " called with the asset key and its materialization, returns a path, a URI, or a table.",
    )

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        return dg.ComponentTypeSpec(tags=["security", "data integrity"], produces=["asset_check"])

    def own_resolver(self) -> Resolver | None:
        return self.imported("resolver", "a function", "package.module.function")


def assets_around(context: dg.ComponentLoadContext) -> Mapping[dg.AssetKey, dg.AssetsDefinition | dg.SourceAsset] | None:
    """The project's assets by key; None where there is no project around the component."""
    around = definitions_around(context)
    return None if around is None else _compat.assets_by_key(around)
