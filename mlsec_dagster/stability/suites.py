"""Great Expectations, as far as we use it: a suite is read and held against a table, in memory, and nobody is told.

    suite = read_suite("expectations/flights.json")   # or an ExpectationSuite; everything in it is known to GX, or it is refused
    outcomes = hold_against(suite, frame)             # one for each expectation: held, not held, or not to be evaluated

GX itself drops an expectation that it does not know, with a line in the log, and reports one that raised an error as failed. Both read like
an answer and are none, so both are told apart here.
"""

# Great Expectations' own types are partly unknown, so what comes out of it is to a type checker.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownLambdaType=false

import json
import math
import os
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlsec_dagster.errors import ConfigurationError, MissingExtraError, UnverifiableError

UNEXPECTED_SHOWN = 3
"""Unexpected values that are kept of each expectation."""

_ABOUT_EXISTENCE = frozenset({"expect_column_to_exist"})
"""Expectations that name a column to say that it is there, and so can be evaluated where it is not."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One expectation, held against a table.

    Attributes:
        type: Its name, `expect_…`.
        columns: The columns that it names.
        arguments: What else it was given.
        held: Whether the data keep to it; None if that could not be found out.
        observed: What GX found: a value for the whole column, or a few of the unexpected values. Holds values of the data.
        unexpected: Share of unexpected values among those that are not null (0 to 1); None where GX counts none.
        trouble: Why it could not be evaluated. Holds no values of the data.
    """

    type: str
    columns: tuple[str, ...]
    arguments: Mapping[str, Any]
    held: bool | None
    observed: Any = None
    unexpected: float | None = None
    trouble: str | None = None

    @property
    def claim(self) -> str:
        """The expectation in words: `column values to be in set`."""
        return self.type.removeprefix("expect_").replace("_", " ")


def great_expectations() -> Any:
    """The library, with its telemetry off.

    Raises:
        MissingExtraError: It is not installed, or not with what it needs beside PySpark.
    """
    # Read by the versions that have telemetry, when they are imported; what they are told to do later comes too late.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    try:
        import great_expectations
    except ImportError as error:
        raise MissingExtraError("Expectations need Great Expectations: install mlsec-dagster[gx].") from error
    except SystemExit as error:
        # Beside PySpark it imports pyspark.sql.connect, which ends the whole process where its own dependencies are missing.
        raise MissingExtraError(
            "Great Expectations cannot be imported beside a PySpark without Spark Connect: install pyspark[connect]."
        ) from error
    return great_expectations


def read_suite(suite: Any) -> dict[str, Any]:
    """Reads a suite and makes sure that GX knows all of it.

    Args:
        suite: An ExpectationSuite of GX 1.x, or the path of one as JSON: what GX's file context stores, which is what
            `suite.to_json_dict()` returns.

    Returns:
        The suite as JSON, from which `hold_against` makes one of its own.

    Raises:
        ConfigurationError: There is no such file, it is no suite, the suite is empty, or GX does not know one of its expectations or of
            their arguments.
        MissingExtraError: GX is not installed.
    """
    gx = great_expectations()
    if isinstance(suite, str | os.PathLike):
        name, content = f"The suite {os.fspath(suite)}", _read_json(Path(suite))
    elif isinstance(suite, gx.ExpectationSuite):
        name, content = f"The suite {suite.name!r}", suite.to_json_dict()
    else:
        raise ConfigurationError(
            f"A suite is an ExpectationSuite of Great Expectations 1.x or the path of its JSON file, not a {type(suite).__name__}."
        )
    expectations = content.get("expectations") if isinstance(content, dict) else None
    if not isinstance(expectations, list) or not isinstance(content.get("name"), str):
        raise ConfigurationError(
            f"{name} is none of Great Expectations 1.x, which has a `name` and a list of `expectations`: "
            f"write it with `suite.to_json_dict()`."
        )
    if not expectations:
        raise ConfigurationError(f"{name} is empty, so every table would pass: add expectations, or take the check away.")
    for place, expectation in enumerate(expectations, start=1):
        _require_known(f"Expectation {place} of {name[0].lower()}{name[1:]}", expectation)
    content = {key: content[key] for key in ("name", "expectations")}
    if len(_build(content).expectations) != len(expectations):
        raise ConfigurationError(f"{name} names an expectation twice, or one that GX leaves out: take it out of the suite.")
    return content


