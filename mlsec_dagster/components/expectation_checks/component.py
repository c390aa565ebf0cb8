"""`expectations` checks declared in a defs.yaml, with the attributes of `build_expectation_checks`.

type: mlsec_dagster.ExpectationChecksComponent
attributes:
  assets: [raw_flights]
  suite: flights.json   # beside the defs.yaml
  blocking: true
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import dagster as dg
from pydantic import Field

from mlsec_dagster.asset_checks.expectations import build_expectation_check, expectation_settings, suite_path
from mlsec_dagster.components.checks import ChecksComponent, assets_around
from mlsec_dagster.components.expectation_checks.scaffolder import ExpectationChecksScaffolder
from mlsec_dagster.errors import ConfigurationError
from mlsec_dagster.guarding import require_known


@dg.scaffold_with(ExpectationChecksScaffolder)
class ExpectationChecksComponent(ChecksComponent):
    """An `expectations` check on each of these assets: stored data keep to a Great Expectations suite."""

    assets: list[str] = Field(min_length=1, description="The assets to check; components of a key are joined by /.")
    suite: str = Field(description="Path of a Great Expectations 1.x suite as JSON, relative to the defs.yaml.")
    sensitive: list[str] = Field(default_factory=list, description="Columns whose values must not be shown.")
    severity: Literal["ERROR", "WARN"] | None = Field(
        None, description="The severity of a failed check. Default: ERROR if it blocks, else WARN."
    )
    blocking: bool = Field(False, description="Whether a failed check blocks downstream assets in the same run.")

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """One `expectations` check for each asset.

        Raises:
            ConfigurationError: An asset key that no definition of the project has (with the nearest one) or that is given twice, or a suite
                that cannot be right; names file and line.
            MissingExtraError: Great Expectations is not installed.
        """
        known = assets_around(context)
        resolver = self.own_resolver()
        severity = dg.AssetCheckSeverity(self.severity) if self.severity else None
        with self.located("suite" if severity is None or not self.blocking else "severity"):
            settings = expectation_settings(
                suite=suite_path(self.suite, context.path),
                severity=severity,
                blocking=self.blocking,
                sensitive=self.sensitive,
                resolver=resolver,
                store=self.own_store(),
                signer=self.own_signer(),
            )
        checks: list[dg.AssetChecksDefinition] = []
        for index, key in enumerate(self.asset_keys()):
            with self.located("assets", index):
                if known is not None:
                    require_known([key], known)
                if key in self.asset_keys()[:index]:
                    raise ConfigurationError(f"{key.to_user_string()!r} is given twice: name each asset once.")
                checks.append(build_expectation_check(key, (known or {}).get(key), settings))
        return dg.Definitions(asset_checks=checks)

    def asset_keys(self) -> Sequence[dg.AssetKey]:
        """The assets that it checks, in the order in which they are declared."""
        return [dg.AssetKey.from_user_string(asset) for asset in self.assets]
