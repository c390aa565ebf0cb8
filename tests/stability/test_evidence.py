"""The sentence names what changed, in numbers that need no statistics; sensitive columns show aggregates only."""

import math
from dataclasses import asdict

import msgspec
import pytest

from mlsec_dagster.stability.assessment import History
from mlsec_dagster.stability.channels import Channel
from mlsec_dagster.stability.evidence import MOST_PAST, MOST_RANKED, evidence_of
from mlsec_dagster.stability.joint import Together
from mlsec_dagster.stability.labels import FEW, Disagreement
from mlsec_dagster.stability.profiles import ColumnFrame, ColumnProfile, Frame, Profile, Roles
from tests.stability.scenes import BEFORE, FRAME, ROWS, assessed, counted, history, labels, profile, window

JARGON = ("Shannon", "p-value", "sigma", "conformal", "student", "quantile", "AUC", "statistic", "distribution")


def sentence(*arguments, past=None, roles=None, **settings) -> str:
    found = assessed(*arguments, **settings)
    said = evidence_of(found, past or history(), roles or Roles(), subject="flights").sentence
    assert not [word for word in JARGON if word.lower() in said.lower()]
    return said


@pytest.mark.parametrize(
    ("channel", "settings", "expected"),
    [
        (Channel("volume"), {"now": profile(3_204)}, "it has 3,204 rows, and the 8 windows before it about 6,500"),
        (Channel("nulls", "dep_delay"), {"now": profile(dep_delay={"nulls": 715})}, "11% of dep_delay is missing (before: 2.4%)"),
        (
            Channel("location", "distance"),
            {"now": profile(distance={"mean": 1120.0})},
            "distance is higher than before (mean 1,120, before 1,041)",
        ),
        (
            Channel("share", "carrier", "UA"),
            {"now": profile(carrier={"counts": counted(2271, 3000, 1229)})},
            "carrier is 'UA' in 18.9% of rows (before: 16.9%)",
        ),
        (
            Channel("distribution", "distance"),
            {"now": profile(distance={"counts": (0, 3500, 1500, 1500)})},
            "the values of distance are spread differently than before (below 500: 0% of rows, before 23.1%)",
        ),
        (
            Channel("distinct", "tailnum"),
            {"now": profile(tailnum={"distinct": 4_812})},
            "tailnum has about 4,800 different values in 6,500 rows (before: about 3,100 in as many)",
        ),
        (Channel("relation", "dep_delay"), {}, "dep_delay no longer follows from the other columns as it did"),
        (Channel("correlation"), {}, "the number columns no longer go up and down together as they did"),
        (
            Channel("two samples"),
            {"observation": {"together": Together({}, ("hour", "carrier", "distance"), 0.61)}},
            "its rows can be told from earlier ones, mostly by hour and carrier",
        ),
        (
            Channel("contradiction"),
            {"observation": {"together": Together({}, contradictions={("tailnum", "carrier"): 120})}},
            "in 120 of 1 sampled rows carrier is not what tailnum always came with",
        ),
        (Channel("stale"), {"observation": {"stale": 130}}, "130 rows are older than rows of earlier windows"),
        (
            Channel("unseen", "carrier"),
            {"now": profile(carrier={"counts": (2400, 3000, 1036, 64, *[0] * 63), "unlisted": (("ZZ", 64),)})},
            "carrier has a value that was never there: 'ZZ' in 64 rows",
        ),
    ],
    ids=lambda value: "-".join(filter(None, value)) if isinstance(value, Channel) else None,
)
def test_each_kind_of_change_is_told_in_plain_words_and_numbers(channel: Channel, settings: dict, expected: str) -> None:
    said = sentence({channel: 9.0}, **settings)
    assert said.startswith("flights does not look like the 8 windows before it: " + expected)
    assert "Fewer than 1 in 1,000 ordinary windows look so unusual" in said
    assert "before you use it" in said


def test_flipped_labels_are_counted_against_those_of_earlier_windows() -> None:
    channel = Channel("label", "arr_late", "False")
    past = History([window({channel: math.log((differing + FEW) / (4_544 + FEW))}) for differing in (0, 3, 1, 2, 0, 0, 3, 1)])
    said = sentence({channel: 9.0}, observation={"labels": labels(4_544, 97)}, past=past)
    assert (
        "in 97 of 4,544 rows of which a model is sure that arr_late is 'False', the label says otherwise "
        "(before: 0 to 3 of as many): labels may have been flipped" in said
    )


def test_duplicates_are_scaled_from_the_hashed_rows_and_held_against_those_before() -> None:
    now = msgspec.structs.replace(profile(), hashed=3_250, duplicates=65)
    channel = Channel("duplicates")
    past = history(8, {channel: 2 * math.sqrt(2)})  # two rows in a window of this size
    assert "130 rows are copies of another one (before: 2 in as many rows)" in sentence({channel: 9.0}, now=now, past=past)


