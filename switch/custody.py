"""The keys of this worker: the security module, what is in force, and what each line and each PIN needs of it."""

from collections.abc import Awaitable, Callable, Mapping

from switch import logs
from switch.alerts import Alerts
from switch.background import Background
from switch.clock import clock
from switch.database import Connection, Pool
from switch.errors import StartError
from switch.ids import show
from switch.merchants.crypto_keys import CryptoKeys
from switch.merchants.device_keys import DeviceKeys
from switch.records import Acquirer
from switch.security.hsm import Handle, Hsm
from switch.security.keystore import KeyStore
from switch.security.line_keys import AcquirerKeys
from switch.security.software_hsm import WHY_NOT, SoftwareHsm
from switch.security.vault import Keyring, Vault, VaultError
from switch.settings import Settings


def open_vault(settings: Settings) -> Vault:
    """The keys, made when there are none. Raises StartError."""
    try:
        return Vault(Keyring.create(settings.keys_file))
    except (VaultError, OSError) as error:
        raise StartError(f"the key file {settings.keys_file} cannot be used ({error}); it must be ours, mode 0600, and not empty") from None


def open_hsm(settings: Settings, keyring: Keyring) -> Hsm | None:
    """The security module, if there is one. Raises StartError: one in software outside the demo and tests."""
    if settings.hsm == "none":
        return None
    if not settings.rehearsal:
        raise StartError(WHY_NOT)
    return SoftwareHsm(keyring)


class Custody:
    def __init__(self, settings: Settings, keyring: Keyring, pool: Pool, alarm: Alerts) -> None:
        """Raises StartError."""
        self.hsm, self.alarm = open_hsm(settings, keyring), alarm
        self.store, self.crypto_keys = KeyStore(clock.now), CryptoKeys(pool, self.hsm)
        self.device_keys = DeviceKeys(pool, self.hsm, self.store)
        self.background = Background()

    async def load(self, connection: Connection) -> None:
        """Before any line. Raises StartError: there are keys, and no module that could use them."""
        await self.store.refresh(connection)
        if self.hsm is None and self.store.current:
            raise StartError("keys are loaded, and there is no security module to use them; set SWITCH_HSM as it was when they were")
        await self.crypto_keys.rewrap()

    async def work(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        """Follows the keys until cancelled."""
        try:
            await self.store.follow(connect)
        finally:
            await self.background.end()

    def keys_of(self, acquirer: Acquirer) -> AcquirerKeys:
        """What its line needs: working keys of a sign-on are in force at once, and written down behind it."""
        def installed(keys: list[Handle]) -> None:
            self.background.later(self.crypto_keys.installed(acquirer.acquirer_id, keys))

        def refused(reason: str) -> None:
            logs.error("working_keys_refused", acquirer=acquirer.name, reason=reason)
            self.background.later(self.alarm.raise_("working_keys_refused", show("acquirer", acquirer.acquirer_id)))

        return AcquirerKeys(acquirer.acquirer_id, acquirer.dialect, self.store, self.hsm, installed, refused)

    def installer_of(self, acquirer: Acquirer) -> Callable[[Mapping[str, str]], Awaitable[str]] | None:
        """Who takes the keys that its host sends unasked, and says with which DE39 that is answered. None: its dialect has no place for them."""
        if acquirer.dialect.key_exchange is None:
            return None
        keys, rule = self.keys_of(acquirer), acquirer.dialect.network_rule

        async def install(message: Mapping[str, str]) -> str:
            return rule.approved if keys.changed(message) else rule.refused

        return install
