"""Sessions: who is logged in, known to every frontend.

A session's token is 256 random bits. The browser keeps `NAME:TOKEN` in a cookie; the store keeps only
the token's SHA-256 (a reader of the store cannot log in with it), as the column `session/HASH` of the
account's row (see `accounts.py`). The CSRF token is derived from the token, so it needs no room and
ends with the session.

A session is given out only if the account has not changed since the password was verified, in one
mutation; a password change deletes all of them in one mutation. So none outlives a password change.

While the tablet of an account's row is not available, a session that this process saw alive a short time
ago goes on: the rest of the cloud stays usable, and the admin can start the very storage server that
holds the admin's row. Nobody can end a session meanwhile, as that writes the same row. What remains is
one that was ended on another frontend just before; `_REMEMBERED_S` bounds that.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import OrderedDict
from typing import Final

import msgspec
from attrs import define, frozen
from twisted.logger import Logger

from penncloud.client.table import (
    Conflict,
    DeleteCell,
    PutCell,
    SubOperation,
    Table,
    Unavailable,
    prefix_stop,
)
from penncloud.platform.environment import Environment
from penncloud.services.accounts import (
    ADMIN,
    LOGINS,
    SESSION_PREFIX,
    Account,
    is_name,
    login_condition,
    user_row,
)

_TOKEN_BYTES: Final = 32
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
# Sessions of one account; the oldest make room for a new one.
MAX_PER_ACCOUNT: Final = 64
# The expiry is moved on once this much of the lifetime is used up, not at every request.
_SLIDE_AFTER_S: Final = 3600.0
# How long after it was last seen alive a session goes on without the store, in seconds.
_REMEMBERED_S: Final = 300.0
# Sessions remembered by one process; the longest unseen are forgotten first.
_MAX_REMEMBERED: Final = 10_000
# How long a remembered session's request waits for the store, and for how long the store is not asked
# again after it waited in vain: less than a person's patience.
_PATIENCE_S: Final = 2.0
_PAUSE_S: Final = 5.0


class _Record(msgspec.Struct, frozen=True):
    created: float  # Unix seconds
    expires: float
    default_password: bool = False


@define
class _Remembered:
    """A session that was seen alive at `seen_s` of the reactor's clock."""

    record: _Record
    seen_s: float
    unasked_until_s: float = 0.0


@frozen
class Session:
    """One login. `id` may be shown and logged; `cookie` must not."""

    name: str
    id: str
    cookie: str
    csrf: str
    expires: float
    default_password: bool
    # The expiry has just been moved on: the cookie's has to follow.
    slid: bool = False

    @property
    def is_admin(self) -> bool:
        return self.name == ADMIN


def csrf_token(secret: str) -> str:
    """What a form has to bring along to be believed; does not reveal `secret`."""
    return _encode(hashlib.sha256(b"csrf\0" + secret.encode()).digest())


class Sessions:
    """Every method raises `client.table.Unavailable` when the store does not answer in time."""

    log = Logger()

    def __init__(self, table: Table, environment: Environment, lifetime_s: float) -> None:
        self._table = table
        self._environment = environment
        self._clock = environment.reactor
        self.lifetime_s = lifetime_s
        self._slide_after_s = min(_SLIDE_AFTER_S, lifetime_s / 10)
        # By cookie, longest unseen first.
        self._seen: OrderedDict[str, _Remembered] = OrderedDict()

    async def start(self, account: Account) -> Session | None:
        """A new session for an account as `Accounts.verify` gave it.

        None if the account was changed (password, disabled) since.
        """
        now = self._environment.now()
        token = _encode(self._environment.entropy(_TOKEN_BYTES))
        record = _Record(now, now + self.lifetime_s, account.default_password)
        operations: list[SubOperation] = [
            login_condition(account),
            PutCell(LOGINS, str(now).encode()),
            PutCell(_column(token), msgspec.json.encode(record)),
            *await self._superfluous(account.name, now),
        ]
        try:
            await self._table.mutate(user_row(account.name), operations)
        except Conflict:
            return None
        return _session(account.name, token, record)

    async def find(self, cookie: str) -> Session | None:
        """The live session of a cookie, or None; moves its expiry on when it is time."""
        name, _, token = cookie.partition(":")
        if not is_name(name) or not _TOKEN.fullmatch(token):
            return None
        remembered = self._recall(cookie)
        row, column = user_row(name), _column(token)
        now = self._environment.now()
        if remembered is not None and remembered.record.expires <= now:
            remembered = None
        if remembered is not None and remembered.unasked_until_s > self._clock.seconds():
            return _session(name, token, remembered.record)
        try:
            cell = await self._table.get(
                row, column, deadline_s=None if remembered is None else _PATIENCE_S
            )
        except Unavailable:
            if remembered is None:
                raise
            remembered.unasked_until_s = self._clock.seconds() + _PAUSE_S
            return _session(name, token, remembered.record)
        if cell is None:
            self._seen.pop(cookie, None)
            return None
        record = msgspec.json.decode(cell.value, type=_Record)
        if record.expires <= now:
            return None
        self._remember(cookie, record)
        if record.expires - now > self.lifetime_s - self._slide_after_s:
            return _session(name, token, record)
        record = msgspec.structs.replace(record, expires=now + self.lifetime_s)
        try:
            # By version, so that a session that ends meanwhile is not brought back.
            await self._table.put_if_version(row, column, cell.version, msgspec.json.encode(record))
        except Conflict as conflict:
            return _session(name, token, record) if conflict.version else None
        except Unavailable as error:
            self.log.warn("session of {name} not prolonged: {error}", name=name, error=str(error))
        return _session(name, token, record, slid=True)

    async def end(self, session: Session) -> None:
        """Log out; ending twice is no error."""
        self._seen.pop(session.cookie, None)
        await self._table.delete(
            user_row(session.name), SESSION_PREFIX + session.id.encode("ascii")
        )

    def _remember(self, cookie: str, record: _Record) -> None:
        self._seen[cookie] = _Remembered(record, self._clock.seconds())
        self._seen.move_to_end(cookie)
        if len(self._seen) > _MAX_REMEMBERED:
            self._seen.popitem(last=False)

    def _recall(self, cookie: str) -> _Remembered | None:
        found = self._seen.get(cookie)
        if found is None or self._clock.seconds() - found.seen_s > _REMEMBERED_S:
            return None
        return found

    async def _superfluous(self, name: str, now: float) -> list[SubOperation]:
        """Deletions of the expired sessions, and of the oldest beyond the limit."""
        page = await self._table.scan(
            user_row(name), SESSION_PREFIX, prefix_stop(SESSION_PREFIX), limit=200
        )
        live: list[tuple[float, bytes]] = []
        gone: list[bytes] = []
        for cell in page.cells:
            record = msgspec.json.decode(cell.value, type=_Record)
            if record.expires <= now:
                gone.append(cell.col)
            else:
                live.append((record.created, cell.col))
        live.sort()
        gone.extend(column for _, column in live[: max(0, len(live) + 1 - MAX_PER_ACCOUNT)])
        return [DeleteCell(column) for column in gone]


def _column(token: str) -> bytes:
    return SESSION_PREFIX + hashlib.sha256(token.encode()).hexdigest().encode()


def _session(name: str, token: str, record: _Record, slid: bool = False) -> Session:
    return Session(
        name=name,
        id=_column(token).removeprefix(SESSION_PREFIX).decode(),
        cookie=f"{name}:{token}",
        csrf=csrf_token(token),
        expires=record.expires,
        default_password=record.default_password,
        slid=slid,
    )


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
