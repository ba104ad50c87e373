"""What is counted, in Prometheus' form. Children are looked up once and kept: a label lookup costs more than the count."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.parser import text_string_to_metric_families

registry = CollectorRegistry()
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Told:
    """A counter of the hot path by its one label. Its only writer is the loop: without the locks of the library it takes a tenth of the time."""

    def __init__(self, name: str, documentation: str, label: str) -> None:
        self.name, self.documentation, self.label = name, documentation, label
        self.counts: dict[str, int] = {}
        registry.register(self)

    def expect(self, *values: str) -> None:
        """Shown with 0 until they come."""
        self.counts = dict.fromkeys(values, 0) | self.counts

    def inc(self, value: str) -> None:
        self.counts[value] = self.counts.get(value, 0) + 1

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self.name, self.documentation, labels=[self.label])
        for value, count in self.counts.items():
            family.add_metric([value], count)
        yield family


class Took:
    """A histogram of the hot path, in seconds. Its only writer is the loop, as with Told."""

    def __init__(self, name: str, documentation: str) -> None:
        self.name, self.documentation = name, documentation
        self.sum, self.counts = 0.0, [0] * (len(SECONDS) + 1)
        registry.register(self)

    def observe(self, seconds: float) -> None:
        self.sum += seconds
        self.counts[bisect_left(SECONDS, seconds)] += 1

    def collect(self) -> Iterator[Metric]:
        limits = (*(str(float(limit)) for limit in SECONDS), "+Inf")
        buckets = [(limit, float(count)) for limit, count in zip(limits, accumulate(self.counts), strict=True)]
        yield HistogramMetricFamily(self.name, self.documentation, buckets=buckets, sum_value=self.sum)


authorizations = Told("switch_authorizations", "Authorizations by what the terminal was told", "status")
reroutes = Counter("switch_reroutes", "Sales that were tried at another acquirer, by why", ["cause"], registry=registry)
follow_ups = Counter("switch_follow_ups", "Follow-ups and offline sales by what was told of them", ["type", "status"], registry=registry)
stand_ins = Counter("switch_stand_ins", "Sales of acquirers that could not be reached and had terms: approved in their stead, or why not", ["result"],
                    registry=registry)
refusals = Counter("switch_refusals", "Requests refused, by problem code", ["code"], registry=registry)
replays = Counter("switch_replays", "Answers given again for a known key", registry=registry)
authorization_seconds = Took("switch_authorization_seconds", "From the door to the answer")
acquirer_seconds = Took("switch_acquirer_seconds", "From the write to the acquirer's answer")
journal_rows = Counter("switch_journal_rows", "Rows committed", ["kind"], registry=registry)
journal_commits = Counter("switch_journal_commits", "Group commits", ["kind"], registry=registry)
journal_doubts = Counter("switch_journal_doubts", "Commits whose outcome had to be found out on a new connection", registry=registry)
journal_queue = Gauge("switch_journal_queue", "Rows waiting for a commit", ["kind"], registry=registry)
unmatched_answers = Counter("switch_unmatched_answers", "Messages from an acquirer that answer no request", ["reason"], registry=registry)
reversals = Counter("switch_reversals", "Reversals by what happened to them", ["event"], registry=registry)
reversals_open = Gauge("switch_reversals_open", "Reversals owed and not yet acknowledged", registry=registry)
reversals_parked = Gauge("switch_reversals_parked", "Duties that wait for a person", registry=registry)
in_doubt = Gauge("switch_in_doubt", "Transactions sent and without an outcome", registry=registry)
link_up = Gauge("switch_link_up", "1 while the acquirer's line is signed on", ["acquirer"], registry=registry)
lines_up = Gauge("switch_lines_up", "Lines of the acquirer that are signed on", ["acquirer"], registry=registry)
breakers_open = Gauge("switch_breakers_open", "Lines of the acquirer whose breaker is open, or being probed", ["acquirer"], registry=registry)
link_pending = Gauge("switch_link_pending", "Requests in flight on the line", ["acquirer"], registry=registry)
admission_limit = Gauge("switch_admission_limit", "Requests that may be on their way to the acquirer", ["acquirer"], registry=registry)
admission_in_flight = Gauge("switch_admission_in_flight", "Requests that are on their way to the acquirer", ["acquirer"], registry=registry)
shed = Counter("switch_shed", "Requests refused before anything was written, by what was full", ["reason"], registry=registry)
loop_lag = Gauge("switch_loop_lag_seconds", "By how much this worker's loop is late", registry=registry)
loop_late = Histogram("switch_loop_late_seconds", "By how much a worker's loop was late, twenty times a second", buckets=SECONDS, registry=registry)
undelivered = Counter("switch_undelivered", "Approvals whose answer could not be given: the client was gone", registry=registry)
alerts = Counter("switch_alerts", "Alerts raised", ["kind"], registry=registry)
jobs = Counter("switch_jobs", "Background jobs by kind and what happened to them", ["kind", "event"], registry=registry)
job_seconds = Histogram("switch_job_seconds", "One attempt at a background job", ["kind"], buckets=SECONDS, registry=registry)
jobs_running = Gauge("switch_jobs_running", "Background jobs that this worker runs", registry=registry)
job_overdue = Gauge("switch_job_overdue_seconds", "For how long the oldest background job that could run has not run", registry=registry)
webhooks = Counter("switch_webhooks", "Attempts to deliver a webhook, by what came of them", ["event"], registry=registry)
webhook_seconds = Histogram("switch_webhook_seconds", "From the look-up of a name to the endpoint's answer", buckets=SECONDS, registry=registry)
webhooks_due = Gauge("switch_webhooks_due", "Deliveries that could be sent now", registry=registry)
webhooks_failing = Gauge("switch_webhooks_failing", "Endpoints whose last attempt failed", registry=registry)
risk_hits = Counter("switch_risk_hits", "What sales hit of rules, limits and lists, by what was done", ["action"], registry=registry)
risk_hits_lost = Counter("switch_risk_hits_lost", "Hits that could not be kept until the database was back", registry=registry)
risk_forgotten = Counter("switch_risk_forgotten", "Cards, terminals, merchants and stores whose counts were forgotten before their time",
                         registry=registry)
directory_version = Gauge("switch_directory_version", "Version of the directory that this worker serves", registry=registry)


def exposition() -> bytes:
    return generate_latest(registry)


# Gauges that each worker reads from the same database, or from the same directory; every other gauge is a part of the whole.
SHARED = frozenset({"switch_reversals_open", "switch_in_doubt", "switch_directory_version", "switch_job_overdue_seconds", "switch_webhooks_due",
                    "switch_webhooks_failing"})

Counts = dict[tuple[str, tuple[tuple[str, str], ...]], float]  # by sample and labels


class Sums:
    """The sum over workers. What dead ones counted stays in it, so that a counter never falls."""

    def __init__(self) -> None:
        self.past: dict[str, Counts] = {}

    def keep(self, exposition: str) -> None:
        """Takes the last words of a worker that has ended."""
        for family in text_string_to_metric_families(exposition):
            if family.type in ("counter", "histogram"):
                _add(self.past.setdefault(family.name, {}), family)

    def exposition(self, expositions: list[str]) -> bytes:
        """All workers as one: counters and histograms summed with the past, gauges summed, of a shared one the highest."""
        sums = {name: dict(counts) for name, counts in self.past.items()}
        for exposed in expositions:
            for family in text_string_to_metric_families(exposed):
                _add(sums.setdefault(family.name, {}), family)
        together = CollectorRegistry()
        together.register(_Summed(sums))
        return generate_latest(together)


def _add(counts: Counts, family: Metric) -> None:
    for sample in family.samples:
        key = sample.name, tuple(sorted(sample.labels.items()))
        before = counts.get(key, 0.0)
        counts[key] = max(before, sample.value) if family.name in SHARED else before + sample.value


class _Summed:
    """What prometheus_client asks for figures; when a series was made is no figure of a sum."""

    def __init__(self, sums: dict[str, Counts]) -> None:
        self.sums = sums

    def collect(self) -> Iterator[Metric]:
        for family in registry.collect():
            shown = Metric(family.name, family.documentation, family.type)
            for (name, labels), value in self.sums.get(family.name, {}).items():
                shown.add_sample(name, dict(labels), value)
            yield shown
