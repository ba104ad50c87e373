"""Figures of several workers as one: nothing counted twice, nothing forgotten, and no counter that falls."""

from switch import metrics

HEAD = "# HELP {0} x\n# TYPE {0} {1}\n"


def said(authorizations: float, up: float, doubt: float, seconds: tuple[float, float, float]) -> str:
    """What a worker exposes."""
    low, all_, total = seconds
    return (HEAD.format("switch_authorizations_total", "counter") + f'switch_authorizations_total{{status="approved"}} {authorizations}\n'
            + HEAD.format("switch_link_up", "gauge") + f'switch_link_up{{acquirer="bank"}} {up}\n'
            + HEAD.format("switch_in_doubt", "gauge") + f"switch_in_doubt {doubt}\n"
            + HEAD.format("switch_authorization_seconds", "histogram") + f'switch_authorization_seconds_bucket{{le="0.005"}} {low}\n'
            + f'switch_authorization_seconds_bucket{{le="+Inf"}} {all_}\nswitch_authorization_seconds_count {all_}\n'
            + f"switch_authorization_seconds_sum {total}\n")


def figures(exposition: bytes) -> dict[str, float]:
    lines = [line for line in exposition.decode().splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_counters_histograms_and_parts_of_a_whole_are_summed_and_what_all_read_alike_is_not() -> None:
    summed = figures(metrics.Sums().exposition([said(3, 1, 7, (1, 2, 0.5)), said(4, 1, 6, (2, 5, 1.5))]))
    assert summed['switch_authorizations_total{status="approved"}'] == 7
    assert summed['switch_link_up{acquirer="bank"}'] == 2
    assert summed["switch_in_doubt"] == 7
    assert summed['switch_authorization_seconds_bucket{le="0.005"}'] == 3
    assert summed['switch_authorization_seconds_bucket{le="+Inf"}'] == summed["switch_authorization_seconds_count"] == 7
    assert summed["switch_authorization_seconds_sum"] == 2.0


def test_what_a_dead_worker_counted_stays_and_what_it_measured_goes() -> None:
    sums = metrics.Sums()
    sums.keep(said(3, 1, 7, (1, 2, 0.5)))
    sums.keep(said(5, 1, 7, (1, 1, 0.5)))
    summed = figures(sums.exposition([said(0, 1, 2, (0, 0, 0.0))]))
    assert summed['switch_authorizations_total{status="approved"}'] == 8
    assert summed['switch_authorization_seconds_bucket{le="+Inf"}'] == 3
    assert (summed['switch_link_up{acquirer="bank"}'], summed["switch_in_doubt"]) == (1, 2)
    assert figures(sums.exposition([]))['switch_authorizations_total{status="approved"}'] == 8, "a label that only the dead had is shown"


def test_the_sum_of_one_worker_is_what_it_says() -> None:
    def plain(exposition: bytes) -> dict[str, float]:
        return {name: value for name, value in figures(exposition).items() if "_created" not in name}

    metrics.authorization_seconds.observe(0.01)
    assert plain(metrics.Sums().exposition([metrics.exposition().decode()])) == plain(metrics.exposition())


def test_every_shared_gauge_is_a_gauge_of_ours() -> None:
    gauges = {family.name for family in metrics.registry.collect() if family.type == "gauge"}
    assert gauges >= metrics.SHARED
