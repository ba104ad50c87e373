"""Settings: `SWITCH_*` variables, read once and validated at start, one clear line per fault."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from switch import failpoints
from switch.errors import SettingsError
from switch.logs import LEVELS

WORKERS_MAX = 64
WEBHOOK_TARGETS = ("public", "any")
HSMS = ("none", "software")


@dataclass(frozen=True, slots=True)
class Settings:
    home: Path  # data, keys and the embedded PostgreSQL
    host: str
    port: int  # 0 = any free one
    database_url: str | None  # None = the embedded PostgreSQL
    keys_file: Path
    postgres_bin: Path | None
    log_level: str
    max_connections: int  # HTTP connections of one worker
    commit_budget_s: float  # how long an intent or outcome may take to become durable
    sign_on_wait_s: float  # how long a start waits for a line before it serves without
    http_deadline_s: float  # an answer leaves within this time of the request, whatever happens
    workers: int  # processes that serve
    admin_port: int  # health and metrics over all workers; 0 = any free one
    schedules: bool  # whether what is due by the calendar is begun by itself
    undelivered_after_s: float  # an approval that could not be delivered and that nobody asks for in this time raises an alert
    webhooks_anywhere: bool  # webhooks may go to addresses that are not public, and by plain http
    hsm: str  # the security module: none, or software, which only a rehearsal may have
    rehearsal: bool  # the demo or a test
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()  # whose X-Forwarded-For is believed


VARIABLES = {
    "SWITCH_HOME": "folder for data and keys", "SWITCH_HOST": "address to listen on", "SWITCH_PORT": "port, 0 for any",
    "SWITCH_DATABASE_URL": "postgresql:// URL; turns the embedded PostgreSQL off", "SWITCH_KEYS_FILE": "key file, mode 0600",
    "SWITCH_POSTGRES_BIN": "folder with initdb and postgres", "SWITCH_LOG_LEVEL": " ".join(LEVELS),
    "SWITCH_MAX_CONNECTIONS": "HTTP connections", "SWITCH_COMMIT_BUDGET": "seconds", "SWITCH_SIGN_ON_WAIT": "seconds",
    "SWITCH_HTTP_DEADLINE": "seconds", "SWITCH_UNDELIVERED_AFTER": "seconds", "SWITCH_SCHEDULES": "on or off",
    "SWITCH_WEBHOOK_TARGETS": " ".join(WEBHOOK_TARGETS), "SWITCH_HSM": " ".join(HSMS),
    "SWITCH_TRUSTED_PROXIES": "addresses and networks",
    "SWITCH_WORKERS": "processes that serve", "SWITCH_ADMIN_PORT": "port of health and metrics over all workers, 0 for any",
    "SWITCH_TESTING": "1 in a test", "SWITCH_FAILPOINT": "name:occurrence:action",
}


def _number(environment: Mapping[str, str], name: str, default: float, low: float, high: float, faults: list[str]) -> float:
    text = environment.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        faults.append(f"{name} must be a number from {low:g} to {high:g}")
        return default
    return value


def _whole(environment: Mapping[str, str], name: str, default: int, low: int, high: int, faults: list[str]) -> int:
    text = environment.get(name, "")
    if text and not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        faults.append(f"{name} must be a whole number from {low} to {high}")
        return default
    return int(text) if text else default


def _networks(environment: Mapping[str, str], name: str, faults: list[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(ip_network(each) for each in re.split("[ ,]+", environment.get(name, "").strip()) if each)
    except ValueError:
        faults.append(f"{name} must be addresses or networks with commas between them, such as 10.0.0.5,fd00::/8")
        return ()


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """Reads and validates all settings.

    Raises SettingsError with one line per fault; values are not repeated, since a URL may hold a password.
    """
    faults = [f"{name} is not a setting; known are: {', '.join(sorted(VARIABLES))}"
              for name in sorted(environment) if name.startswith("SWITCH_") and name not in VARIABLES]
    home = Path(environment.get("SWITCH_HOME") or ".switch").absolute()
    database_url = environment.get("SWITCH_DATABASE_URL") or None
    if database_url is not None and not database_url.startswith(("postgresql://", "postgres://")):
        faults.append("SWITCH_DATABASE_URL must start with postgresql://")
    log_level = environment.get("SWITCH_LOG_LEVEL") or "info"
    if log_level not in LEVELS:
        faults.append(f"SWITCH_LOG_LEVEL must be one of: {', '.join(LEVELS)}")
    targets = environment.get("SWITCH_WEBHOOK_TARGETS") or "public"
    if targets not in WEBHOOK_TARGETS:
        faults.append(f"SWITCH_WEBHOOK_TARGETS must be one of: {', '.join(WEBHOOK_TARGETS)}")
    hsm = environment.get("SWITCH_HSM") or "none"
    if hsm not in HSMS:
        faults.append(f"SWITCH_HSM must be one of: {', '.join(HSMS)}")
    postgres_bin = environment.get("SWITCH_POSTGRES_BIN")
    if postgres_bin and not (Path(postgres_bin) / "initdb").exists():
        faults.append("SWITCH_POSTGRES_BIN must be a folder that holds initdb and postgres")
    if home.exists() and not home.is_dir():
        faults.append("SWITCH_HOME must be a folder; a file stands there")
    settings = Settings(
        home=home,
        host=environment.get("SWITCH_HOST") or "127.0.0.1",
        port=_whole(environment, "SWITCH_PORT", 8000, 0, 65535, faults),
        database_url=database_url,
        keys_file=Path(environment.get("SWITCH_KEYS_FILE") or home / "keys.json"),
        postgres_bin=Path(postgres_bin) if postgres_bin else None,
        log_level=log_level,
        max_connections=_whole(environment, "SWITCH_MAX_CONNECTIONS", 2000, 10, 100_000, faults),
        commit_budget_s=_number(environment, "SWITCH_COMMIT_BUDGET", 3, 0.1, 60, faults),
        sign_on_wait_s=_number(environment, "SWITCH_SIGN_ON_WAIT", 5, 0, 600, faults),
        http_deadline_s=_number(environment, "SWITCH_HTTP_DEADLINE", 35, 1, 600, faults),
        workers=_whole(environment, "SWITCH_WORKERS", 1, 1, WORKERS_MAX, faults),
        admin_port=_whole(environment, "SWITCH_ADMIN_PORT", 0, 0, 65535, faults),
        schedules=environment.get("SWITCH_SCHEDULES") != "off",
        undelivered_after_s=_number(environment, "SWITCH_UNDELIVERED_AFTER", 900, 0.1, 86_400, faults),
        webhooks_anywhere=targets == "any",
        hsm=hsm,
        rehearsal=environment.get("SWITCH_TESTING") == "1",
        trusted_proxies=_networks(environment, "SWITCH_TRUSTED_PROXIES", faults),
    )
    if environment.get("SWITCH_SCHEDULES", "") not in ("", "on", "off"):
        faults.append("SWITCH_SCHEDULES must be on or off")
    if environment.get("SWITCH_TESTING", "") not in ("", "1"):
        faults.append("SWITCH_TESTING must be 1, in a test, and is not set otherwise")
    if fault := failpoints.plan(environment).fault:
        faults.append(fault)
    if faults:
        raise SettingsError("\n".join(faults))
    return settings
