"""Passwords: which are accepted, and how they are kept (argon2id, RFC 9106)."""

from __future__ import annotations

from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from penncloud.platform.environment import RunInThread
from penncloud.platform.errors import PennCloudError

# NIST SP 800-63B: length counts, composition rules do not.
MIN_CHARACTERS: Final = 8
# Bounds the work that one request can ask of the hash.
MAX_BYTES: Final = 1024
# The password of a fresh loopback-only cluster's admin; nobody may choose it.
DEFAULT_PASSWORD: Final = "password"


class BadPassword(PennCloudError):
    """The password cannot be accepted; the text tells its chooser why."""


def check_password(name: str, password: str) -> None:
    """Raise BadPassword unless `password` may become the password of account `name`."""
    if len(password) < MIN_CHARACTERS:
        raise BadPassword(f"A password needs at least {MIN_CHARACTERS} characters.")
    if len(password.encode()) > MAX_BYTES:
        raise BadPassword(f"A password has at most {MAX_BYTES} bytes.")
    if password.casefold() in (name.casefold(), DEFAULT_PASSWORD):
        raise BadPassword("This password is too easy to guess.")


def argon2id() -> PasswordHasher:
    """19 MiB, two passes, one lane: OWASP's recommended low-memory setting, 20-40 ms per hash."""
    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


class Passwords:
    """Hashes and verifies off the reactor; may raise `platform.threads.PoolBusy` (retryable)."""

    def __init__(self, run_in_thread: RunInThread, hasher: PasswordHasher | None = None) -> None:
        self._run_in_thread = run_in_thread
        self._hasher = hasher or argon2id()
        self._decoy = ""

    async def hash(self, password: str) -> str:
        """The hash to store, salt and parameters included."""
        return await self._run_in_thread(self._hasher.hash, password)

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether `password` is the one of the `stored` hash.

        Without a stored hash (no such account) it takes as long as with one and is False: neither
        answer nor time tells whether an account exists.
        """
        if len(password.encode()) > MAX_BYTES:
            return False
        if stored is None:
            stored = await self._decoy_hash()
            await self._run_in_thread(self._matches, stored, password)
            return False
        return await self._run_in_thread(self._matches, stored, password)

    async def prepare(self) -> None:
        """Make the decoy, so that the first unknown name does not take twice as long."""
        await self._decoy_hash()

    async def _decoy_hash(self) -> str:
        if not self._decoy:
            self._decoy = await self.hash("the password of nobody")
        return self._decoy

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False
