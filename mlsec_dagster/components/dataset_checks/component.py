"""`dataset_hash` checks declared in a defs.yaml, with the attributes of `guard`.

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

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Self

import dagster as dg
from dagster.components.core.decl import ComponentDecl
from pydantic import BaseModel, Field, PrivateAttr, field_validator

from mlsec_dagster import _compat
from mlsec_dagster.asset_checks.dataset_hash import HashCheckSettings, Resolver, build_dataset_hash_check, is_external
from mlsec_dagster.components.dataset_checks.scaffolder import DatasetChecksScaffolder
from mlsec_dagster.errors import ConfigurationError
from mlsec_dagster.guarding import Dataset, columns_by_role, require_known, settings_of, with_guarded_io_managers
from mlsec_dagster.integrity.verdicts import Policy
from mlsec_dagster.resources import SecurityStore, Signer, open_store
from mlsec_dagster.sealing import Seals


class Attributes(dg.Model):
    """Attributes of a defs.yaml, with a schema from which `dg check yaml` can say what is wrong with which of them."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> Any:
        schema = handler(core_schema)
        # "Left out" needs no null: of two branches, tools say only that neither fits.
        for attribute in handler.resolve_ref_schema(schema)["properties"].values():
            branches = [each for each in attribute.get("anyOf", []) if each != {"type": "null"}]
            if len(branches) == 1:
                del attribute["anyOf"], attribute["default"]
                attribute.update(branches[0])
        return schema


class DatasetAttributes(Attributes):
    """One guarded asset with settings of its own; what is left out is taken from the component."""

    key: str = Field(description="The asset; components of its key are joined by /.")
    policy: Policy | None = Field(None, description="As for the component.")
    pinned: str | None = Field(None, description="For immutable: a digest (sha256:…), or the path of a SHA256SUMS file.")
    label: str | None = Field(None, description="Column that a model is to predict.")
    time: str | None = Field(None, description="Column that holds the time of a row.")
    ignore: list[str] | None = Field(None, description="Columns that may change freely; their bytes are sealed all the same.")
    sensitive: list[str] | None = Field(None, description="Columns whose values must not be shown.")


class StoreAttributes(Attributes):
    """The database that holds the ledger, and its witness."""

    url: str | None = Field(None, description="SQLAlchemy URL. Default: an SQLite file, $DAGSTER_HOME/mlsec/ledger.db.")
    witness: str | None = Field(
        None, description="Directory or fsspec URI outside the database owner's reach, to which checkpoints also go."
    )
    witness_every_minutes: float = Field(10.0, description="A checkpoint goes to the witness at most this often.")
    trusted_keys: list[str] = Field(default_factory=list, description="Fingerprints (SHA256:…) of the keys from which trust starts.")


class SignerAttributes(Attributes):
    """What signs statements and checkpoints."""

    uri: str | None = Field(None, description="securesystemslib signer URI. Default: a key file at $DAGSTER_HOME/mlsec/keys/mlsec.pem.")
    public_key: str | None = Field(None, description="Path of the public key (PEM). Needed for every uri but a key file's.")
    checkpoints_uri: str | None = Field(None, description="A key of its own for checkpoints.")
    checkpoints_public_key: str | None = Field(None, description="Path of that key's public half (PEM).")


