"""The same pipeline, guarded.

    $ dagster dev -m mlsec_dagster.demo.definitions

Checkpoints of the ledger also go to the witness that the environment variable MLSEC_WITNESS names, if it does.
"""

import dagster as dg

import mlsec_dagster as mlsec
from mlsec_dagster.demo import pipeline

DATASETS = ["raw_flights", "flight_features", "training_set", "delay_model"]


def guarded(witness: str | None) -> dg.Definitions:
    """The flights pipeline with all of its assets guarded."""
    # Weeks of the demo are seconds apart, so the witness hears of every run; in earnest every few minutes are enough.
    store = mlsec.SecurityStore(witness=witness, witness_every_minutes=0)
    return mlsec.guard(pipeline.defs, datasets=DATASETS, store=store)


defs = guarded(dg.EnvVar("MLSEC_WITNESS").get_value())
