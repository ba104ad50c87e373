"""The command line: `switch demo | serve | migrate | postgres | stub`, and the verbs of commands/."""

import argparse
import gc
import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from switch import failpoints, logs
from switch.errors import PROBLEMS, Problem, SettingsError, StartError
from switch.settings import WORKERS_MAX, Settings, load

WORKER = "worker"  # a child of `serve`: nothing that a person starts
STARTING = ("demo", "serve", "migrate", "postgres", "stub", WORKER)
# The files of commands/ and their verbs. Of commands that ask a running switch or nobody, `work(options, settings, say)`; of those that work on the
# database itself, a coroutine. What the verb asked for does not need is not imported: the whole takes a second.
COMMANDS = {
    "onboarding": ("onboard", "acquirer"), "applying": ("applications",), "contracting": ("contracts",), "circuits": ("line", "breaker"),
    "routes": ("route",), "standing_in": ("stand-in",), "risk": ("risk",), "support": ("ticket",),
    "helping": ("article", "announce", "feedback"), "cutovers": ("cutover",),
    "pricing": ("tariff", "fees"), "contests": ("disputes",), "keying": ("crypto-keys",), "fleet": ("terminal",), "accepting": ("acceptance",),
    "importing": ("import", "export"), "moving": ("move",), "choosing": ("offer",), "leaving": ("leave",),
    "licensing": ("licence",), "watching": ("traffic", "notice"), "requesting": ("ask",), "clearings": ("clearing",), "paying": ("payouts",),
    "inquiries": ("links", "story", "unmatched", "alerts", "webhooks", "reversals", "approvals", "reconcile", "jobs"),
    "inspection": ("dialect", "message"),
}


def say(line: str) -> None:
    """Whoever reads may stop reading, such as `| head`: the rest is said to nobody."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _workers(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= WORKERS_MAX):
        raise argparse.ArgumentTypeError(f"it must be a whole number from 1 to {WORKERS_MAX}")
    return int(text)


def _parser(verb: str = "") -> argparse.ArgumentParser:
    """Of every verb, the other files' by their names alone; of all whole when `verb` is none."""
    known = verb in STARTING or any(verb in names for names in COMMANDS.values())
    parser = argparse.ArgumentParser("switch", description="A payment transaction switch. Settings are SWITCH_* variables.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    shown = verbs.add_parser("demo", help="everything on this machine, with one authorization to see")
    shown.add_argument("--acquirer", metavar="HOST:PORT", help="use this host instead of the stub")
    shown.add_argument("--once", action="store_true", help="end after the sample, with 0 or 1")
    served = verbs.add_parser("serve", help="serves until it is told to stop")
    served.add_argument("--workers", type=_workers, metavar="N", help="processes that serve; default: SWITCH_WORKERS, else 1")
    verbs.add_parser("migrate", help="bring the schema to this release's revision")
    verbs.add_parser("postgres", help="the embedded PostgreSQL alone, in the foreground")
    verbs.add_parser("stub", help="the acquirer stub; options as of python -m acquirer_stubs")
    for command, names in COMMANDS.items():
        if verb in names or not known:
            _join(verbs, importlib.import_module(f"switch.commands.{command}"))
        else:
            for name in names:
                verbs.add_parser(name)
    return parser


def _join(verbs: Any, command: Any) -> None:
    """What verbs a file of commands/ adds, its `work` does."""
    before = set(verbs.choices)
    command.parsers(verbs)
    for verb in verbs.choices.keys() - before:
        verbs.choices[verb].set_defaults(work=command.work)


def _dispatch(options: argparse.Namespace, settings: Settings) -> int:
    if options.verb not in STARTING and not inspect.iscoroutinefunction(options.work):
        answer: int = options.work(options, settings, say)
        return answer
    with quick():
        from switch import starting  # noqa: PLC0415  with it comes the whole switch

    return starting.start(options, settings, say)


@contextmanager
def quick() -> Iterator[None]:
    """What is imported stays: the collector would look for garbage in it again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code; a fault that a person can mend is one line on stderr and 2."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["stub"]:  # becomes the stub: its options, its signals and its exit code
        os.execv(sys.executable, [sys.executable, "-m", "acquirer_stubs", *words[1:]])
    with quick():
        parser = _parser(*words[:1])
    options = argparse.Namespace(verb=WORKER) if words[:1] == [WORKER] else parser.parse_args(words)
    try:
        settings = load()
        logs.configure(None, settings.log_level)
        if failpoints.ARMED:
            logs.error("failpoints_armed", detail="this process is under test and may kill itself", where=os.environ["SWITCH_FAILPOINT"])
        return _dispatch(options, settings)
    except (SettingsError, StartError) as error:
        print(f"switch: {error}", file=sys.stderr)
    except Problem as problem:
        places = "; ".join(f"{fault['field']}: {fault['rule']}" for fault in problem.errors)
        print(f"switch: {problem.detail or PROBLEMS[problem.code].title}" + (f" ({places})" if places else ""), file=sys.stderr)
    return 2

