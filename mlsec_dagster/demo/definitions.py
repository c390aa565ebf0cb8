"""The same pipeline, guarded.

    $ dagster dev -m mlsec_dagster.demo.definitions

Checkpoints of the ledger also go to the witness that the environment variable MLSEC_WITNESS names, if it does.
"""

import os
from pathlib import Path

import dagster as dg

import mlsec_dagster as mlsec
from mlsec_dagster.demo import pipeline
from mlsec_dagster.demo.accesses import audit_directory

# The drill plays the same weeks again and again, and stops if one that nobody touched alarms. At the usual one false alarm in a hundred
# windows that has happened: samples and their order are drawn anew in each drill.
FALSE_ALARMS = 0.005
FALSE_ALARMS_OF_FEATURES = 0.001

DATASETS = [
    "raw_flights",
    mlsec.Dataset(key="flight_features", label=pipeline.LABEL, time="scheduled", false_alarms=FALSE_ALARMS_OF_FEATURES),
    # All weeks at once; each of them was looked at when it came.
    mlsec.Dataset(key="training_set", label=pipeline.LABEL),
    "delay_model",
]


def guarded(witness: str | None) -> dg.Definitions:
    """The flights pipeline with all of its assets guarded."""
    # Weeks of the demo are seconds apart, so the witness hears of every run; in earnest every few minutes are enough.
    store = mlsec.SecurityStore(witness=witness, witness_every_minutes=0)
    # What comes from outside is not let in while it looks unlike the weeks before: this check blocks, where the guard's own would warn.
    incoming = mlsec.build_distribution_stability_checks(
        assets=[pipeline.raw_flights],
        label=pipeline.REPORTED,
        time="time_hour",
        ignore=["flight"],
        false_alarms=FALSE_ALARMS,
        severity=dg.AssetCheckSeverity.ERROR,
        blocking=True,
        store=store,
    )
    project = dg.Definitions.merge(pipeline.defs, dg.Definitions(asset_checks=incoming))
    # The demo's MLflow server writes its log beside the rest.
    home = os.environ.get("DAGSTER_HOME")
    audit = [mlsec.MLflow(directory=str(audit_directory(Path(home))))] if home else []
    return mlsec.guard(project, datasets=DATASETS, audit=audit, store=store)


defs = guarded(dg.EnvVar("MLSEC_WITNESS").get_value())
