"""The first `admin` account: made at start when the store has none yet."""

from __future__ import annotations

from typing import Final

from twisted.internet.task import deferLater
from twisted.logger import Logger

from penncloud.platform.config import Cluster, Http, parse_address
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError, PennCloudError
from penncloud.rpc.auth import is_loopback
from penncloud.services.accounts import ADMIN, Accounts, NameTaken
from penncloud.services.passwords import DEFAULT_PASSWORD, BadPassword

# Pauses between attempts while the store is not there yet: roles may start in any order.
_FIRST_PAUSE_S: Final = 0.25
_LAST_PAUSE_S: Final = 5.0

_log = Logger()


def is_loopback_only(cluster: Cluster, config: Http) -> bool:
    """Whether nobody can reach this cluster from another machine."""
    hosts = [parse_address(address)[0] for address in cluster.coordinators]
    hosts.append(config.host)
    if config.advertise:
        hosts.append(config.advertise)
    return all(is_loopback(host) for host in hosts)


async def ensure_admin(
    accounts: Accounts, environment: Environment, cluster: Cluster, config: Http
) -> None:
    """Make the admin account if it is missing; waits for the store as long as it takes.

    Raises ConfigurationError if it is missing and there is no password for it: the well-known one is
    for clusters that only their own machine can reach.
    """
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            if await accounts.exists(ADMIN):
                return
            await _create(accounts, cluster, config)
            return
        except PennCloudError as error:
            if not error.retryable:
                raise
            _log.info("the store cannot be asked for the admin yet: {error}", error=str(error))
        await deferLater(environment.reactor, pause_s, lambda: None)
        pause_s = min(pause_s * 2, _LAST_PAUSE_S)


async def _create(accounts: Accounts, cluster: Cluster, config: Http) -> None:
    password, is_default = config.admin_password, False
    if not password:
        if not is_loopback_only(cluster, config):
            raise ConfigurationError(
                "[http]: admin_password: the first start of a cluster that other machines can reach"
                " needs a password for the account admin, as --admin-password"
            )
        password, is_default = DEFAULT_PASSWORD, True
    try:
        await accounts.create(ADMIN, password, reserved_names=True, default_password=is_default)
    except NameTaken:
        # Another frontend was quicker.
        return
    except BadPassword as error:
        raise ConfigurationError(f"[http]: admin_password: {error}") from error
    _log.info("made the account admin")
