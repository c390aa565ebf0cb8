"""The definitions that a command is pointed at with -m, -f or -w, and how their IO managers are reached without a run."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import dagster as dg

from mlsec_dagster import _compat
from mlsec_dagster.asset_checks.building import Resolver, resolver_of
from mlsec_dagster.asset_checks.examination import CHECK_NAME
from mlsec_dagster.errors import ConfigurationError
from mlsec_dagster.io_managers.storage import Storage, Subject
from mlsec_dagster.io_managers.wrapper import SealedIOManager, storage_of

if TYPE_CHECKING:
    from mlsec_dagster.sealing import Seals


@dataclass(frozen=True, slots=True)
class Asset:
    """One asset of a project, with everything that is bound to it.

    Attributes:
        key: Its key.
        spec: Its specification.
        resources: Resource definitions by key.
        io_manager_key: The resource that loads it, or None if none does.
        executable: Whether Dagster materializes it.
        resolver: What its guard was told about where it lies, or None.
    """

    key: dg.AssetKey
    spec: dg.AssetSpec
    resources: Mapping[str, dg.ResourceDefinition]
    io_manager_key: str | None
    executable: bool
    resolver: Resolver | None = None

    @contextmanager
    def storage(
        self, seals: "Seals", instance: dg.DagsterInstance
    ) -> Iterator[tuple[Storage, Callable[[str | None, str | None], Subject]] | None]:
        """How to look at what its IO manager stores, and how to name a partition (and its known location) to it; None if it has none."""
        definition = self.resources.get(self.io_manager_key) if self.io_manager_key else None
        if definition is None or self.io_manager_key is None:
            yield None
            return
        # Some IO managers read their configuration from the context: this one yields what Dagster would give them.
        configuration = dg.ResourceDefinition(lambda context: context.resource_config, config_schema=definition.config_schema)
        needed = {"mlsec_configuration": configuration, self.io_manager_key: definition}
        missing = set(definition.required_resource_keys)
        while missing:
            name = missing.pop()
            needed[name] = self.resources[name]
            missing |= set(self.resources[name].required_resource_keys) - needed.keys()
        with dg.build_resources(needed, instance=instance) as built:
            manager = getattr(built, self.io_manager_key)
            manager = manager.wrapped if isinstance(manager, SealedIOManager) else manager
            config = built.mlsec_configuration

            def subject(partition: str | None, location: str | None) -> Subject:
                return Subject(
                    asset_key=self.key,
                    partition=partition,
                    partitions_def=self.spec.partitions_def if partition is not None else None,
                    definition_metadata=self.spec.metadata,
                    resource_config=config if isinstance(config, Mapping) else None,
                    resources=built,
                    instance=instance,
                    location=location,
                )

            yield storage_of(manager, seals.row_key), subject


def assets_of(*, module: str | None, file: str | None, workspace: str | None) -> dict[dg.AssetKey, Asset] | None:
    """Every asset of the code that is named, or None if none is.

    Raises:
        ConfigurationError: It cannot be loaded.
    """
    if not (module or file or workspace):
        return None
    found: dict[dg.AssetKey, Asset] = {}
    with _compat.disable_dagster_warnings():
        for loaded in _modules(module, file, workspace):
            for definitions in _definitions(loaded):
                found.update(_assets(definitions))
    return found


def _assets(definitions: dg.Definitions) -> Iterator[tuple[dg.AssetKey, Asset]]:
    repository = definitions.get_repository_def()
    for bound in repository.assets_defs_by_key.values():
        for key in bound.keys:
            spec = bound.get_asset_spec(key)
            named = bound.get_io_manager_key_for_asset_key(key) if bound.is_executable else spec.metadata.get("dagster/io_manager_key")
            resources = {"io_manager": _compat.default_job_io_manager, **_resources(definitions), **bound.resource_defs}
            resolver = resolver_of(repository.asset_checks_defs_by_key.get(dg.AssetCheckKey(key, CHECK_NAME)))
            yield key, Asset(key, spec, resources, str(named or "io_manager"), bound.is_executable, resolver)


def _resources(definitions: dg.Definitions) -> dict[str, dg.ResourceDefinition]:
    """The project's own resources that are IO managers or anything that one of these needs."""
    return dict(definitions.get_repository_def().get_top_level_resources())


def _modules(module: str | None, file: str | None, workspace: str | None) -> Iterator[ModuleType]:
    if module:
        yield _import(module)
    if file:
        yield _import_file(Path(file))
    if workspace:
        yield from _workspace(Path(workspace))


def _import(name: str, directory: Path | None = None) -> ModuleType:
    sys.path.insert(0, str((directory or Path.cwd()).resolve()))
    try:
        return importlib.import_module(name)
    except Exception as error:  # Whatever the project's code raises.
        raise ConfigurationError(
            f"The module {name} cannot be loaded ({type(error).__name__}: {error}). Run this where the project can be imported."
        ) from error


def _import_file(path: Path, directory: Path | None = None) -> ModuleType:
    if not path.is_file():
        raise ConfigurationError(f"There is no file {path} to load definitions from.")
    sys.path.insert(0, str((directory or path.parent).resolve()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{path} is not a Python file.")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = loaded
    try:
        spec.loader.exec_module(loaded)
    except Exception as error:  # Whatever the project's code raises.
        raise ConfigurationError(f"The file {path} cannot be loaded ({type(error).__name__}: {error}).") from error
    return loaded


def _workspace(path: Path) -> Iterator[ModuleType]:
    """The code locations of a workspace file that are Python modules or files; others run elsewhere."""
    import yaml

    try:
        targets = (yaml.safe_load(path.read_text(encoding="utf-8")) or {})["load_from"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigurationError(f"The workspace file {path} cannot be read ({error}); expected a list under `load_from`.") from error
    for target in targets:
        kind, value = next(iter(target.items()))
        said = value if isinstance(value, dict) else {}
        directory = path.parent / said["working_directory"] if said.get("working_directory") else path.parent
        if kind in ("python_module", "python_package"):
            yield _import(str(said.get("module_name") or said.get("package_name") or value), directory)
        elif kind == "python_file":
            yield _import_file(path.parent / str(said.get("relative_path") or value), directory)


def _definitions(module: ModuleType) -> list[dg.Definitions]:
    """What Dagster would find in a module: `Definitions`, or a function under `@definitions` that makes them; else loose assets."""
    found: list[dg.Definitions] = []
    for value in vars(module).values():
        made = value(None) if type(value).__name__ == "LazyDefinitions" else value
        if isinstance(made, dg.Definitions) and all(made is not other for other in found):
            found.append(made)
    return found or [dg.load_definitions_from_modules([module])]
