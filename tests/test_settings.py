"""Settings: all read at the start, one line per fault, no value repeated."""

from pathlib import Path

import pytest

from switch.errors import SettingsError
from switch.settings import VARIABLES, load


def test_without_any_variable_the_defaults_hold() -> None:
    settings = load({})
    assert settings.home == Path(".switch").absolute()
    assert (settings.host, settings.port, settings.database_url, settings.postgres_bin) == ("127.0.0.1", 8000, None, None)
    assert settings.keys_file == settings.home / "keys.json"
    assert (settings.log_level, settings.max_connections, settings.commit_budget_s, settings.sign_on_wait_s) == ("info", 2000, 3, 5)
    assert (settings.workers, settings.admin_port, settings.trusted_proxies) == (1, 0, ())


def test_an_empty_variable_is_as_good_as_none() -> None:
    assert load(dict.fromkeys(VARIABLES, "")) == load({})


def test_every_variable_sets_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "initdb").touch()
    settings = load({
        "SWITCH_HOME": str(tmp_path), "SWITCH_HOST": "::1", "SWITCH_PORT": "0", "SWITCH_DATABASE_URL": "postgres://db/switch",
        "SWITCH_KEYS_FILE": "elsewhere.json", "SWITCH_POSTGRES_BIN": str(tmp_path), "SWITCH_LOG_LEVEL": "debug", "SWITCH_MAX_CONNECTIONS": "10",
        "SWITCH_COMMIT_BUDGET": "0.5", "SWITCH_SIGN_ON_WAIT": "0", "SWITCH_WORKERS": "4", "SWITCH_ADMIN_PORT": "9000", "PATH": "/bin", "SWITCHBOARD": "not ours",
    })
    assert (settings.home, settings.host, settings.port, settings.database_url) == (tmp_path, "::1", 0, "postgres://db/switch")
    assert (settings.keys_file, settings.postgres_bin, settings.log_level) == (Path("elsewhere.json"), tmp_path, "debug")
    assert (settings.max_connections, settings.commit_budget_s, settings.sign_on_wait_s) == (10, 0.5, 0)
    assert (settings.workers, settings.admin_port) == (4, 9000)


@pytest.mark.parametrize(("name", "value", "fault"), [
    *[("SWITCH_PORT", value, "must be a whole number from 0 to 65535") for value in ("65536", "-1", "http", "80.5", "1e3", "8_000", " 80", "0x50", "８０", "9" * 5000)],
    *[("SWITCH_ADMIN_PORT", value, "must be a whole number from 0 to 65535") for value in ("65536", "-1", "metrics")],
    *[("SWITCH_WORKERS", value, "must be a whole number from 1 to 64") for value in ("0", "65", "two", "1.0")],
    *[("SWITCH_MAX_CONNECTIONS", value, "must be a whole number from 10 to 100000") for value in ("9", "100001", "many", "20.0")],
    *[("SWITCH_COMMIT_BUDGET", value, "must be a number from 0.1 to 60") for value in ("0", "0.09", "61", "nan", "inf", "-inf", "3s")],
    *[("SWITCH_SIGN_ON_WAIT", value, "must be a number from 0 to 600") for value in ("-1", "601", "nan", "soon")],
    *[("SWITCH_DATABASE_URL", value, "must start with postgresql://") for value in ("mysql://s3cret@db/x", "db:5432/s3cret", "POSTGRESQL://s3cret@db")],
    *[("SWITCH_TRUSTED_PROXIES", value, "must be addresses or networks with commas between them, such as 10.0.0.5,fd00::/8")
      for value in ("s3cret", "10.0.0.5/8", "10.0.0.0/33", "10.0.0.5;10.0.0.6")],
    ("SWITCH_LOG_LEVEL", "INFO", "must be one of: debug, info, warning, error"),
    ("SWITCH_LOG_LEVEL", "verbose", "must be one of: debug, info, warning, error"),
    ("SWITCH_POSTGRES_BIN", "no/such/folder", "must be a folder that holds initdb and postgres"),
    ("SWITCH_HOME", __file__, "must be a folder; a file stands there"),
])
def test_a_wrong_value_is_one_line_that_names_the_variable_and_not_the_value(name: str, value: str, fault: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({name: value})
    assert str(caught.value) == f"{name} {fault}"
    assert "s3cret" not in str(caught.value)


def test_trusted_proxies_are_addresses_and_networks() -> None:
    assert [str(each) for each in load({"SWITCH_TRUSTED_PROXIES": "10.0.0.5, fd00::/8 192.0.2.0/24,"}).trusted_proxies] == ["10.0.0.5/32", "fd00::/8", "192.0.2.0/24"]


def test_a_misspelt_variable_is_a_fault_that_shows_the_right_ones() -> None:
    with pytest.raises(SettingsError) as caught:
        load({"SWITCH_PROT": "80"})
    assert str(caught.value).startswith("SWITCH_PROT is not a setting; known are: ")
    assert "SWITCH_PORT" in str(caught.value)


def test_all_faults_come_together_one_line_each() -> None:
    with pytest.raises(SettingsError) as caught:
        load({"SWITCH_PORT": "x", "SWITCH_COMMIT_BUDGET": "x", "SWITCH_LOG_LEVEL": "x", "SWITCH_DATABASE_URL": "x", "SWITCH_X": "x"})
    assert sorted(line.split()[0] for line in str(caught.value).splitlines()) == [
        "SWITCH_COMMIT_BUDGET", "SWITCH_DATABASE_URL", "SWITCH_LOG_LEVEL", "SWITCH_PORT", "SWITCH_X"]
