"""What all components have in common: where the ledger is, what signs, what is around them, and in which line a mistake is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Self, TypeVar, cast

import dagster as dg
from dagster.components.core.decl import ComponentDecl, ComponentLoaderDecl
from pydantic import BaseModel, Field, PrivateAttr

from mlsec_dagster.errors import ConfigurationError
from mlsec_dagster.resources import SecurityStore, Signer

Component = TypeVar("Component", bound=dg.Component)


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


class SecurityComponent(dg.Component, Attributes):
    """A component that looks at what other parts of the project define, and that none of them looks at."""

    store: StoreAttributes | None = Field(None, description="Where the ledger is.")
    signer: SignerAttributes | None = Field(None, description="What signs.")

    _positions: Any = PrivateAttr(None)

    # How Dagster reads a defs.yaml

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return cls

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """The component that a defs.yaml describes, its templates (`{{ env.NAME }}`) filled in."""
        resolution = context.resolution_context.at_path("attributes")
        given = attributes.model_dump(exclude_unset=True) if attributes else {}
        component = cls.model_validate(_filled_in(given, resolution))
        component._positions = resolution.source_position_tree
        return component

    # What its attributes name

    def own_store(self) -> SecurityStore | None:
        return SecurityStore(**self.store.model_dump()) if self.store else None

    def own_signer(self) -> Signer | None:
        return Signer(**self.signer.model_dump()) if self.signer else None

    def imported(self, attribute: str, what: str, example: str) -> Any:
        """What the attribute of this name gives the Python path of; None if it is left out.

        Args:
            attribute: The attribute.
            what: What it should be the path of, as text: "a function".
            example: What such a path is like.

        Raises:
            ConfigurationError: It cannot be imported.
        """
        path: str | None = getattr(self, attribute)
        if path is None:
            return None
        module, _, name = path.rpartition(".")
        with self.located(attribute):
            try:
                return getattr(import_module(module), name)
            except (ImportError, AttributeError, ValueError) as error:
                raise ConfigurationError(
                    f"The {attribute} {path!r} cannot be imported ({error}): give the path of {what}, {example}."
                ) from error

    @contextmanager
    def located(self, *path: str | int) -> Iterator[None]:
        """Say in which file and line a mistake is, for a component that came from a defs.yaml."""
        try:
            yield
        except ConfigurationError as error:
            if self._positions is None:
                raise
            source = self._positions.source_error(yaml_path=["attributes", *path], inline_error_message=str(error), value_error=True)
            raise ConfigurationError(f"{source.file_name}:{source.start_line_no} - {error}\n{source.snippet}") from error


def _filled_in(value: Any, resolution: Any) -> Any:
    """Attributes with their templates filled in, those in keys too, such as a URI that leads to something.

    Dagster reads every text as a Python literal, so that an account number would become a number, and the bucket "1e5" 100000.0.
    """
    if isinstance(value, dict):
        return {_filled_in(key, resolution): _filled_in(each, resolution.at_path(key)) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled_in(each, resolution.at_path(index)) for index, each in enumerate(value)]
    if not isinstance(value, str) or not ("{{" in value or "{%" in value):
        return value
    found = resolution.resolve_value(value)
    if found is None:
        # Left out, a store would quietly be another one, and a key another key.
        raise ConfigurationError(f"{value!r} has no value: set the environment variable or the template that it names, or leave it out.")
    # Behind a letter nothing is a literal.
    return resolution.resolve_value(f"_{value}")[1:] if isinstance(found, int | float) else found


def definitions_around(context: dg.ComponentLoadContext) -> dg.Definitions | None:
    """What the project defines; None where there is no project around the component.

    Everything is built but what holds a component of this kind: those need what others define, and are needed by none.
    """
    if not isinstance(context.component_decl, ComponentDecl):
        return None
    tree = context.component_tree
    return dg.Definitions.merge(*(context.build_defs(decl.loc) for decl in _without_security(tree, tree.find_root_decl())))


def components_of(tree: dg.ComponentTree, kind: type[Component]) -> list[Component]:
    """All components of a kind in a project, in the order of its files."""
    found = [each for each in tree.find_root_decl().iterate_all_component_decls() if _is(tree, each, kind)]
    return [cast("Component", tree.load_structural_component_at_loc(each.loc)) for each in found]


def _without_security(tree: dg.ComponentTree, decl: Any) -> Iterator[Any]:
    """The largest parts of the component tree that hold no `SecurityComponent`."""
    if not any(_is(tree, each, SecurityComponent) for each in decl.iterate_all_component_decls()):
        yield decl
        return
    for child in decl.iterate_child_component_decls():
        yield from _without_security(tree, child)


def _is(tree: dg.ComponentTree, decl: Any, kind: type) -> bool:
    """Whether a declared component is of a kind. A function need not say what it returns, so it is asked for it."""
    if isinstance(decl, ComponentLoaderDecl):
        return isinstance(tree.load_structural_component_at_loc(decl.loc), kind)
    return issubclass(decl.component_type, kind)
