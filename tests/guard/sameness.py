"""One project run twice, as it is and with the guard on, in two Dagster homes: what is defined, what happens and what is loaded, compared.

Everything that Dagster shows or records is taken: the repository's snapshot (jobs, schedules, sensors, resources, assets, checks, run
configuration) and every event with its metadata and tags. Only what differs between any two runs is left out: ids, times, places.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._config.config_type import ConfigTypeKind
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run_iterator
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value

import mlsec_dagster as mlsec

CHECKS = ("dataset_hash", "distribution_stability")
GLOBAL_JOB = "__ASSET_JOB"
VOLATILE = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"  # run ids
    r"|\b[0-9a-f]{40}\b"  # ids of snapshots and configuration types
    r"| at 0x[0-9a-f]+"
)
OF_THE_PROCESS = frozenset({"RESOURCE_INIT_STARTED", "RESOURCE_INIT_SUCCESS", "ENGINE_EVENT", "LOGS_CAPTURED"})
VOLATILE_KEYS = frozenset({"duration_ms", "timestamp", "storage_id", "pid"})
VOLATILE_TAGS = re.compile(r"dagster/(data_version|input_data_version/|input_event_pointer/|input_storage_id)")


@dataclass(frozen=True)
class Run:
    """One run of one job, as a launcher would start it."""

    job: str = GLOBAL_JOB
    select: Sequence[str] | None = None
    partition: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    success: bool = True

    def execute(self, defs: dg.Definitions, instance: dg.DagsterInstance) -> list[Any]:
        """The events of the run."""
        job = self._job(defs).with_executor_def(dg.in_process_executor)
        keys = {dg.AssetKey.from_user_string(name) for name in self.select} if self.select else None
        run = instance.create_run_for_job(
            job.get_subset(asset_selection=keys) if keys else job,
            run_config=dict(self.config),
            tags={**self.tags, **({"dagster/partition": self.partition} if self.partition else {})},
            asset_selection=keys,
        )
        events = list(execute_run_iterator(InMemoryJob(job), run, instance))
        ended = instance.get_run_by_id(run.run_id)
        assert ended is not None
        if (ended.status == dg.DagsterRunStatus.SUCCESS) is not self.success:
            raise AssertionError("\n".join(_reasons(event) for event in events if event.is_failure))
        return events

    def _job(self, defs: dg.Definitions) -> dg.JobDefinition:
        if self.job != GLOBAL_JOB:
            return defs.resolve_job_def(self.job)
        if self.select is None:
            return defs.resolve_implicit_global_asset_job_def()
        keys = {dg.AssetKey.from_user_string(name) for name in self.select}
        return defs.resolve_implicit_job_def_def_for_assets(keys) or defs.resolve_implicit_global_asset_job_def()


@dataclass
class Side:
    """One of the two: the definitions in a home of their own."""

    defs: dg.Definitions
    home: Path
    instance: dg.DagsterInstance

    def load(self, name: str, **options: Any) -> Any:
        return self.defs.load_asset_value(dg.AssetKey.from_user_string(name), instance=self.instance, **options)


class Twins:
    """A project as it is and guarded.

    Args:
        home: Where both get their own DAGSTER_HOME; `template` is copied there, which is faster than creating one.
        build: Makes the project anew, given a directory for its data.
        datasets: What is guarded.
    """

    def __init__(self, home: Path, build: Callable[[Path], dg.Definitions], datasets: Sequence[Any], template: Path | None = None) -> None:
        self.sides: dict[str, Side] = {}
        for name in ("plain", "guarded"):
            place = home / name
            if template is not None:
                shutil.copytree(template, place)
            else:
                place.mkdir(parents=True)
            (place / "data").mkdir()
            defs = build(place / "data")
            if name == "guarded":
                defs = mlsec.guard(defs, datasets=datasets)
            self.sides[name] = Side(defs, place, dg.DagsterInstance.from_config(str(place)))
        self.plain, self.guarded = self.sides["plain"], self.sides["guarded"]

    def assert_defined_alike(self) -> None:
        """What Dagster shows of the two differs by our checks and, where there was none, by the explicit default `io_manager`."""
        for side in self.sides.values():
            dg.Definitions.validate_loadable(side.defs)
        plain, guarded = (snapshot(side) for side in (self.plain, self.guarded))
        if "io_manager" not in (self.plain.defs.resources or {}):
            guarded["external_resource_data"] = [each for each in guarded["external_resource_data"] if each["name"] != "io_manager"]
            for definitions in (plain, guarded):
                _forget_unused_configuration_of_the_default(definitions)
        assert guarded == plain, "\n".join(differences(plain, guarded))
        schemas = [config_schemas(side) for side in (self.plain, self.guarded)]
        if "io_manager" not in (self.plain.defs.resources or {}):
            for job, schema in schemas[0].items():
                if schema["resources"][2]["io_manager"][2]["config"][2] == "Any":
                    _forget_io_manager(schema), _forget_io_manager(schemas[1][job])
        assert schemas[1] == schemas[0], "\n".join(differences(*schemas))

    def assert_run_alike(self, *runs: Run) -> dict[str, list[Any]]:
        """The two record the same events in the same order in each step; returns those of the unguarded project."""
        seen: dict[str, list[Any]] = {}
        for run in runs or (Run(),):
            plain, guarded = (self._events(side, run) for side in (self.plain, self.guarded))
            assert guarded == plain, "\n".join(differences(plain, guarded))
            seen.update(plain)
        return seen

    def _events(self, side: Side, run: Run) -> dict[str, list[Any]]:
        by_step: dict[str, list[Any]] = {}
        with at_home(side.home):
            events = run.execute(side.defs, side.instance)
        for event in events:
            step = (event.step_key or "").partition("[")[0]
            if step.endswith(CHECKS) or event.event_type_value in OF_THE_PROCESS:
                continue
            said = event.event_specific_data
            data = None if said is None else steady(json.loads(serialize_value(said)), side.home)
            by_step.setdefault(event.step_key or "", []).append({"type": event.event_type_value, "data": data})
        return by_step

    def assert_load_alike(self, name: str, **options: Any) -> Any:
        """`Definitions.load_asset_value` gives equal values; returns the guarded one's."""
        values = []
        for side in self.sides.values():
            with at_home(side.home):
                values.append(side.load(name, **options))
        plain, guarded = values
        assert _equal(plain, guarded)
        return guarded

    def evaluations(self) -> list[Any]:
        """Evaluations of our checks of every run, with what went wrong in their descriptions."""
        return [
            record.event_log_entry.dagster_event.event_specific_data
            for record in self.guarded.instance.get_event_records(dg.EventRecordsFilter(dg.DagsterEventType.ASSET_CHECK_EVALUATION))
            if record.event_log_entry.dagster_event.event_specific_data.check_name in CHECKS
        ]

    def assert_every_check_passed(self, count: int) -> None:
        """Both of our checks have passed `count` times each."""
        evaluations = self.evaluations()
        assert [evaluation.description for evaluation in evaluations if not evaluation.passed] == []
        for check in CHECKS:
            assert len([each for each in evaluations if each.check_name == check]) == count


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return one.equals(other) if hasattr(one, "equals") else one == other


