"""A pytest plugin: a test that failed while the machine stood still is run again, twice at most, and listed as RERUN.

The flow tests' timers are short (an answer within 600 ms), so a processor or a disk that stands still for that long fails them without
any fault of the switch. A failure on a machine that ran is a failure at once.
"""

import os
import tempfile
import threading
import time
from collections.abc import Generator, Iterator

import pytest

STILL_S = 0.15  # a quarter of the time that an answer may take in the flow tests
BEAT_S, SYNC_EVERY_S = 0.02, 0.5


class Witness:
    """Two threads: one is late when the processor stands still, the other when the disk does."""

    def __init__(self) -> None:
        self._longest = 0.0
        self._beaten: float | None = None
        self._syncing_since: float | None = None
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._beat, self._sync)]

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def forget(self) -> None:
        self._longest = 0.0

    def longest_s(self) -> float:
        """The longest standstill since `forget`, one that no thread has woken from yet included."""
        now, beaten, since = time.monotonic(), self._beaten, self._syncing_since
        return max(self._longest, now - (beaten or now) - BEAT_S, now - (since or now))

    def stood_still(self) -> bool:
        return self.longest_s() >= STILL_S

    def _beat(self) -> None:
        self._beaten = time.monotonic()
        while not self._ended.wait(BEAT_S):
            now = time.monotonic()
            self._longest, self._beaten = max(self._longest, now - self._beaten - BEAT_S), now

    def _sync(self) -> None:
        with tempfile.TemporaryFile() as file:
            while not self._ended.wait(SYNC_EVERY_S):
                self._syncing_since = begun = time.monotonic()
                file.seek(0)
                file.write(b"x")
                file.flush()
                os.fsync(file.fileno())
                self._syncing_since = None
                self._longest = max(self._longest, time.monotonic() - begun)


WITNESS = Witness()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.flaky(reruns=2, condition=WITNESS.stood_still))


@pytest.fixture(scope="session", autouse=True)
def witness() -> Iterator[None]:
    WITNESS.begin()
    yield
    WITNESS.end()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    WITNESS.forget()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and WITNESS.stood_still():
        report.sections.append(("Machine", f"It stood still for {WITNESS.longest_s():.1f} s while this ran."))
    return report