def columns_of(expectation: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns without which an expectation, as JSON, cannot be evaluated."""
    if expectation["type"] in _ABOUT_EXISTENCE:
        return ()
    return _named_columns(expectation.get("kwargs") or {})


def hold_against(suite: Mapping[str, Any], frame: Any) -> list[Outcome]:
    """Holds a table against a suite, in memory, with neither files nor network.

    Args:
        suite: What `read_suite` returned.
        frame: A pandas DataFrame.

    Returns:
        One outcome for each expectation; those that did not hold first, then those that could not be evaluated.

    Raises:
        UnverifiableError: GX gave fewer or more results than there are expectations.
    """
    with _context() as context:
        asset = context.data_sources.add_pandas("data").add_dataframe_asset("data")
        batch = asset.add_batch_definition_whole_dataframe("data").get_batch({"dataframe": frame})
        results = batch.validate(
            _build(suite), result_format={"result_format": "BASIC", "partial_unexpected_count": UNEXPECTED_SHOWN}
        ).results
    if len(results) != len(suite["expectations"]):
        raise UnverifiableError(f"Great Expectations gave {len(results)} results for {len(suite['expectations'])} expectations.")
    present = {str(column) for column in frame.columns}
    outcomes = [_outcome(result, present) for result in results]
    return sorted(outcomes, key=lambda outcome: (False, None, True).index(outcome.held))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"The suite {path} cannot be read ({error.strerror}): give the path of a JSON file.") from error
    except ValueError as error:
        raise ConfigurationError(f"The suite {path} is no JSON ({error}): write it with `suite.to_json_dict()`.") from error


def _require_known(name: str, expectation: Any) -> None:
    """Raise unless GX has this expectation and takes its arguments."""
    from great_expectations.exceptions.exceptions import ExpectationNotFoundError
    from great_expectations.expectations.registry import get_expectation_impl

    kind = expectation.get("type") if isinstance(expectation, dict) else None
    if not isinstance(kind, str) or not isinstance(expectation.get("kwargs", {}), dict):
        raise ConfigurationError(f"{name} has no `type` and `kwargs`, as Great Expectations 1.x writes them: write it with GX 1.x.")
    try:
        get_expectation_impl(kind)
    except ExpectationNotFoundError as error:
        raise ConfigurationError(
            f"{name} is {kind!r}, which Great Expectations does not know: correct it, or import the module that defines it first."
        ) from error
    try:
        _build({"name": "one", "expectations": [expectation]})
    except Exception as error:
        raise ConfigurationError(f"{name}, {kind!r}, has arguments that it does not take: {' '.join(str(error).split())}") from error


def _build(suite: Mapping[str, Any]) -> Any:
    return great_expectations().ExpectationSuite(name=suite["name"], expectations=json.loads(json.dumps(suite["expectations"])))


@contextmanager
def _context() -> Generator[Any, None, None]:
    """A GX context that lives in memory: no telemetry, no progress bars, and no folder for a site of documents."""
    gx = great_expectations()
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults, ProgressBarsConfig

    # The newest context is GX's own global one, which what the user's code does next would land in.
    manager = gx.data_context.data_context.context_factory.project_manager
    before = getattr(manager, "_ProjectManager__project", None)
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False, metric_calculations=False),
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    try:
        yield context
    finally:
        manager.set_project(before)


def _named_columns(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    single = [arguments[name] for name in ("column", "column_A", "column_B") if arguments.get(name) is not None]
    several = arguments.get("column_list")
    return tuple(str(each) for each in [*single, *(several if isinstance(several, list | tuple) else [])])


def _outcome(result: Any, present: set[str]) -> Outcome:
    config, found = result.expectation_config, result.result or {}
    kind = str(config.type)
    arguments = {name: value for name, value in config.kwargs.items() if name != "batch_id"}
    columns = _named_columns(arguments)
    rest = {name: value for name, value in arguments.items() if name not in ("column", "column_A", "column_B")}
    error = _error(result.exception_info)
    if error is not None:
        missing = [column for column in columns if column not in present]
        trouble = f"column {missing[0]!r} is not in the data" if missing else f"Great Expectations stopped with {error}"
        return Outcome(kind, columns, rest, None, trouble=trouble)
    percent = found.get("unexpected_percent")
    if percent is not None and not math.isfinite(percent):
        percent = None
    observed = found.get("observed_value", found.get("partial_unexpected_list") or None)
    return Outcome(kind, columns, rest, bool(result.success), observed, None if percent is None else float(percent) / 100)


def _error(info: Any) -> str | None:
    """The class of the error that an expectation raised; None if it raised none. The message may quote the data."""
    if not info:
        return None
    parts = [info] if "raised_exception" in info else list(info.values())
    raised = [part for part in parts if isinstance(part, Mapping) and part.get("raised_exception")]
    if not raised:
        return None
    named = re.findall(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception))\b", str(raised[0].get("exception_traceback") or ""), re.MULTILINE)
    return named[-1] if named else "an error"
