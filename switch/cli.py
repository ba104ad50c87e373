"""The command line: `switch demo | serve | migrate | postgres | stub`, and the verbs of commands/."""

import argparse
import difflib
import gc
import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from switch import failpoints, logs
from switch.errors import Problem, SettingsError, StartError, in_words
from switch.settings import WORKERS_MAX, Settings, load

CODES = """Exit codes: 0 done; 1 what was looked at is not well (a faulty file, a day that cannot be closed yet);
2 refused, mistyped or not reached, with why on stderr."""
WORKER = "worker"  # a child of `serve`: nothing that a person starts
STARTING = ("demo", "serve", "migrate", "postgres", "stub")
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


class _Verbs(argparse._SubParsersAction):  # type: ignore[type-arg]
    """What a verb does stands in its own --help too, not only in the list of verbs."""

    def add_parser(self, name: str, **said: Any) -> Any:
        return super().add_parser(name, **{"description": said.get("help"), **said})


class _Parser(argparse.ArgumentParser):
    """Its usage is short, and what is mistyped is told with where to look."""

    def __init__(self, *words: Any, **said: Any) -> None:
        super().__init__(*words, **said)
        self.register("action", "parsers", _Verbs)

    def error(self, message: str) -> NoReturn:
        super().error(f"{message}; `{self.prog} --help` explains")


def _known(parser: argparse.ArgumentParser, word: str) -> None:
    """Ends the process when it is neither a verb nor an option."""
    if not word.startswith("-") and word != WORKER and word not in (verbs := [*STARTING, *(name for names in COMMANDS.values() for name in names)]):
        near = difflib.get_close_matches(word, verbs, 1)
        parser.error(f"there is no verb {word[:60]!r}" + (f", did you mean {near[0]}" if near else ""))


def _parser(verb: str = "") -> argparse.ArgumentParser:
    """Of every verb, the other files' by their names alone; of all whole when `verb` is none."""
    known = verb in (*STARTING, WORKER) or any(verb in names for names in COMMANDS.values())
    parser = _Parser("switch", description="A payment transaction switch. Settings are SWITCH_* variables.", epilog=CODES)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
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
    if options.verb not in (*STARTING, WORKER) and not inspect.iscoroutinefunction(options.work):
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
    for word in words[:1]:
        _known(parser, word)
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
        print(f"switch: {in_words(problem.said)}", file=sys.stderr)
    return 2