@contextmanager
def at_home(home: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home))
        yield


def _reasons(event: Any) -> str:
    error, reasons = event.event_specific_data.error, []
    while error is not None:
        reasons.append(error.message)
        error = error.cause
    return f"{event.step_key}: {' '.join(reasons)}"


def steady(value: Any, home: Path) -> Any:
    """A JSON value without what differs between any two runs."""
    if isinstance(value, dict):
        return {key: steady(item, home) for key, item in value.items() if key not in VOLATILE_KEYS and not VOLATILE_TAGS.match(key)}
    if isinstance(value, list):
        # Tags are serialized as pairs.
        return [steady(item, home) for item in value if not (isinstance(item, list) and item and VOLATILE_TAGS.match(str(item[0])))]
    if isinstance(value, str):
        return VOLATILE.sub("…", value.replace(str(home), "HOME"))
    return value


def _forget_unused_configuration_of_the_default(definitions: Any) -> None:
    """A job whose assets store nothing has a default `io_manager` all the same, which takes its configuration or none."""
    for job in definitions["external_pipeline_datas"]:
        for mode in job["pipeline_snapshot"]["mode_def_snaps"]:
            for resource in mode["resource_def_snaps"]:
                if resource["name"] == "io_manager":
                    del resource["config_field_snap"]