@dg.scaffold_with(DatasetChecksScaffolder)
class DatasetChecksComponent(dg.Component, Attributes):
    """A blocking `dataset_hash` check on each of these datasets: stored bytes are those that were sealed.

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
    severity: Literal["ERROR", "WARN"] = Field("ERROR", description="The severity of a failed check.")
    blocking: bool = Field(True, description="Whether a failed check blocks downstream assets in the same run.")
    resolver: str | None = Field(
        None,
        description="Python path (package.module.function) of a function that says where assets lie that write for themselves:"
        " called with the asset key and its materialization, returns a path, a URI, or a table.",
    )
    store: StoreAttributes | None = Field(None, description="Where the ledger is.")
    signer: SignerAttributes | None = Field(None, description="What signs.")

    _positions: Any = PrivateAttr(None)

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

    # How Dagster reads a defs.yaml

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return cls

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        return dg.ComponentTypeSpec(tags=["security", "data integrity"], produces=["asset_check"])

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """The component that a defs.yaml describes, its templates (`{{ env.NAME }}`) filled in."""
        resolution = context.resolution_context.at_path("attributes")
        component = cls.model_validate(resolution.resolve_value(attributes.model_dump(exclude_unset=True)) if attributes else {})
        component._positions = resolution.source_position_tree
        return component

    # What it contributes

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """One `dataset_hash` check for each dataset.

        Raises:
            ConfigurationError: An asset key that no definition of the project has (with the nearest one), a pin that does not go with its
                policy, or a dataset given twice; names file and line.
        """
        known = _assets_around(context)
        defaults = self._defaults()
        checks: list[dg.AssetChecksDefinition] = []
        for index, (key, dataset) in enumerate(zip(self.asset_keys(), self.datasets, strict=True)):
            with self._located("datasets", index):
                if known is not None:
                    require_known([key], known)
                if key in self.asset_keys()[:index]:
                    raise ConfigurationError(f"{key.to_user_string()!r} is given twice: name each dataset once.")
                settings = settings_of(Dataset(**dataset.model_dump()), defaults)
                checks.append(build_dataset_hash_check(key, (known or {}).get(key), settings))
        return dg.Definitions(asset_checks=checks)

    def asset_keys(self) -> Sequence[dg.AssetKey]:
        """The assets that it guards, in the order in which they are declared."""
        return [dg.AssetKey.from_user_string(dataset.key) for dataset in self.datasets]

    def own_store(self) -> SecurityStore | None:
        return SecurityStore(**self.store.model_dump()) if self.store else None

    def own_signer(self) -> Signer | None:
        return Signer(**self.signer.model_dump()) if self.signer else None

    def _defaults(self) -> HashCheckSettings:
        return HashCheckSettings(
            policy=self.policy,
            severity=dg.AssetCheckSeverity(self.severity),
            blocking=self.blocking,
            resolver=self._resolver(),
            columns=columns_by_role(self.label, self.time, self.ignore, self.sensitive),
            store=self.own_store(),
            signer=self.own_signer(),
        )

    def _resolver(self) -> Resolver | None:
        if self.resolver is None:
            return None
        module, _, name = self.resolver.rpartition(".")
        with self._located("resolver"):
            try:
                return getattr(import_module(module), name)
            except (ImportError, AttributeError, ValueError) as error:
                raise ConfigurationError(
                    f"The resolver {self.resolver!r} cannot be imported ({error}): give the path of a function, package.module.function."
                ) from error

    @contextmanager
    def _located(self, *path: str | int) -> Iterator[None]:
        """Say in which file and line a mistake is, for a component that came from a defs.yaml."""
        try:
            yield
        except ConfigurationError as error:
            if self._positions is None:
                raise
            source = self._positions.source_error(yaml_path=["attributes", *path], inline_error_message=str(error), value_error=True)
            raise ConfigurationError(f"{source.file_name}:{source.start_line_no} - {error}\n{source.snippet}") from error


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
    components = tree.get_all_components(of_type=DatasetChecksComponent) if tree is not None else []
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


def _assets_around(context: dg.ComponentLoadContext) -> Mapping[dg.AssetKey, dg.AssetsDefinition | dg.SourceAsset] | None:
    """The project's assets by key; None where there is no project around the component.

    Everything is built but what holds a component of this class: those need the others' assets, and are needed by none.
    """
    if not isinstance(context.component_decl, ComponentDecl):
        return None
    definitions = [context.build_defs(decl.loc) for decl in _without_checks(context.component_tree.find_root_decl())]
    return _compat.assets_by_key(dg.Definitions.merge(*definitions))


def _without_checks(decl: Any) -> Iterator[Any]:
    """The largest parts of the component tree that hold no `DatasetChecksComponent`."""
    types = [each.component_type for each in decl.iterate_all_component_decls()]
    if not any(isinstance(each, type) and issubclass(each, DatasetChecksComponent) for each in types):
        yield decl
        return
    for child in decl.iterate_child_component_decls():
        yield from _without_checks(child)
