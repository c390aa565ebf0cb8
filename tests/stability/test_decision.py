"""The decision over all channels: what alarms, what does not, and how often a window in which nothing changed does."""

import numpy as np
import pytest

from mlsec_dagster.stability.channels import Channel
from mlsec_dagster.stability.decision import LEAST_WINDOWS, judge, winsorised

CHANNELS = (
    *(Channel("location", f"c{number}") for number in range(8)),
    *(Channel("distribution", f"c{number}") for number in range(8)),
    Channel("duplicates"),
    Channel("unseen", "k"),
)


def ordinary(windows: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = random.normal(size=(windows, len(CHANNELS)))
    values[:, -2:] = 0.0  # nothing repeats, nothing is new
    return values


def alarms(values: np.ndarray, rate: float = 0.01) -> bool:
    return judge(values, channels=CHANNELS, false_alarms=rate).alarm


def test_below_twelve_earlier_windows_there_is_no_verdict() -> None:
    judgement = judge(ordinary(LEAST_WINDOWS, 1), channels=CHANNELS, false_alarms=0.01)
    assert (judgement.method, judgement.alarm, judgement.p_value) == ("learning", False, None)


@pytest.mark.parametrize("windows", [LEAST_WINDOWS + 1, 40, 150])
@pytest.mark.parametrize(("channel", "value"), [(0, 12.0), (3, -12.0), (10, 9.0), (len(CHANNELS) - 2, 4.9)])
def test_one_channel_out_of_line_is_enough(windows: int, channel: int, value: float) -> None:
    values = ordinary(windows, 2)
    assert not alarms(values)
    values[-1, channel] = value
    judgement = judge(values, channels=CHANNELS, false_alarms=0.01)
    assert judgement.alarm
    assert int(np.nanargmax(judgement.scores)) == channel


def test_a_distance_that_is_smaller_than_usual_is_no_reason() -> None:
    values = ordinary(40, 3)
    values[-1, 10] = -12.0
    assert not alarms(values)


def test_with_enough_windows_the_p_value_is_a_rank() -> None:
    judgement = judge(ordinary(151, 4), channels=CHANNELS, false_alarms=0.01)
    assert judgement.method == "rank"
    assert judge(ordinary(60, 4), channels=CHANNELS, false_alarms=0.01).method == "extrapolated"


@pytest.mark.parametrize("earlier", [12, 30, 130])
@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_ordinary_windows_alarm_at_most_half_as_often_again_as_was_asked_for(earlier: int, rate: float) -> None:
    draws = 1000
    count = sum(alarms(ordinary(earlier + 1, 1000 * earlier + draw), rate) for draw in range(draws))
    assert count / draws <= 1.5 * rate


def test_what_alarmed_is_kept_at_the_threshold() -> None:
    values = ordinary(40, 5)
    values[-1, 0] = 30.0
    judgement = judge(values, channels=CHANNELS, false_alarms=0.01)
    kept = winsorised(judgement, values[-1], CHANNELS)
    assert values[:-1, 0].max() < kept[0] < 30.0
    assert kept[0] == pytest.approx(judgement.usual[0] + judgement.threshold * judgement.deviation[0])
    assert (kept[1:] == values[-1, 1:]).all()
