"""What a person at the command line is told: mistyped verbs, refusals, lists that were cut, names instead of ids."""

import argparse
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from switch.cli import main
from switch.commands.choosing import _recommended
from switch.commands.inquiries import Question, acquirer_id, put, refusal
from switch.errors import Problem, StartError, file_refused, in_words
from switch.settings import load


class Pages(BaseHTTPRequestHandler):
    """A switch with two acquirers on two pages, and more reversals than one page has."""

    def do_GET(self) -> None:
        first = "after=" not in self.path
        items = [{"id": f"acq_{1 if first else 2}", "name": "one" if first else "two"}] if "acquirers" in self.path else []
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"items": items, "next": "x_1" if first else None, "path": self.path}).encode())

    def log_message(self, *words: object) -> None:
        """Says nothing."""


@pytest.fixture
def pages() -> Iterator[list[str]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever).start()
        yield ["--url", f"http://127.0.0.1:{server.server_port}", "--key", "k"]
        server.shutdown()


def test_a_list_that_was_cut_says_how_it_goes_on(pages: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    options = argparse.Namespace(url=pages[1], key="k")
    for path, told in (("/v1/x?limit=1", "there are more: switch ask GET '/v1/x?limit=1' -f after=x_1\n"), ("/v1/x?limit=1&after=y", "")):
        put(Question("GET", path, None, lambda body: iter([body["path"]])), options, load(), print)
        assert capfd.readouterr() == (f"{path}\n", told)


def test_a_file_that_is_not_there_is_no_switch_that_cannot_be_reached(pages: list[str], tmp_path: Path) -> None:
    options = argparse.Namespace(url=pages[1], key="k")
    for path, why in ((tmp_path / "none.csv", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(StartError, match=f"^{path} cannot be read: {why}$"):
            put(Question("POST", "/v1/x", path, lambda body: iter(())), options, load(), print)


def test_a_signature_is_a_png_by_its_name_before_anything_is_sent(capfd: pytest.CaptureFixture[str]) -> None:
    signing = ["contracts", "sign", "con_1", "hand.pdf", "--sha256", "0", "--name", "Li Wei", "--url", "http://127.0.0.1:1", "--key", "k"]
    assert main(signing) == 2 and "a file whose name ends in .png" in capfd.readouterr().err


def test_an_acquirer_is_said_by_its_name_or_its_id(pages: list[str]) -> None:
    options = argparse.Namespace(url=pages[1], key="k")
    assert [acquirer_id(said, options, load()) for said in ("two", "acq_9")] == ["acq_2", "acq_9"]
    with pytest.raises(StartError, match="no acquirer has this name; `switch links` shows those there are"):
        acquirer_id("three", options, load())


def test_a_recommendation_without_a_plan_says_where_the_offers_are() -> None:
    told = list(_recommended({"terminal": {"count": 1, "what": "terminal", "why": "it fits"}, "methods": [], "plan": None}))
    assert told == ["1 x terminal: it fits", "no plan: no offer has an acquirer that takes all of it; `switch offer list` shows the offers"]


@pytest.mark.parametrize(("word", "told"), [
    ("storey", "there is no verb 'storey', did you mean story; `switch --help` explains"), ("xyzzy", "there is no verb 'xyzzy'; `switch --help` explains")])
def test_a_mistyped_verb_is_answered_with_the_nearest_one_and_not_with_all(word: str, told: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([word])
    assert capfd.readouterr().err.splitlines() == ["usage: switch [-h] VERB ...", f"switch: error: {told}"]


def test_a_refusal_says_what_is_wrong_what_to_do_and_each_place_once() -> None:
    missing, field = Problem("not_found"), {"field": "port", "rule": "a whole number"}
    assert in_words(missing.said) == "There is no such object. Check the id; objects of others look the same as absent ones."
    assert in_words(Problem("not_found", "No acquirer has this name.").said) == "No acquirer has this name."
    assert in_words(Problem("invalid", "One or more fields are wrong; see errors.", errors=[field]).said) == "One or more fields are wrong (port: a whole number)"
    assert in_words(file_refused(3, "the total is wrong").said) == "Nothing of it was taken. Line 3: the total is wrong."
    assert in_words(Problem("invalid", "One or more fields are wrong; see errors.", errors=[{**field, "field": ""}]).said) == "One or more fields are wrong (a whole number)"
    assert in_words(Problem("invalid", "One or more fields are wrong; see errors.", errors=[field, field]).said) == "One or more fields are wrong (port: a whole number)"
    assert in_words({}) == ""
    assert str(refusal(403, Problem("forbidden").said)).endswith("the route names. Say whose key with --key.")
    over = {**Problem("amount_exceeds_refundable").said, "amounts": {"left_to_refund": 2500}}
    assert in_words(over) == "The amount is more than may be refunded. See `amounts.left_to_refund`. (left_to_refund: 2500)"
