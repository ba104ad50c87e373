"""Help in words: articles in two languages, announcements with who read them, feedback with its answer. A ticket has a category.

Keys that devices are given: master keys with an activation, working keys with a sign-in; workers follow what a sale needs of them, the PIN keys.
"""

from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

WHO = "length({}) BETWEEN 1 AND 140"
LANGUAGE = "CHECK (jsonb_typeof({0}) = 'object' AND {0} ?& ARRAY['title', 'text'] AND length({0}::text) <= 12000)"
# What helps with what, to begin with: slug, topics, English, Chinese.
ARTICLES: tuple[tuple[str, tuple[str, ...], tuple[str, str], tuple[str, str]], ...] = (
    ("paper", ("terminal", "paper_out"),
     ("The printer has no paper",
      "Open the cover, put the roll in with the print side up, close the cover. Ask for a second print of the last receipt from the "
      "menu: the payment is not repeated."),
     ("打印机缺纸",
      "打开纸仓盖，热敏面朝上装入纸卷，合上盖子。需要时从菜单重打上一张小票：不会再次扣款。")),
    ("battery", ("terminal", "battery_low"),
     ("The battery is low",
      "Put the terminal on its charger. Do not switch it off in the middle of a payment; if that happened, it asks what became of "
      "the payment when it starts again."),
     ("电量不足",
      "请将终端接上充电器。交易过程中请勿关机；如已关机，重新开机后终端会查询该笔交易的结果。")),
    ("silent-terminal", ("terminal", "terminal_silent", "line_down"),
     ("The terminal has no network",
      "Look at the signal and at the SIM card, then switch the terminal off and on. Sales that it took offline are sent when the "
      "network is back: do not key them in again."),
     ("终端没有网络",
      "请检查信号和 SIM 卡，然后重新开机。离线交易会在网络恢复后自动上送，请勿重复输入。")),
    ("declined", ("payments", "declined", "limit_reached"),
     ("A card is declined",
      "A decline comes from the bank of the card: nothing was charged. The customer may use another card, or ask the bank. Do not "
      "split the amount."),
     ("卡片被拒",
      "拒绝来自发卡行，未发生扣款。顾客可换卡或联系发卡行。请勿拆分金额。")),
    ("pending", ("payments", "in_progress"),
     ("The terminal says that a payment is being checked",
      "It was not sold until the terminal says so. Wait until it shows the end; hand over goods only when it prints a receipt."),
     ("终端显示交易处理中",
      "在终端提示成功之前，交易未成立。请等待最终结果；打印出小票后再交付商品。")),
    ("payout", ("settlement",),
     ("When is the money paid",
      "Each day is cut over and priced; the statement names the day on which the net amount is due. A payout that came back has its "
      "reason beside it: check the bank account."),
     ("何时到账",
      "每个营业日日切后结算，结算单注明净额的应付日。付款被退回时会注明原因：请核对银行账户。")),
    ("tampered", ("terminal", "terminal_tampered", "device_tampered"),
     ("The terminal says that it was opened",
      "It has erased its keys and sells no more. Put it aside and open a ticket: a replacement takes over the till."),
     ("终端提示被拆机",
      "终端已清除密钥，不能再收款。请停用并提交工单：更换的终端会接替该收银台。")),
    ("licence", ("account", "application_incomplete"),
     ("A licence ends",
      "Upload the renewed one before its last day. From the day after you sell within small limits, and 15 days after you sell "
      "nothing, until the renewed one is accepted."),
     ("证照到期",
      "请在到期日前上传新证照。到期次日起按小额限额收款，15 天后停止收款，新证照审核通过后恢复。")),
)


def text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def seed() -> str:
    rows = (f"""({text(slug)}, 1, ARRAY[{", ".join(map(text, topics))}], {", ".join(
        f"jsonb_build_object('title', {text(title)}, 'text', {text(body)})" for title, body in (english, chinese))}, 'switch')"""
            for slug, topics, english, chinese in ARTICLES)
    return f"INSERT INTO help_article (slug, number, topics, en, zh, written_by) VALUES {', '.join(rows)}"


