"""`dataset_hash` and `distribution_stability` checks declared in a defs.yaml, with the attributes of `guard`.

    type: mlsec_dagster.DatasetChecksComponent
    attributes:
      datasets:
        - raw_flights
        - key: training_set
          policy: append_only

A component contributes definitions and cannot change those of others, so by itself it adds the checks. The other half of `guard`, IO
managers that seal what they write and verify what they read, comes with `load_from_defs_folder` below.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import dagster as dg
from pydantic import Field, field_validator

from mlsec_dagster import _compat
from mlsec_dagster.asset_checks.building import is_external
from mlsec_dagster.asset_checks.dataset_hash import HashCheckSettings
from mlsec_dagster.components.base import Attributes, components_of
from mlsec_dagster.components.checks import ChecksComponent, assets_around
from mlsec_dagster.components.dataset_checks.scaffolder import DatasetChecksScaffolder
from mlsec_dagster.errors import ConfigurationError
from mlsec_dagster.guarding import Dataset, checks_of, columns_by_role, require_known, with_guarded_io_managers
from mlsec_dagster.integrity.verdicts import Policy
from mlsec_dagster.resources import open_store
from mlsec_dagster.sealing import Seals


class DatasetAttributes(Attributes):
    """One guarded asset with settings of its own; what is left out is taken from the component."""

    key: str = Field(description="The asset; components of its key are joined by /.")
    policy: Policy | None = Field(None, description="As for the component.")
    pinned: str | None = Field(None, description="For immutable: a digest (sha256:…), or the path of a SHA256SUMS file.")
    label: str | None = Field(None, description="Column that a model is to predict.")
    time: str | None = Field(None, description="Column that holds the time of a row.")
    ignore: list[str] | None = Field(None, description="Columns that may change freely; their bytes are sealed all the same.")
    sensitive: list[str] | None = Field(None, description="Columns whose values must not be shown.")
    false_alarms: float | None = Field(None, description="How often a materialization in which nothing changed may alarm.")


@dg.scaffold_with(DatasetChecksScaffolder)
class DatasetChecksComponent(ChecksComponent):
    """A `dataset_hash` and a `distribution_stability` check on each of these datasets.

    The first one blocks: stored bytes are those that were sealed. The second one warns: the dataset looks as it has looked before.

    By itself it adds the checks. To have every read verified as well, load the project's definitions.py with
    `mlsec_dagster.load_from_defs_folder` in place of `dagster.load_from_defs_folder`.
    """

    datasets: list[DatasetAttributes] = Field(min_length=1, description="Assets to guard: keys, or objects with settings of their own.")
    policy: Policy = Field(
        "tracked",
        description="tracked (content may change, but only by a materialization), append_only (earlier rows never change) or immutable.",
    )
    label: str | None = Field(None, description="Column that a model is to predict, in every dataset that does not name its own.")
    time: str | None = Field(None, description="Column that holds the time of a row.")
    ignore: list[str] = Field(default_factory=list, description="Columns that may change freely; their bytes are sealed all the same.")
    sensitive: list[str] = Field(default_factory=list, description="Columns whose values must not be shown.")
    false_alarms: float = Field(
        0.01, description="How often a materialization in which nothing changed may alarm: 0.01 is one in a hundred."
    )
    severity: Literal["ERROR", "WARN"] = Field("ERROR", description="The severity of a failed dataset_hash check.")
    blocking: bool = Field(True, description="Whether a failed dataset_hash check blocks downstream assets in the same run.")

    # A key alone stands for an object that has nothing but a key. In the schema these are two branches of if/else and not of anyOf,
    # because only then do tools say which attribute of an object is wrong.
    @field_validator("datasets", mode="before")
    @classmethod
    def _keys_as_objects(cls, datasets: Any) -> Any:
        return [{"key": each} if isinstance(each, str) else each for each in datasets] if isinstance(datasets, list) else datasets

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> Any:
        schema = super().__get_pydantic_json_schema__(core_schema, handler)
        datasets = handler.resolve_ref_schema(schema)["properties"]["datasets"]
        datasets["items"] = {"if": {"type": "object"}, "then": datasets["items"], "else": {"type": "string"}}
        return schema

    # What it contributes

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The checks of each dataset.

        Raises:
            ConfigurationError: An asset key that no definition of the project has (with the nearest one), a pin that does not go with its
                policy, or a dataset given twice; names file and line.
        """
        known = assets_around(context)
        defaults = self._defaults()
        checks: list[dg.AssetChecksDefinition] = []
        for index, (key, dataset) in enumerate(zip(self.asset_keys(), self.datasets, strict=True)):
            with self.located("datasets", index):
                if known is not None:
                    require_known([key], known)
                if key in self.asset_keys()[:index]:
                    raise ConfigurationError(f"{key.to_user_string()!r} is given twice: name each dataset once.")
                checks += checks_of(key, (known or {}).get(key), Dataset(**dataset.model_dump()), defaults, self.false_alarms)
        return dg.Definitions(asset_checks=checks)

    def asset_keys(self) -> Sequence[dg.AssetKey]:
        """The assets that it guards, in the order in which they are declared."""
        return [dg.AssetKey.from_user_string(dataset.key) for dataset in self.datasets]

    def _defaults(self) -> HashCheckSettings:
        return HashCheckSettings(
            policy=self.policy,
            severity=dg.AssetCheckSeverity(self.severity),
            blocking=self.blocking,
            resolver=self.own_resolver(),
            columns=columns_by_role(self.label, self.time, self.ignore, self.sensitive),
            store=self.own_store(),
            signer=self.own_signer(),
        )


def load_from_defs_folder(*, path_within_project: Path) -> dg.Definitions:
    """Dagster's function of this name, with reads verified and writes sealed of every dataset that a `DatasetChecksComponent` names.

    The one line to change in the definitions.py of a project that `dg` manages:

        @dg.definitions
        def defs():
            return mlsec.load_from_defs_folder(path_within_project=Path(__file__).parent)

    Args:
        path_within_project: A path within the project's directory.

    Raises:
        ConfigurationError: If the project has no `DatasetChecksComponent`, or several with different stores or signers.
    """
    defs = dg.load_from_defs_folder(path_within_project=path_within_project)
    tree = defs.component_tree
    components = components_of(tree, DatasetChecksComponent) if tree is not None else []
    if not components:
        raise ConfigurationError(
            f"No defs.yaml of the project at {path_within_project} has a mlsec_dagster.DatasetChecksComponent, so nothing would "
            f"be guarded: add one with `dg scaffold defs mlsec_dagster.DatasetChecksComponent dataset_checks`."
        )
    first = components[0]
    if any((each.store, each.signer) != (first.store, first.signer) for each in components):
        raise ConfigurationError(
            "The DatasetChecksComponents of this project name different stores or signers; whoever reads a dataset would not know in which "
            "ledger to look: give all of them the same `store` and `signer`."
        )
    store, signer = first.own_store(), first.own_signer()

    def open_seals(instance: dg.DagsterInstance, executor: str | None) -> Seals:
        return Seals(open_store(instance, store, signer, executor=executor), instance)

    known = _compat.assets_by_key(defs)
    guarded = {key: is_external(known[key]) for component in components for key in component.asset_keys()}
    return with_guarded_io_managers(defs, guarded, open_seals, [])
