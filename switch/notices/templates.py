"""What merchants are told, in words: one template per kind of event and language, with named places. Pure; checked when it is loaded."""

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from switch.money import text
from switch.notices.webhooks import TYPES

LANGUAGES = ("en", "zh")
PLACE = re.compile(r"\{([^{}]*)\}")
_PAYOUT = frozenset({"id", "money", "reason"})
_DISPUTE = frozenset({"id", "transaction", "money", "reason_code", "answer_by"})
_TICKET = frozenset({"id", "subject"})
# kind -> what its event says; `money` is its amount (a settlement's net) for people.
PLACES: Mapping[str, frozenset[str]] = MappingProxyType({
    "settlement.stated": frozenset({"settlement", "business_date", "due_on", "money"}),
    "payout.requested": _PAYOUT, "payout.confirmed": _PAYOUT, "payout.returned": _PAYOUT,
    "dispute.retrieval": _DISPUTE, "dispute.chargeback": _DISPUTE, "dispute.pre_arbitration": _DISPUTE, "dispute.due": _DISPUTE,
    "dispute.won": _DISPUTE, "dispute.lost": _DISPUTE,
    "ticket.answered": _TICKET, "ticket.resolved": _TICKET, "feedback.answered": frozenset({"id", "kind", "object"}),
})


class Template(NamedTuple):
    title: str
    text: str


class TemplateError(ValueError):
    """A template that cannot be used: which, and why."""


# kind -> language -> title and text.
WORDS: Mapping[str, Mapping[str, tuple[str, str]]] = MappingProxyType({
    "settlement.stated": {"en": ("Statement of {business_date}", "{money} net are due on {due_on}. Statement {settlement}."),
                          "zh": ("{business_date} 结算单", "净额 {money}，应付日 {due_on}。结算单 {settlement}。")},
    "payout.requested": {"en": ("Payout made", "A payout of {money} was made: {id}."), "zh": ("已发起付款", "已发起付款 {money}：{id}。")},
    "payout.confirmed": {"en": ("Payout paid", "The bank paid {money}: {id}."), "zh": ("付款已到账", "银行已支付 {money}：{id}。")},
    "payout.returned": {"en": ("Payout came back", "The bank gave back {money}: {id}. {reason}"),
                        "zh": ("付款被退回", "银行退回 {money}：{id}。{reason}")},
    "dispute.retrieval": {"en": ("Papers wanted", "The issuer asks for papers about {transaction} ({money}). Answer {id} until {answer_by}."),
                          "zh": ("调单请求", "发卡行就交易 {transaction}（{money}）调单。请在 {answer_by} 前回复 {id}。")},
    "dispute.chargeback": {"en": ("Chargeback",
                                  "The issuer took {money} of {transaction} back, reason {reason_code}. Answer {id} until {answer_by}."),
                           "zh": ("拒付", "发卡行对交易 {transaction} 拒付 {money}，原因码 {reason_code}。请在 {answer_by} 前回复 {id}。")},
    "dispute.pre_arbitration": {"en": ("Your answer is contested", "The issuer contests your answer about {money}. Answer {id} until {answer_by}."),
                                "zh": ("预仲裁", "发卡行对您的回复有异议，金额 {money}。请在 {answer_by} 前回复 {id}。")},
    "dispute.due": {"en": ("An answer is due soon", "Your answer to {id} about {money} is due at {answer_by}."),
                    "zh": ("争议即将到期", "争议 {id}（{money}）须在 {answer_by} 前回复。")},
    "dispute.won": {"en": ("Dispute won", "{id} about {money} was won."), "zh": ("争议胜诉", "争议 {id}（{money}）已胜诉。")},
    "dispute.lost": {"en": ("Dispute lost", "{id} about {money} was lost."), "zh": ("争议败诉", "争议 {id}（{money}）已败诉。")},
    "ticket.answered": {"en": ("Support answered", "Support answered your ticket {id}: {subject}"),
                        "zh": ("客服已回复", "客服已回复工单 {id}：{subject}")},
    "ticket.resolved": {"en": ("Ticket resolved", "Support resolved your ticket {id}: {subject}"),
                        "zh": ("工单已解决", "客服已解决工单 {id}：{subject}")},
    "feedback.answered": {"en": ("Your feedback was answered", "Support answered what you said: {id}."),
                          "zh": ("您的反馈已答复", "客服已答复您的反馈：{id}。")},
})


def loaded(words: Mapping[str, Mapping[str, tuple[str, str]]], places: Mapping[str, Collection[str]]) -> dict[tuple[str, str], Template]:
    """By kind and language. Raises TemplateError: a kind that is no event, a language that is missing or unknown, a place that nothing fills."""
    found = {}
    for kind, languages in words.items():
        if kind not in TYPES or kind not in places:
            raise TemplateError(f"{kind}: no such kind of event")
        if set(languages) != set(LANGUAGES):
            raise TemplateError(f"{kind}: it must be in {', '.join(LANGUAGES)}")
        for language, (title, body) in languages.items():
            for place in PLACE.findall(title + body):
                if place not in places[kind]:
                    raise TemplateError(f"{kind}, {language}: nothing fills {{{place}}}; it may name {', '.join(sorted(places[kind]))}")
            found[kind, language] = Template(title, body)
    return found


TEMPLATES = MappingProxyType(loaded(WORDS, PLACES))
KINDS = frozenset(WORDS)


def written(kind: str, language: str, data: Mapping[str, Any]) -> Template:
    """Title and text as the merchant reads them. What is filled in is never read as a template again."""
    amount = data.get("amount", data.get("net"))
    values = {**data, "money": None if amount is None else text(amount, data["currency"])}
    title, body = (PLACE.sub(lambda found: str(values.get(found[1]) or "-"), each) for each in TEMPLATES[kind, language])
    return Template(title, body)
