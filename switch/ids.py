"""Identities: UUIDv7 (RFC 9562, section 5.7), shown with a prefix that names the kind (`txn_0192...`)."""

import uuid
from datetime import UTC, datetime, timedelta

from asyncpg.pgproto.pgproto import UUID as DriverUUID  # the driver's own: a uuid.UUID that is made and shown 10 times as fast

PREFIXES = {
    "organisation": "org_", "merchant": "mer_", "store": "sto_", "terminal": "trm_", "acquirer": "acq_", "route": "rte_",
    "transaction": "txn_", "alert": "alr_", "approval": "app_", "line": "lin_",
    "job": "job_", "export": "exp_", "import": "imp_",
    "settlement": "set_", "transfer": "tfr_", "account": "acc_", "hold": "hld_", "payout": "pay_",
    "dispute": "dsp_", "dispute_file": "dsf_", "notice_file": "dnf_", "batch": "bat_",
    "payout_file": "pof_", "bank_answer": "ban_", "bank_account": "bac_",
    "tariff": "tar_", "cost": "cst_",
    "clearing_file": "clf_", "run": "rec_", "exception": "exc_",
    "crypto_key": "cky_",
    "device": "dev_", "release": "rel_", "rollout": "rol_",
    "acceptance_test": "act_", "material": "tma_", "training": "trn_",
    "risk_rule": "rrl_", "limit": "lim_", "risk_entry": "rle_", "risk_hit": "rht_",
    "application": "apl_", "document": "doc_", "contract": "con_",
    "move": "mov_", "offer": "ofr_", "leaving": "lvg_",
    "webhook": "whk_", "webhook_event": "msg_",
    "ticket": "tkt_", "notice": "ntc_", "announcement": "ann_", "feedback": "fbk_",
}

EPOCH, MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)


def uuid7(at_ms: int, randomness: bytes) -> uuid.UUID:
    """An id that sorts by its time. `at_ms`: milliseconds since 1970 UTC; `randomness`: 10 bytes."""
    value = (at_ms & 0xFFFFFFFFFFFF) << 80 | int.from_bytes(randomness, "big")
    made: uuid.UUID = DriverUUID((value & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62).to_bytes(16, "big"))
    return made


def lowest(at: datetime) -> uuid.UUID:
    """The smallest id of an instant: `id >= lowest(from)` is the same question as `created_at >= from`."""
    return uuid.UUID(int=max(0, (at - EPOCH) // MILLISECOND) << 80)


def instant(identity: uuid.UUID) -> datetime:
    """The instant, to the millisecond, that a UUIDv7 carries."""
    return EPOCH + (identity.int >> 80) * MILLISECOND


def show(kind: str, identity: uuid.UUID) -> str:
    return f"{PREFIXES[kind]}{identity}"


def read(kind: str, text: str) -> uuid.UUID | None:
    """The id behind its shown form, or None when the text is not one of this kind."""
    prefix = PREFIXES[kind]
    if not text.startswith(prefix) or len(text) != len(prefix) + 36:
        return None
    try:
        identity = uuid.UUID(text[len(prefix):])
    except ValueError:
        return None
    return identity if str(identity) == text[len(prefix):].lower() else None  # UUID() reads other forms too
