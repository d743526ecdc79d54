"""Accounts: who may log in.

Rows
    user/NAME     account            the `_Record` below as JSON
                  logins             time of the latest login; its version changes with every login
                  session/HASH       one session each (see `sessions.py`)
    users/index   NAME               empty; every name that was ever asked for

An account's sessions live in its own row, so that changing a password and ending the sessions is one
atomic mutation. A name is taken by writing `account` on the condition that it is missing. The index
entry is written first: after a crash in between it names an account that does not exist, which
`list` leaves out.

Whoever makes an account may not learn that it was made: the store's answer, or ours, was lost. `account`
therefore keeps a hash of a secret of its maker, so that who asks again is not told that the name is taken.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Final

import msgspec
from argon2 import PasswordHasher
from attrs import frozen

from penncloud.client.table import (
    Conflict,
    DeleteCell,
    IfVersion,
    PutCell,
    SubOperation,
    Table,
    Unavailable,
    prefix_stop,
)
from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError
from penncloud.services.passwords import Passwords, check_password

ADMIN: Final = "admin"
# Names with a meaning of their own (RFC 2142 and the admin): never given away by signing up.
RESERVED: Final = frozenset(
    {ADMIN, "abuse", "hostmaster", "mailer-daemon", "postmaster", "root", "security", "webmaster"}
)
SESSION_PREFIX: Final = b"session/"
LOGINS: Final = b"logins"
_ACCOUNT: Final = b"account"
_INDEX: Final = b"users/index"
# Every name is the local part of a mail address, a dot-atom (RFC 5322 section 3.2.3).
_NAME: Final = re.compile(r"(?!.*\.\.)[a-z](?:[a-z0-9._-]{0,30}[a-z0-9_-])?")
# Attempts of a mutation that loses against a concurrent one of the same account.
_ATTEMPTS: Final = 8
# Sessions deleted in one mutation; with the other sub-operations below the wire's MAX_MUTATIONS.
_SESSIONS_AT_ONCE: Final = 200


class BadName(PennCloudError):
    """Not a possible user name; the text tells what is."""


class NameTaken(PennCloudError):
    """Somebody has this name already, or it is reserved."""


class NoSuchAccount(PennCloudError):
    """There is no account of this name."""


class WrongPassword(PennCloudError):
    """The present password that was given is not the right one."""


class _Record(msgspec.Struct, frozen=True):
    password: str  # argon2id hash
    created: float  # Unix seconds
    disabled: bool = False
    default_password: bool = False
    maker: str = ""  # see `_maker`; empty: not known, as of all accounts that earlier versions made


@frozen
class Account:
    """An account as it was read; `version` is its cell's."""

    name: str
    created: float
    disabled: bool
    default_password: bool
    version: int

    @property
    def is_admin(self) -> bool:
        return self.name == ADMIN


def is_name(name: str) -> bool:
    """Whether `name` could be the name of an account."""
    return _NAME.fullmatch(name) is not None


def user_row(name: str) -> bytes:
    return b"user/" + name.encode()


