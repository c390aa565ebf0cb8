"""A project whose stability check found a change in data with hostile names, as the webserver loads it."""

import dagster as dg
import msgspec

from mlsec_dagster.asset_checks.building import build_check, evaluation
from mlsec_dagster.asset_checks.stability_page import evaluation_metadata
from mlsec_dagster.stability.channels import Channel
from mlsec_dagster.stability.evidence import evidence_of
from mlsec_dagster.stability.profiles import ColumnProfile, Frame, Profile, Roles
from tests.stability.scenes import BEFORE, FRAME, ROWS, assessed, history

HOSTILE = "\u202e</text><img src=http://tracker.invalid/x.png>](http://tracker.invalid/y) ![x](http://tracker.invalid/y.png) **b**"
KEY = dg.AssetKey("raw_flights")


@dg.asset
def raw_flights() -> None:
    """Nothing; what was found about it is made up."""


def _renamed(profile: Profile, *changed: ColumnProfile) -> Profile:
    columns = {column.name: column for column in (*profile.columns, *changed)}
    return msgspec.structs.replace(profile, columns=tuple(columns.values()))


def _evaluate(_):
    number = msgspec.structs.replace(FRAME.columns[0], name=HOSTILE)
    names = msgspec.structs.replace(FRAME.columns[1], categories=("AA", HOSTILE, "UA"))
    then = msgspec.structs.replace(BEFORE["distance"], name=HOSTILE)
    now = msgspec.structs.replace(then, counts=(500, 1000, 2000, 3000), mean=1500.0)
    scores = {Channel("location", HOSTILE): 9.0, Channel("share", "carrier", HOSTILE): 8.0, Channel("volume"): 1.0}
    profile = _renamed(Profile(ROWS, tuple(BEFORE.values())), now)
    found = assessed(scores, now=profile, frame=Frame((number, names)), reference=_renamed(Profile(ROWS, tuple(BEFORE.values())), then))
    evidence = evidence_of(found, history(), Roles(), subject="raw_flights")
    yield evaluation(
        KEY,
        "distribution_stability",
        passed=False,
        sentence=evidence.sentence,
        severity=dg.AssetCheckSeverity.WARN,
        blocking=False,
        partition=None,
        materialization=None,
        metadata=evaluation_metadata(found, evidence),
    )


check = build_check(KEY, raw_flights, _evaluate, name="distribution_stability", description="As before?", blocking=False)
defs = dg.Definitions(assets=[raw_flights], asset_checks=[check])
