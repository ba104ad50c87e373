"""The security module is there when it may be, and a switch that must not have one says why."""

from pathlib import Path

import pytest

from switch.custody import open_hsm
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