TABLES = (
    # Each version for ever; the newest counts. Without topics it is found by its words alone.
    f"""
    CREATE TABLE help_article (
        slug text NOT NULL CHECK (slug ~ '^[a-z0-9]([a-z0-9-]{{0,58}}[a-z0-9])?$'),
        number integer NOT NULL CHECK (number >= 1),
        topics text[] NOT NULL CHECK (cardinality(topics) <= 20),
        en jsonb NOT NULL {LANGUAGE.format("en")},
        zh jsonb NOT NULL {LANGUAGE.format("zh")},
        withdrawn boolean NOT NULL DEFAULT false,
        written_by text NOT NULL CHECK ({WHO.format("written_by")}),
        written_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (slug, number)
    )""",
    """ALTER TABLE ticket ADD COLUMN category text NOT NULL DEFAULT 'other'
    CHECK (category IN ('payments', 'terminal', 'settlement', 'account', 'other'))""",
    # To everybody, to a role, or to one merchant and its terminals.
    f"""
    CREATE TABLE announcement (
        announcement_id uuid PRIMARY KEY,
        role text CHECK (role IN ('merchant', 'terminal', 'applicant', 'support', 'operator')),
        merchant_id uuid REFERENCES merchant,
        en jsonb NOT NULL {LANGUAGE.format("en")},
        zh jsonb NOT NULL {LANGUAGE.format("zh")},
        starts_at timestamptz NOT NULL,
        ends_at timestamptz NOT NULL,
        made_by text NOT NULL CHECK ({WHO.format("made_by")}),
        made_at timestamptz NOT NULL DEFAULT now(),
        withdrawn_by text CHECK ({WHO.format("withdrawn_by")}),
        withdrawn_at timestamptz,
        reason text CHECK (length(reason) BETWEEN 1 AND 500),
        CHECK (role IS NULL OR merchant_id IS NULL),
        CHECK (starts_at < ends_at),
        CHECK ((withdrawn_by IS NULL) = (withdrawn_at IS NULL) AND (withdrawn_by IS NULL) = (reason IS NULL))
    )""",
    "CREATE INDEX announcement_ending ON announcement (ends_at)",
    # reader: the shown id of a merchant, terminal or application, or a person's name. The first time stays.
    f"""
    CREATE TABLE announcement_read (
        announcement_id uuid NOT NULL REFERENCES announcement,
        reader text NOT NULL CHECK ({WHO.format("reader")}),
        read_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (announcement_id, reader)
    )""",
    # object: the shown id of what it is about, of the giver's own.
    f"""
    CREATE TABLE feedback (
        feedback_id uuid PRIMARY KEY,
        kind text NOT NULL CHECK (kind IN ('suggestion', 'complaint', 'praise', 'question')),
        object text CHECK (length(object) BETWEEN 1 AND 100),
        text text NOT NULL CHECK (length(text) BETWEEN 1 AND 2000),
        merchant_id uuid REFERENCES merchant,
        given_by text NOT NULL CHECK ({WHO.format("given_by")}),
        given_at timestamptz NOT NULL DEFAULT now(),
        answer text CHECK (length(answer) BETWEEN 1 AND 2000),
        answered_by text CHECK ({WHO.format("answered_by")}),
        answered_at timestamptz,
        CHECK ((answer IS NULL) = (answered_by IS NULL) AND (answer IS NULL) = (answered_at IS NULL))
    )""",
    "CREATE INDEX feedback_of_merchant ON feedback (merchant_id, feedback_id)",
    "CREATE INDEX feedback_waiting ON feedback (feedback_id) WHERE answer IS NULL",
)

KEPT = (
    """
    CREATE FUNCTION keep_what_was_said() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '%: what was said stays', TG_TABLE_NAME USING ERRCODE = '23514', CONSTRAINT = TG_TABLE_NAME || '_stays';
    END $$""",
    """CREATE TRIGGER feedback_stays BEFORE UPDATE ON feedback FOR EACH ROW WHEN (OLD.answer IS NOT NULL) EXECUTE FUNCTION keep_what_was_said()""",
    """CREATE TRIGGER announcement_stays BEFORE UPDATE ON announcement FOR EACH ROW
    WHEN (OLD.withdrawn_at IS NOT NULL) EXECUTE FUNCTION keep_what_was_said()""",
)

KEYS = (
    "ALTER TABLE crypto_key DROP CONSTRAINT crypto_key_source_check, DROP CONSTRAINT crypto_key_by_people, DROP CONSTRAINT crypto_key_by_two",
    """ALTER TABLE crypto_key ADD CONSTRAINT crypto_key_source_check CHECK (source IN ('components', 'key_block', 'sign_in', 'activation')),
       ADD CONSTRAINT crypto_key_by_people CHECK ((source IN ('sign_in', 'activation')) = (requested_by IS NULL)),
       ADD CONSTRAINT crypto_key_by_two CHECK (source IN ('sign_in', 'activation') OR (active_at IS NOT NULL) = (approved_by IS NOT NULL))""",
    """CREATE OR REPLACE VIEW directory_crypto_key AS SELECT version, coalesce(acquirer_id, terminal_id, merchant_id) AS owner, name, key_id, purpose,
       algorithm, kcv, storage_key, wrapped, state, ended_at FROM crypto_key
       WHERE (state = 'active' OR (state = 'replaced' AND ended_at > now() - interval '1 hour'))
       AND (terminal_id IS NULL OR source NOT IN ('sign_in', 'activation') OR purpose = 'pin')""",
)

ROLES = (
    "GRANT SELECT ON help_article, announcement, announcement_read, feedback TO switch_writer, switch_reader",
    "GRANT INSERT ON help_article, announcement, announcement_read, feedback TO switch_writer",
    "GRANT UPDATE (withdrawn_by, withdrawn_at, reason) ON announcement TO switch_writer",
    "GRANT UPDATE (answer, answered_by, answered_at) ON feedback TO switch_writer",
)


def upgrade() -> None:
    for statement in (*TABLES, *KEPT, *KEYS, *ROLES, seed()):
        op.execute(statement)