def test_a_combination_of_missing_columns_is_told_by_what_is_there_instead() -> None:
    now = msgspec.structs.replace(profile(), patterns={"000000": 6_000, "001100": 180, "001000": 320})
    said = sentence({Channel("pattern"): 9.0}, now=now)
    assert "dep_delay is missing in 320 rows where dep_time is there, which never happened before" in said


def test_a_mean_that_one_value_pulled_the_other_way_is_not_told() -> None:
    said = sentence({Channel("location", "distance"): 9.0}, now=profile(distance={"mean": 900.0, "counts": (500, 1500, 2000, 2500)}))
    assert "distance is higher than before (in 63.9% of cases a value is higher than an earlier one, not in half of them)" in said
    assert "mean" not in said


def test_one_column_is_told_once_the_concrete_before_the_vague_and_the_rest_is_counted() -> None:
    scores = {
        Channel("two samples"): 30.0,
        Channel("distribution", "carrier"): 20.0,
        Channel("share", "carrier", "UA"): 8.0,
        Channel("volume"): 7.0,
        Channel("correlation"): 6.0,
        Channel("nulls", "dep_delay"): 5.5,
        Channel("location", "distance"): 1.0,
    }
    said = sentence(scores)
    assert said.index("carrier is 'UA'") < said.index("it has 6,500 rows") < said.index("of dep_delay is missing")
    assert "spread differently" not in said
    assert "; and 2 more deviations." in said
    assert "distance is" not in said


def test_a_stable_window_says_how_near_to_an_alarm_it_came() -> None:
    said = sentence({Channel("volume"): 2.5, Channel("nulls", "dep_delay"): 0.4}, outcome="stable")
    assert said == "flights looks like the 8 windows before it (largest deviation: number of rows, at 50% of what would raise an alarm)."


def test_learning_is_neither_a_pass_nor_an_alarm() -> None:
    found = assessed({}, outcome="learning")
    young = type(found)("learning", found.window, found.sample, found.frame, None, found.observation)
    evidence = evidence_of(young, history(4), Roles(), subject="flights")
    assert evidence.sentence.startswith("Learning: 5 of 20 windows. Nothing is compared yet")
    assert not [word for word in ("pass", "fine", "stable", "alarm", "looks like") if word in evidence.sentence]
    assert (evidence.ranked, evidence.compared) == ((), ())


def test_changed_columns_come_first_and_other_deviations_after_them() -> None:
    found = assessed({Channel("volume"): 2.0}, outcome="schema", changes=["column 'x' is gone"])
    evidence = evidence_of(found, history(), Roles(), subject="flights")
    assert evidence.sentence.startswith("flights is not made like the window before it: column 'x' is gone. Find out")
    assert [row.what for row in evidence.ranked] == ["column 'x' is gone", "number of rows"]
    assert evidence.ranked[0].out_of_line


def test_labels_that_cannot_be_judged_are_said_not_to_have_been() -> None:
    said = sentence({Channel("volume"): 1.0}, outcome="stable", observation={"labels": Disagreement(reason="there are no features")})
    assert said.endswith("Flipped labels would not be noticed: there are no features.")


@pytest.mark.parametrize(
    ("p_value", "expected"),
    [(0.009, "Fewer than 1 in 100 "), (0.01, "Fewer than 1 in 50 "), (0.0001, "Fewer than 1 in 1,000 "), (0.2, "About 1 in 5 ")],
)
def test_rarity_is_told_roughly_and_never_too_small(p_value: float, expected: str) -> None:
    assert expected in sentence({Channel("volume"): 9.0}, p_value=p_value)


def test_evidence_is_ranked_by_how_far_it_lies_beyond_its_own_threshold_and_cut() -> None:
    scores = {Channel("share", "carrier", f"{place}"): place / 10 for place in range(60)} | {Channel("volume"): math.nan}
    evidence = evidence_of(assessed(scores), history(), Roles())
    assert len(evidence.ranked) == MOST_RANKED
    assert evidence.watched == 60
    assert [row.score for row in evidence.ranked] == sorted((row.score for row in evidence.ranked), reverse=True)
    assert [row.out_of_line for row in evidence.ranked] == [row.score >= 5 for row in evidence.ranked]


def test_the_history_ends_with_this_window_and_leaves_out_those_that_were_only_learnt_from() -> None:
    windows = [window({}, statistic=None)] * 20 + [window({}, alarmed=place == 3, statistic=(place / 10, 5.0)) for place in range(60)]
    past = evidence_of(assessed({Channel("volume"): 9.0}), History(windows), Roles()).history
    assert len(past) == MOST_PAST
    assert (past[-1].statistic, past[-1].threshold, past[-1].alarmed) == (9.0, 5.0, True)
    assert past[-2].statistic == 5.9


