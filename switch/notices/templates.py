"""What merchants are told, in words: one template per kind of event and language, with named places. Pure; checked when it is loaded."""

import re
from collections.abc import Collection, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from switch.money import text
from switch.notices.webhooks import TYPES

LANGUAGES = ("en", "zh")
UTC = ZoneInfo("UTC")
INSTANTS = ("answer_by",)  # places that hold one, as ISO 8601 in UTC
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")
# What people call a zone; others are named by their distance from UTC.
OF_ZONE: Mapping[str, Mapping[str, str]] = MappingProxyType({"Asia/Shanghai": {"en": "Beijing time", "zh": "北京时间"}})
PLACE = re.compile(r"\{([^{}]*)\}")
_PAYOUT = frozenset({"id", "money", "reason"})
_DISPUTE = frozenset({"id", "transaction", "money", "reason_code", "answer_by"})
_TICKET = frozenset({"id", "subject"})
_LICENCE = frozenset({"kind", "expires_on"})
_CONTRACT = frozenset({"id", "from_on", "until_on"})
_TERMINAL = frozenset({"device", "terminal", "serial_number"})
# kind -> what its event says; `money` is its amount (a settlement's net) for people.
PLACES: Mapping[str, frozenset[str]] = MappingProxyType({
    "settlement.stated": frozenset({"settlement", "business_date", "due_on", "money"}),
    "payout.requested": _PAYOUT, "payout.confirmed": _PAYOUT, "payout.returned": _PAYOUT,
    "dispute.retrieval": _DISPUTE, "dispute.chargeback": _DISPUTE, "dispute.pre_arbitration": _DISPUTE, "dispute.due": _DISPUTE,
    "dispute.won": _DISPUTE, "dispute.lost": _DISPUTE,
    "ticket.answered": _TICKET, "ticket.resolved": _TICKET, "feedback.answered": frozenset({"id", "kind", "object"}),
    "licence.expiring": _LICENCE, "licence.limited": _LICENCE, "licence.suspended": _LICENCE, "licence.lifted": _LICENCE,
    "application.approved": frozenset({"id", "merchant"}),
    "contract.offered": _CONTRACT, "contract.in_force": _CONTRACT, "contract.ending": _CONTRACT, "contract.ended": _CONTRACT,
    "terminal.silent": _TERMINAL, "terminal.tampered": _TERMINAL, "terminal.update": _TERMINAL | {"version"},
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
    "licence.expiring": {"en": ("A document ends soon", "Your {kind} is good until {expires_on}. Upload the renewed one before."),
                         "zh": ("证照即将到期", "您的 {kind} 有效期至 {expires_on}。请在此之前上传新证照。")},
    "licence.limited": {"en": ("A document has ended: small limits", "Your {kind} was good until {expires_on}. You sell within small limits until a "
                                                                     "renewed one is accepted."),
                        "zh": ("证照已到期：限额收款", "您的 {kind} 已于 {expires_on} 到期。新证照审核通过前按小额限额收款。")},
    "licence.suspended": {"en": ("A document has ended: suspended", "Your {kind} was good until {expires_on} and was not renewed. You sell nothing "
                                                                    "until a renewed one is accepted."),
                          "zh": ("证照已到期：暂停收款", "您的 {kind} 已于 {expires_on} 到期且未更新。新证照审核通过前暂停收款。")},
    "licence.lifted": {"en": ("A renewed document was accepted", "Your {kind} is good until {expires_on}. What the old one's end brought is lifted."),
                       "zh": ("新证照已通过审核", "您的 {kind} 有效期至 {expires_on}。因旧证照到期的限制已解除。")},
    "application.approved": {"en": ("Your application was approved", "{id} was approved; you are merchant {merchant}."),
                             "zh": ("申请已通过", "申请 {id} 已通过，您的商户号为 {merchant}。")},
    "contract.offered": {"en": ("A contract to sign", "The contract {id} waits for your signature."),
                         "zh": ("合同待签", "合同 {id} 等待您签署。")},
    "contract.in_force": {"en": ("Contract signed by both", "The contract {id} holds from {from_on} on."),
                          "zh": ("合同已生效", "合同 {id} 自 {from_on} 起生效。")},
    "contract.ending": {"en": ("A contract ends soon", "The contract {id} ends with {until_on}. Nothing is sold by it after that day."),
                        "zh": ("合同即将到期", "合同 {id} 将于 {until_on} 到期，此后不能收款。")},
    "contract.ended": {"en": ("A contract has ended", "The contract {id} has ended; its last day was {until_on}."),
                       "zh": ("合同已终止", "合同 {id} 已终止，最后一日为 {until_on}。")},
    "terminal.silent": {"en": ("A terminal is silent", "Terminal {terminal} ({serial_number}) has not been heard of. Look at its network and power."),
                        "zh": ("终端失联", "终端 {terminal}（{serial_number}）长时间未上报，请检查网络和电源。")},
    "terminal.tampered": {"en": ("A terminal was opened", "Terminal {terminal} ({serial_number}) was opened: its keys end and it sells nothing."),
                          "zh": ("终端被拆机", "终端 {terminal}（{serial_number}）触发防拆，密钥已失效，停止收款。")},
    "terminal.update": {"en": ("New software", "Terminal {terminal} ({serial_number}) gets software {version}."),
                        "zh": ("终端软件更新", "终端 {terminal}（{serial_number}）将更新软件至 {version}。")},
})


