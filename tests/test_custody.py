"""The security module is there when it may be, and a switch that must not have one says why."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from messages.dialect import load as dialect
from switch.custody import Custody, open_hsm
from switch.errors import SettingsError, StartError
from switch.security.software_hsm import SoftwareHsm
from switch.security.vault import Keyring
from switch.settings import load

KEYRING = Keyring("k1", "t1", {"k1": bytes(32), "t1": bytes(range(32))})


def test_a_module_in_software_is_for_the_demo_and_tests() -> None:
    assert isinstance(open_hsm(load({"SWITCH_HSM": "software", "SWITCH_TESTING": "1"}), KEYRING), SoftwareHsm)
    assert open_hsm(load({}), KEYRING) is None
    with pytest.raises(StartError) as caught:
        open_hsm(load({"SWITCH_HSM": "software"}), KEYRING)
    assert "SWITCH_HSM=software" in str(caught.value) and "unset" in str(caught.value) and "\n" not in str(caught.value)


def test_a_module_that_there_is_not_is_a_fault_of_the_settings(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="SWITCH_HSM must be one of: none, software"):
        load({"SWITCH_HSM": "hardware", "SWITCH_HOME": str(tmp_path)})


async def test_a_hosts_key_change_is_answered_by_what_became_of_its_keys_where_a_dialect_has_a_place_for_them() -> None:
    taken: list[Any] = []
    keys = SimpleNamespace(changed=lambda message: taken.append(message) or message["62"] == "good")
    custody: Any = SimpleNamespace(keys_of=lambda _: keys)
    cup: Any = SimpleNamespace(dialect=dialect("unionpay_pos"))
    install = Custody.installer_of(custody, cup)
    assert install is not None
    rule = cup.dialect.network_rule
    assert [await install({"62": content}) for content in ("good", "bad")] == [rule.approved, rule.refused] and len(taken) == 2
    elsewhere: Any = SimpleNamespace(dialect=dialect("iso87_ascii"))
    assert Custody.installer_of(custody, elsewhere) is None, "there it stays refused, with evidence"
