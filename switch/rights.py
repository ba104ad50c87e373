"""What a key opens whose role is narrow: a table of routes. Terminals, merchants, applicants and support are told apart by their routes.

An operator may everything but give keys to people, so that nobody who decides can make the second of two people.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

PEOPLE = frozenset({"operator", "support", "reviewer", "administrator"})  # each of their keys belongs to a named person of ours


PUBLIC = frozenset({"/v1/registrations", "/v1/activations"})  # below /v1, without a key


class Narrow(NamedTuple):
    """`acts_as`: the role whose routes these are; on every other one the key opens nothing. `words`: what it is for."""

    acts_as: str
    words: str
    routes: frozenset[str]


NARROW: Mapping[str, Narrow] = MappingProxyType({
    "reviewer": Narrow("operator", "A key of a reviewer is for applications, licences and bank accounts to be agreed.", frozenset({
        "GET /v1/reviews", "GET /v1/applications", "GET /v1/applications/{application}", "GET /v1/applications/{application}/missing",
        "GET /v1/applications/{application}/score", "GET /v1/applications/{application}/notices",
        "GET /v1/applications/{application}/documents/{document}/file", "POST /v1/applications/{application}/documents/{document}/verdicts",
        "POST /v1/applications/{application}/take", "POST /v1/applications/{application}/decisions",
        "GET /v1/licences", "POST /v1/licences/{document}/verdicts",
        "GET /v1/merchants/{merchant}/bank-account", "POST /v1/merchants/{merchant}/bank-account/agreement",
        "GET /v1/help-articles", "GET /v1/help-articles/{article}",
    })),
    "administrator": Narrow("operator", "A key of an administrator is for keys.", frozenset({
        "GET /v1/keys", "POST /v1/keys", "GET /v1/keys/{ident}", "POST /v1/keys/{ident}/revoke",
        "GET /v1/organisations", "GET /v1/organisations/{ident}", "GET /v1/merchants", "GET /v1/merchants/{ident}",
        "GET /v1/stores", "GET /v1/stores/{ident}", "GET /v1/terminals", "GET /v1/terminals/{ident}",
        "GET /v1/alerts", "GET /v1/help-articles", "GET /v1/help-articles/{article}",
    })),
    "staff": Narrow("staff", "A key of staff is for what its store sold, and for its tickets.", frozenset({
        "GET /v1/transactions", "GET /v1/transactions/{authorization}", "GET /v1/authorizations/{authorization}",
        "GET /v1/transactions/{transaction}/story", "GET /v1/transactions/{transaction}/receipt", "GET /v1/transactions/{transaction}/signature",
        "GET /v1/stores", "GET /v1/stores/{ident}", "GET /v1/terminals", "GET /v1/terminals/{ident}", "GET /v1/terminals/{terminal}/parameters",
        "GET /v1/terminals/{terminal}/batches", "GET /v1/terminals/{terminal}/batches/{batch}",
        "GET /v1/tickets", "POST /v1/tickets", "GET /v1/tickets/{ticket}", "POST /v1/tickets/{ticket}/comments", "POST /v1/tickets/{ticket}/steps",
        "GET /v1/ticket-terms", "GET /v1/help-articles", "GET /v1/help-articles/{article}",
        "GET /v1/announcements", "GET /v1/announcements/{announcement}", "POST /v1/announcements/{announcement}/read",
        "GET /v1/feedbacks", "POST /v1/feedbacks", "GET /v1/feedbacks/{feedback}",
    })),
})