# A statement of which less than its net is paid out says so, in words of its own.
LESS_DUE: Mapping[str, Mapping[str, tuple[str, str]]] = MappingProxyType({
    "net.zero": {"en": ("Statement of {business_date}", "The net is {money}: nothing is due. Statement {settlement} shows what moved that day."),
                 "zh": ("{business_date} 结算单", "净额 {money}，无应付款项。当日明细见结算单 {settlement}。")},
    "net.negative": {"en": ("Statement of {business_date}",
                            "The net is {money}: it is taken from your balance, and what that does not cover from later sales. "
                            "Statement {settlement}."),
                     "zh": ("{business_date} 结算单", "净额 {money}，从余额中扣除，不足部分由后续销售抵扣。结算单 {settlement}。")},
    "net.reserved": {"en": ("Statement of {business_date}", "Of {money} net, {due} are due on {due_on}, and {reserved} are kept in reserve until "
                                                            "{reserve_release_on}. Statement {settlement}."),
                     "zh": ("{business_date} 结算单", "净额 {money}，其中 {due} 应付日 {due_on}，{reserved} 留作准备金至 {reserve_release_on}。"
                                                   "结算单 {settlement}。")},
})
_RESERVED = frozenset({"due", "reserved", "reserve_release_on"})
# What applicants read of their applications: they are no merchants yet, and have no webhooks. Event of an application -> kind.
OF_APPLICATION: Mapping[str, str] = MappingProxyType({
    "submit": "application.submitted", "ask_more": "application.more_wanted", "refuse": "application.refused", "approve": "application.passed",
    "pass": "application.passed",
})
_APPLICATION = frozenset({"id", "reason"})
APPLICANT_PLACES: Mapping[str, frozenset[str]] = MappingProxyType({kind: _APPLICATION for kind in OF_APPLICATION.values()})
APPLICANT_WORDS: Mapping[str, Mapping[str, tuple[str, str]]] = MappingProxyType({
    "application.submitted": {"en": ("Application received", "{id} is with the reviewers."), "zh": ("申请已提交", "申请 {id} 正在审核。")},
    "application.more_wanted": {"en": ("More is wanted", "{id} waits for you: {reason}"), "zh": ("请补充资料", "申请 {id} 等待您补充：{reason}")},
    "application.refused": {"en": ("Application refused", "{id} was refused: {reason}"), "zh": ("申请未通过", "申请 {id} 未通过：{reason}")},
    "application.passed": {"en": ("Application approved", "{id} was approved. A contract comes next."),
                           "zh": ("申请已通过", "申请 {id} 已通过，下一步签订合同。")},
})


def loaded(words: Mapping[str, Mapping[str, tuple[str, str]]], places: Mapping[str, Collection[str]],
           known: Collection[str] = TYPES) -> dict[tuple[str, str], Template]:
    """By kind and language. Raises TemplateError: a kind that is no event, a language that is missing or unknown, a place that nothing fills."""
    found = {}
    for kind, languages in words.items():
        if kind not in known or kind not in places:
            raise TemplateError(f"{kind}: no such kind of event")
        if set(languages) != set(LANGUAGES):
            raise TemplateError(f"{kind}: it must be in {', '.join(LANGUAGES)}")
        for language, (title, body) in languages.items():
            for place in PLACE.findall(title + body):
                if place not in places[kind]:
                    raise TemplateError(f"{kind}, {language}: nothing fills {{{place}}}; it may name {', '.join(sorted(places[kind]))}")
            found[kind, language] = Template(title, body)
    return found


TEMPLATES = MappingProxyType(loaded(WORDS, PLACES) | loaded(APPLICANT_WORDS, APPLICANT_PLACES, APPLICANT_PLACES)
                             | loaded(LESS_DUE, dict.fromkeys(LESS_DUE, PLACES["settlement.stated"] | _RESERVED), LESS_DUE))
KINDS = frozenset(WORDS)


def written(kind: str, language: str, data: Mapping[str, Any], zone: ZoneInfo = UTC) -> Template:
    """Title and text as the merchant reads them, its instants by the clock of `zone`. What is filled in is never read as a template again."""
    amount = data.get("amount", data.get("net"))
    values = {**data, "money": None if amount is None else text(amount, data["currency"])}
    values |= {name: instant(datetime.fromisoformat(data[name]), language, zone) for name in INSTANTS if data.get(name)}
    if kind == "settlement.stated" and (less := _less_due(data)) is not None:
        kind, kept = less, data.get("reserve_held", 0)
        values |= {"due": text(data["net"] - kept, data["currency"]), "reserved": text(kept, data["currency"])}
    title, body = (PLACE.sub(lambda found: str(values.get(found[1]) or "-"), each) for each in TEMPLATES[kind, language])
    return Template(title, body)


def instant(at: datetime, language: str, zone: ZoneInfo) -> str:
    """As a person writes it, to the minute: no later than it is."""
    there = at.astimezone(zone)
    hours, minutes = f"{there:%z}"[:3], f"{there:%z}"[3:]
    where = OF_ZONE.get(zone.key, {}).get(language) or f"UTC{hours}:{minutes}"
    if language == "zh":
        return f"{where} {there.year}年{there.month}月{there.day}日 {there:%H:%M}"
    return f"{there.day} {MONTHS[there.month - 1]} {there.year}, {there:%H:%M} ({where})"


def _less_due(data: Mapping[str, Any]) -> str | None:
    """Of a settlement: which words of LESS_DUE it wants."""
    if data["net"] <= 0:
        return "net.negative" if data["net"] else "net.zero"
    return "net.reserved" if data.get("reserve_held") else None