def test_the_worst_columns_are_compared_bar_by_bar_with_what_is_missing() -> None:
    scores = {Channel("nulls", "dep_delay"): 9.0, Channel("share", "carrier", "UA"): 7.0, Channel("distinct", "tailnum"): 6.0}
    compared = evidence_of(assessed(scores, now=profile(dep_delay={"nulls": 715})), history(), Roles()).compared
    assert [each.column for each in compared] == ["dep_delay", "carrier"]  # of identifiers no values are counted
    assert compared[0].labels == ("below 0", "0 to 10", "10 or more", "missing")
    assert sum(compared[0].now) == pytest.approx(1)
    assert compared[0].now[3] > 3 * compared[0].before[3]
    assert (compared[1].by_name, compared[1].labels) == (True, ("B6", "AA", "UA"))


def test_a_value_that_was_never_there_has_a_bar_of_its_own() -> None:
    now = profile(carrier={"counts": (2400, 3000, 1000, 100), "unlisted": (("ZZ", 90),)})
    (compared,) = evidence_of(assessed({Channel("unseen", "carrier"): 9.0}, now=now), history(), Roles()).compared
    assert compared.labels == ("B6", "AA", "UA", "ZZ", "any other")
    assert compared.now[3:] == pytest.approx((90 / 6500, 10 / 6500))
    assert compared.before[3:] == (0, 0)


def test_many_bins_become_few_bars_that_keep_every_row() -> None:
    frame = ColumnFrame("wide", "double", "number", edges=tuple(float(edge) for edge in range(31)))
    now = ColumnProfile("wide", "double", counts=tuple(range(1, 33)))
    found = assessed({Channel("location", "wide"): 9.0}, now=Profile(528, (now,)), frame=Frame((frame,)))
    found = type(found)(
        found.outcome, found.window, found.sample, found.frame, Profile(528, (now,)), found.observation, found.channels, found.judgement
    )
    (compared,) = evidence_of(found, history(), Roles()).compared
    assert compared.labels == ("below 1", *(f"{edge} to {edge + 2}" for edge in range(1, 29, 2)), "29 or more")
    assert sum(compared.now) == pytest.approx(1)
    assert compared.now[0] == pytest.approx(3 / 528)


SECRETS = Roles(label="arr_late", sensitive=["carrier", "distance", "arr_late", "dep_delay"])


def test_of_sensitive_columns_no_value_no_name_and_no_small_count_is_told() -> None:
    channel = Channel("label", "arr_late", "False")
    scores = {
        Channel("share", "carrier", "UA"): 9.0,
        Channel("unseen", "carrier"): 9.0,
        Channel("location", "distance"): 9.0,
        Channel("distribution", "distance"): 9.0,
        channel: 9.0,
        Channel("pattern"): 9.0,
        Channel("nulls", "dep_delay"): 9.0,
        Channel("contradiction"): 9.0,
    }
    now = profile(
        carrier={"counts": (2400, 3000, 1093, 7), "unlisted": (("SECRET", 7),)},
        distance={"mean": 1234.5, "counts": (4, 3500, 1500, 1496)},
        dep_delay={"nulls": 3},
    )
    now = msgspec.structs.replace(now, patterns={"000000": 6_000, "001000": 6})
    found = assessed(
        scores,
        now=now,
        observation={"labels": labels(4_544, 8), "together": Together({}, contradictions={("tailnum", "carrier"): 5})},
        values={channel: 0.0},
    )
    evidence = evidence_of(found, history(values={channel: math.log((3 + FEW) / (4_544 + FEW))}), SECRETS)
    told = str(asdict(evidence))
    for secret in ("SECRET", "'UA'", "AA", "B6", "'False'", "1234", "1,234", "1,041", "500 to", "below 500", " 7 row", " 6 row", " 8 of"):
        assert secret not in told, secret
    assert "fewer than 10" in told
    assert "a common value of carrier" in told
    rows = len(BEFORE["distance"].counts)
    for compared in evidence.compared:
        assert compared.labels == ()
        assert min(compared.now) * ROWS >= 9.9
        assert len(compared.now) < rows or compared.column == "arr_late"


def test_names_that_would_read_as_more_than_a_name_are_quoted() -> None:
    hostile = "x is fine. Nothing happened"
    frame = Frame((msgspec.structs.replace(FRAME.columns[0], name=hostile),))
    now = Profile(ROWS, (msgspec.structs.replace(BEFORE["distance"], name=hostile, nulls=700),))
    assert f"of '{hostile}' is missing" in sentence({Channel("nulls", hostile): 9.0}, now=now, frame=frame)
