"""`make demo` as a newcomer runs it."""

from pathlib import Path
from time import perf_counter

import pytest

from mlsec_dagster.demo import drill


@pytest.mark.slow
def test_the_whole_drill_catches_five_of_five_within_two_minutes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started = perf_counter()
    assert drill.main(["--home", str(tmp_path / "demo")]) == 0
    assert perf_counter() - started < 120
    said = capsys.readouterr().out
    assert "All 5 attacks were caught" in said
    assert said.count(": caught") == 5
    assert "column late, block 1 (rows 65,536 to" in said