class Accounts:
    """Every method raises `client.table.Unavailable` when the store does not answer in time."""

    def __init__(
        self, table: Table, environment: Environment, hasher: PasswordHasher | None = None
    ) -> None:
        self._table = table
        self._environment = environment
        self.passwords = Passwords(environment.run_in_thread, hasher)

    async def create(
        self,
        name: str,
        password: str,
        *,
        reserved_names: bool = False,
        default_password: bool = False,
        maker: str = "",
    ) -> Account:
        """A new account; raises BadName, NameTaken or BadPassword.

        `reserved_names` lets an administrator make the reserved ones; `default_password` marks a
        password that its owner is to change (and lets it be the well-known one). `maker` is a secret
        of whoever asks, by which `was_made_by` knows them again; empty for nobody.
        """
        if not is_name(name):
            raise BadName(
                "A name has 1 to 32 characters: small letters, digits, '.', '_' and '-'."
                " It begins with a letter, does not end with a dot and has no two in a row."
            )
        if name in RESERVED and not reserved_names:
            raise NameTaken(f"The name {name} is taken.")
        if not default_password:
            check_password(name, password)
        if await self.exists(name):
            raise NameTaken(f"The name {name} is taken.")
        record = _Record(
            password=await self.passwords.hash(password),
            created=self._environment.now(),
            default_password=default_password,
            maker=_maker(maker) if maker else "",
        )
        await self._table.put(_INDEX, name.encode(), b"")
        try:
            version = await self._table.put_if_version(
                user_row(name), _ACCOUNT, 0, msgspec.json.encode(record)
            )
        except Conflict as conflict:
            raise NameTaken(f"The name {name} is taken.") from conflict
        return _account(name, record, version)

    async def exists(self, name: str) -> bool:
        """Whether there is an account of this name, disabled or not."""
        return is_name(name) and await self._table.get(user_row(name), _ACCOUNT) is not None

    async def was_made_by(self, name: str, maker: str) -> bool:
        """Whether the account of this name was made with this secret.

        It says who asked for the account, not who may use it: that is for `verify` to say.
        """
        found = await self._read(name)
        if found is None or not maker or not found[0].maker:
            return False
        return hmac.compare_digest(found[0].maker, _maker(maker))

    async def get(self, name: str) -> Account | None:
        found = await self._read(name)
        return None if found is None else _account(name, *found)

    async def verify(self, name: str, password: str) -> Account | None:
        """The account, if it is enabled and this is its password.

        None in all other cases, after the same time: see `Passwords.verify`.
        """
        found = await self._read(name)
        right = await self.passwords.verify(found[0].password if found else None, password)
        if found is None or not right or found[0].disabled:
            return None
        return _account(name, *found)

    async def change_password(self, name: str, old: str, new: str) -> Account:
        """Set a new password and end all sessions of the account, in one step.

        Raises WrongPassword when `old` is not right, BadPassword when `new` is not acceptable.
        """
        account = await self.verify(name, old)
        if account is None:
            raise WrongPassword("The present password is not right.")
        return await self._set_password(name, new, account.version)

    async def set_password(self, name: str, new: str) -> Account:
        """The administrator's way: as `change_password`, without the old one."""
        return await self._set_password(name, new, None)

    async def _set_password(self, name: str, new: str, version: int | None) -> Account:
        check_password(name, new)
        hashed = await self.passwords.hash(new)
        return await self._change(
            name, version, end_sessions=True, password=hashed, default_password=False
        )

    async def disable(self, name: str, disabled: bool) -> Account:
        """Let the account log in or not; disabling ends its sessions."""
        return await self._change(name, None, end_sessions=disabled, disabled=disabled)

    async def names(self, start: str = "", limit: int = 100) -> Sequence[str]:
        """Up to `limit` names from `start` on, in order; some may never have become accounts.

        This reads no account, so it does not depend on where they lie.
        """
        page = await self._table.scan(_INDEX, start.encode(), limit=limit)
        return [cell.col.decode() for cell in page.cells]

    async def list(self, start: str = "", limit: int = 100) -> list[Account]:
        """Up to `limit` accounts with names from `start` on, in the order of their names."""
        accounts: list[Account] = []
        begin = start.encode()
        while len(accounts) < limit:
            page = await self._table.scan(_INDEX, begin, limit=min(limit, 100))
            for cell in page.cells:
                account = await self.get(cell.col.decode())
                if account is not None and len(accounts) < limit:
                    accounts.append(account)
            if not page.more:
                break
            begin = page.cells[-1].col + b"\x00"
        return accounts

    async def _read(self, name: str) -> tuple[_Record, int] | None:
        if not is_name(name):
            return None
        cell = await self._table.get(user_row(name), _ACCOUNT)
        if cell is None:
            return None
        return msgspec.json.decode(cell.value, type=_Record), cell.version

    async def _change(
        self, name: str, version: int | None, *, end_sessions: bool, **changes: str | bool
    ) -> Account:
        """Write the changes. `version`: only while the account is as it was when its password was verified,
        so that who knows an old one does not undo what was set since."""
        for _ in range(_ATTEMPTS):
            found = await self._read(name)
            if found is None:
                raise NoSuchAccount(f"There is no account {name}.")
            if version not in (None, found[1]):
                raise WrongPassword("The account was changed meanwhile; please try again.")
            record = msgspec.structs.replace(found[0], **changes)
            operations: list[SubOperation] = [
                IfVersion(_ACCOUNT, found[1]),
                PutCell(_ACCOUNT, msgspec.json.encode(record)),
            ]
            if end_sessions:
                operations.extend(await self._ending_sessions(name))
            try:
                changed = await self._table.mutate(user_row(name), operations)
            except Conflict:
                continue
            return _account(name, record, changed)
        raise Unavailable(f"the account {name} is being changed by others all the time")

    async def _ending_sessions(self, name: str) -> Sequence[SubOperation]:
        """Sub-operations that delete every session, and fail if one begins in the meantime."""
        row = user_row(name)
        while True:
            logins = await self._table.get(row, LOGINS)
            page = await self._table.scan(
                row, SESSION_PREFIX, prefix_stop(SESSION_PREFIX), limit=_SESSIONS_AT_ONCE
            )
            deletions = [DeleteCell(cell.col) for cell in page.cells]
            if not page.more:
                return [IfVersion(LOGINS, logins.version if logins else 0), *deletions]
            await self._table.mutate(row, deletions)


def _account(name: str, record: _Record, version: int) -> Account:
    return Account(name, record.created, record.disabled, record.default_password, version)


def _maker(secret: str) -> str:
    """What the store keeps of a maker's secret: a reader of the store cannot pass for the maker."""
    return hashlib.sha256(b"maker\0" + secret.encode()).hexdigest()


def login_condition(account: Account) -> IfVersion:
    """Holds while the account is as it was when its password was verified."""
    return IfVersion(_ACCOUNT, account.version)
