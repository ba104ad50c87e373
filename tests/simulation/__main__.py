"""Replays seeds: python -m tests.simulation --seed N [--trace], or --seeds FROM TO."""

import argparse
import sys
import time

from tests.simulation.ground import exchanged
from tests.simulation.world import NOTHING, Report, World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", type=int, nargs=2, metavar=("FROM", "TO"))
    parser.add_argument("--trace", action="store_true", help="print what happened, one line per event, times in virtual seconds")
    parser.add_argument("--first", action="store_true", help="end at the first seed that fails")
    wanted = parser.parse_args()
    seeds = range(*wanted.seeds) if wanted.seeds else range(wanted.seed or 0, (wanted.seed or 0) + 1)
    started, failed, total = time.perf_counter(), 0, NOTHING
    with exchanged():
        for seed in seeds:
            world = World(seed, tracing=wanted.trace)
            try:
                total += world.run()
            except Exception as error:
                failed += 1
                world.trace(f"seed {seed}: {type(error).__name__}: {error}")
                print(f"seed {seed}: {type(error).__name__}: {error}")
            if wanted.trace:
                print(*world.log, sep="\n")
            if failed and wanted.first:
                break
    spent = time.perf_counter() - started
    print(f"{len(seeds)} seeds, {failed} failed, {spent:.1f} s, {spent * 1000 / len(seeds):.0f} ms a seed, {total.virtual_s:.0f} virtual s")
    print(summary(total))
    return 1 if failed else 0


def summary(total: Report) -> str:
    lines = (f"{total.transactions} transactions, at the end {dict(total.states)}",
             "pairs: " + ", ".join(f"{state}+{event} {count}" for (state, event), count in sorted(total.pairs.items())),
             "faults: " + ", ".join(f"{kind} {count}" for kind, count in sorted(total.faults.items())))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
