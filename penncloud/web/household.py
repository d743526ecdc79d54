"""What a frontend does once, however many processes answer its requests.

It is registered with the coordinators, has the first admin's account made, and sweeps up after the users.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from twisted.internet.defer import CancelledError, Deferred

from penncloud.client.table import Table
from penncloud.platform.config import Cluster, Http
from penncloud.platform.environment import Environment
from penncloud.rpc.registration import MailPart, OnCoordinators, Registration, Worker, identity
from penncloud.services.accounts import Accounts
from penncloud.services.blobs import Blobs, Sweeper
from penncloud.services.files import Files
from penncloud.services.mail.bodies import Bodies
from penncloud.services.mail.mailbox import Mailbox
from penncloud.web.first_admin import ensure_admin


class Household:
    """Of one frontend. `mail` tells what the mail server within it does, `workers` of its processes, where it
    has several."""

    def __init__(
        self,
        environment: Environment,
        cluster: Cluster,
        role: Http,
        *,
        table: Table,
        accounts: Accounts,
        on_coordinators: OnCoordinators,
        mail: Callable[[], MailPart],
        workers: Callable[[], Sequence[Worker]] = tuple,
    ) -> None:
        self._environment = environment
        self._cluster = cluster
        self._role = role
        self._accounts = accounts
        self._on_coordinators = on_coordinators
        self._mail = mail
        self._workers = workers
        self._table = table
        blobs = Blobs(table, environment.entropy)
        files = Files(table, blobs, environment)
        self._bodies = Bodies(table, blobs, environment)
        self._sweeper = Sweeper(environment, self.account_names, [files.collect, self.release_mail])
        self._registration: Registration | None = None
        self._preparing: Deferred[None] | None = None

    def start(self, port: int) -> None:
        """Register, as listening on `port`, and begin to sweep. Raises ConfigurationError."""
        self._registration = Registration(
            self._environment,
            self._cluster,
            identity("http", self._role, port, self._environment.pid),
            on_coordinators=self._on_coordinators,
            mail=self._mail,
            workers=self._workers,
        )
        self._registration.start()
        self._sweeper.start()

    async def prepare(self) -> None:
        """Returns when the admin account is known to exist, which needs the store, or at `stop`."""
        ensuring = ensure_admin(self._accounts, self._environment, self._cluster, self._role)
        self._preparing = Deferred.fromCoroutine(ensuring)
        try:
            await self._preparing
        except CancelledError:
            return

    @property
    def is_preparing(self) -> bool:
        """Whether the store is still awaited."""
        return self._preparing is not None and not self._preparing.called

    def trouble(self) -> str:
        """Why the cluster does not know of the frontend; "" if it does."""
        return "it does not run" if self._registration is None else self._registration.trouble()

    async def stop(self) -> None:
        """Take leave."""
        if self._preparing is not None:
            self._preparing.cancel()
        self._sweeper.stop()
        registration, self._registration = self._registration, None
        if registration is not None:
            await registration.stop()

    async def account_names(self) -> AsyncIterator[str]:
        """Whose files and mail the sweeper looks after: everybody's, page by page.

        The accounts themselves are not read: one that is out of reach must not hide those behind it.
        """
        start = ""
        while names := await self._accounts.names(start):
            for name in names:
                yield name
            # The next name in byte order; NUL is in no name.
            start = names[-1] + "\0"

    async def release_mail(self, name: str) -> None:
        """Remove the texts of mail that an account deleted while they were out of reach."""
        mailbox = Mailbox(self._table, self._bodies, self._environment, name)
        await mailbox.forget_given_up()
        await mailbox.release_deleted()