def _forget_io_manager(schema: Any) -> None:
    is_required, default, resources = schema["resources"]
    resources.pop("io_manager", None)
    if isinstance(default, dict):
        default.pop("io_manager", None)
    schema["resources"] = [is_required if resources else False, default or "(no default)", resources]


def is_ours(name: object) -> bool:
    return str(name).endswith(CHECKS)


def snapshot(side: Side) -> Any:
    """What Dagster's servers get to see, with our checks taken out."""
    repository = side.defs.get_repository_def()
    value = steady(json.loads(serialize_value(RepositorySnap.from_def(repository))), side.home)
    return _without_ours(value)


def _without_ours(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {}
        for key, item in value.items():
            if key in SCHEMAS or is_ours(key):
                continue
            kept[key] = _without_ours(item)
        return kept
    if isinstance(value, list):
        return [_without_ours(item) for item in value if not _names_ours(item)]
    return value


SCHEMAS = frozenset({"config_schema_snapshot", "config_schema_snap", "root_config_key", "config_type_key", "type_key"})
"""Parts of a snapshot that refer to configuration types by their hash; `config_schemas` compares what they say."""


def _names_ours(item: Any) -> bool:
    if isinstance(item, str):
        return is_ours(item)
    if isinstance(item, list):
        return bool(item) and isinstance(item[0], str) and is_ours(item[0])
    if isinstance(item, dict):
        return any(is_ours(item.get(key)) for key in ("name", "check_name", "solid_name", "solid_def_name"))
    return False


def config_schemas(side: Side) -> Any:
    """Job -> the whole schema of its run configuration, written out."""
    jobs = side.defs.get_repository_def().get_all_jobs()
    return steady({job.name: _schema(job.run_config_schema.run_config_schema_type) for job in jobs}, side.home)


def _schema(config_type: Any) -> Any:
    if ConfigTypeKind.has_fields(config_type.kind):
        return {
            name: [
                config_field.is_required,
                _without_ours(json.loads(config_field.default_value_as_json_str)) if config_field.default_provided else "(no default)",
                _schema(config_field.config_type),
            ]
            for name, config_field in config_type.fields.items()
            if not is_ours(name)
        }
    return config_type.key if config_type.given_name else type(config_type).__name__


def differences(plain: Any, guarded: Any, path: str = "") -> list[str]:
    """Where two JSON values differ, one line each."""
    if type(plain) is type(guarded) and isinstance(plain, dict):
        return [
            line
            for key in [*plain, *(key for key in guarded if key not in plain)]
            for line in differences(plain.get(key, "(absent)"), guarded.get(key, "(absent)"), f"{path}/{key}")
        ]
    if type(plain) is type(guarded) and isinstance(plain, list | tuple):
        if len(plain) != len(guarded):
            only = [str(item)[:300] for item in plain if item not in guarded], [str(item)[:300] for item in guarded if item not in plain]
            return [f"{path}: {len(plain)} and {len(guarded)} items; only plain: {only[0]}; only guarded: {only[1]}"]
        return [line for i, pair in enumerate(zip(plain, guarded, strict=True)) for line in differences(*pair, f"{path}[{i}]")]
    return [] if plain == guarded else [f"{path}: {str(plain)[:400]} | {str(guarded)[:400]}"]
