"""How far a terminal is from the place of its store, and whether it still is as far as it was. Pure.

Places are in millionths of a degree (WGS 84), distances in metres along the sphere of the earth's mean radius: the haversine form, which keeps
small distances exact and is at most 0.6 % off the ellipsoid (R. W. Sinnott, Virtues of the Haversine, 1984; radius: IUGG).
"""

from datetime import datetime, timedelta
from math import asin, cos, radians, sin, sqrt
from typing import NamedTuple

EARTH_M = 6_371_008.8
MOVED_M = 500  # a terminal that is further away, or nearer, by more than this has moved
AGAIN = timedelta(minutes=15)  # so often is written down that it is where it was
SILENT = timedelta(hours=1)  # after which nobody knows where it was meanwhile


class Point(NamedTuple):
    latitude_e6: int
    longitude_e6: int


class Stay(NamedTuple):
    """Since when a terminal is so far away, and when it last said so. `away_m` None: not known."""

    away_m: int | None
    since: datetime
    told_at: datetime


def distance_m(one: Point, other: Point) -> float:
    """Across a pole or the 180th meridian it is the shorter way too."""
    north, other_north = radians(one.latitude_e6 / 1e6), radians(other.latitude_e6 / 1e6)
    up, along = (other_north - north) / 2, radians((other.longitude_e6 - one.longitude_e6) / 1e6) / 2
    return 2 * EARTH_M * asin(min(1.0, sqrt(sin(up) ** 2 + cos(north) * cos(other_north) * sin(along) ** 2)))


def away_m(store: Point, said: Point, accuracy_m: int | None) -> int:
    """At least so far: what the terminal is not sure of speaks for it."""
    return max(0, int(distance_m(store, said)) - (accuracy_m or 0))


def goes_on(last: Stay | None, away: int, now: datetime) -> bool:
    """Whether a terminal that says `away` now has been there since `last.since`."""
    return last is not None and last.away_m is not None and abs(last.away_m - away) <= MOVED_M and now - last.told_at <= SILENT
