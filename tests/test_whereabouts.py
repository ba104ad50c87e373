"""How far two places are from each other, against vectors and published distances; and when a stay goes on."""

from datetime import UTC, datetime, timedelta
from math import acos, cos, pi, radians, sin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch.terminals.whereabouts import EARTH_M, MOVED_M, SILENT, Point, Stay, away_m, distance_m, goes_on

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
POINTS = st.builds(Point, st.integers(-90_000_000, 90_000_000), st.integers(-180_000_000, 180_000_000))
SHANGHAI, BEIJING = Point(31_230_416, 121_473_701), Point(39_904_200, 116_407_396)
QUARTER_KM = pi * EARTH_M / 2 / 1000


def by_vectors_m(one: Point, other: Point) -> float:
    """The angle between two directions from the middle of the earth; exact but for small and for opposite ones."""
    ours, theirs = ((cos(radians(p.latitude_e6 / 1e6)) * cos(radians(p.longitude_e6 / 1e6)), cos(radians(p.latitude_e6 / 1e6)) * sin(radians(p.longitude_e6 / 1e6)),
                     sin(radians(p.latitude_e6 / 1e6))) for p in (one, other))
    return EARTH_M * acos(max(-1.0, min(1.0, sum(a * b for a, b in zip(ours, theirs, strict=True)))))


@given(POINTS, POINTS)
def test_a_distance_is_the_angle_between_two_places(one: Point, other: Point) -> None:
    found = distance_m(one, other)
    assert found == pytest.approx(by_vectors_m(one, other), abs=1.0)
    assert 0 <= found <= pi * EARTH_M
    assert found == pytest.approx(distance_m(other, one), abs=1e-6)


@given(POINTS, POINTS, POINTS)
def test_a_detour_is_no_shorter(one: Point, other: Point, between: Point) -> None:
    assert distance_m(one, other) <= distance_m(one, between) + distance_m(between, other) + 1e-3


@given(POINTS, st.integers(-180_000_000, 180_000_000), st.sampled_from([-90_000_000, 90_000_000]))
def test_at_a_pole_every_longitude_is_one_place(one: Point, longitude_e6: int, pole: int) -> None:
    assert distance_m(Point(pole, 0), Point(pole, longitude_e6)) < 0.001
    assert distance_m(one, Point(pole, longitude_e6)) == pytest.approx(distance_m(one, Point(pole, 0)), abs=0.01)


@pytest.mark.parametrize(("one", "other", "km"), [
    (SHANGHAI, BEIJING, 1067.3), (SHANGHAI, SHANGHAI, 0.0), (Point(0, 0), Point(0, 180_000_000), 2 * QUARTER_KM),
    (Point(90_000_000, 0), Point(-90_000_000, 77_000_000), 2 * QUARTER_KM), (Point(0, 0), Point(90_000_000, 0), QUARTER_KM),
    (Point(0, 179_999_000), Point(0, -179_999_000), 0.2224), (Point(0, 180_000_000), Point(0, -180_000_000), 0.0),
    (Point(89_999_000, 0), Point(89_999_000, 180_000_000), 0.2224), (Point(60_000_000, 0), Point(60_000_000, 1_000_000), 55.597),
])
def test_places_that_are_known_to_be_so_far_apart(one: Point, other: Point, km: float) -> None:
    assert distance_m(one, other) / 1000 == pytest.approx(km, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize(("accuracy_m", "away"), [(None, 1_067_310), (0, 1_067_310), (10_000, 1_057_310), (2_000_000, 0)])
def test_what_a_terminal_is_not_sure_of_speaks_for_it(accuracy_m: int | None, away: int) -> None:
    assert away_m(SHANGHAI, BEIJING, accuracy_m) == pytest.approx(away, abs=100)


@pytest.mark.parametrize(("last", "away", "goes"), [
    (None, 0, False), (Stay(None, NOW, NOW), 0, False), (Stay(0, NOW, NOW), MOVED_M, True), (Stay(0, NOW, NOW), MOVED_M + 1, False),
    (Stay(MOVED_M + 1, NOW, NOW), 0, False), (Stay(9000, NOW - timedelta(days=3), NOW - SILENT), 9000, True),
    (Stay(9000, NOW - timedelta(days=3), NOW - SILENT - timedelta(seconds=1)), 9000, False),
])
def test_a_stay_goes_on_until_the_terminal_moves_or_is_silent(last: Stay | None, away: int, goes: bool) -> None:
    assert goes_on(last, away, NOW) is goes
