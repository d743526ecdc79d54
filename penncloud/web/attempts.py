"""How often somebody may try to get in: one count for a frontend, whichever of its processes is asked."""

from __future__ import annotations

from typing import Any, Final, Protocol

from penncloud.services.throttle import Throttle

# Wrong passwords per account and address, and per address (many names tried from one place).
_LOGINS: Final = 10
_LOGINS_OF_ADDRESS: Final = 200
# New accounts per address; a household or an office behind one address stays below.
_SIGN_UPS: Final = 200
_WINDOW_S: Final = 900.0
# Names that cannot be anybody's share keys: they cannot fill the memory either.
NAME_CHARACTERS: Final = 64


class Attempts(Protocol):
    """The counts. Attempts are counted before they are made; what is asked may raise a retryable
    PennCloudError when the count is not to be had."""

    async def log_in(self, name: str, address: str) -> float:
        """0.0 if the password may be tried, else the seconds to wait."""
        ...

    async def sign_up(self, address: str) -> float:
        """0.0 if an account may be made, else the seconds to wait."""
        ...

    def was_legitimate(self, name: str, address: str) -> None:
        """The last attempt to log in had the right password."""
        ...


class CountedHere:
    """The counts, in this process. `clock` has IReactorTime."""

    def __init__(self, clock: Any) -> None:
        self._by_name = Throttle(clock, _LOGINS, _WINDOW_S)
        self._by_address = Throttle(clock, _LOGINS_OF_ADDRESS, _WINDOW_S)
        self._sign_ups = Throttle(clock, _SIGN_UPS, _WINDOW_S)

    def count_log_in(self, name: str, address: str) -> float:
        """As `log_in`, at once."""
        by_name = self._by_name.attempt((name[:NAME_CHARACTERS], address))
        return max(by_name, self._by_address.attempt(address))

    def count_sign_up(self, address: str) -> float:
        """As `sign_up`, at once."""
        return self._sign_ups.attempt(address)

    async def log_in(self, name: str, address: str) -> float:
        return self.count_log_in(name, address)

    async def sign_up(self, address: str) -> float:
        return self.count_sign_up(address)

    def was_legitimate(self, name: str, address: str) -> None:
        self._by_name.forgive((name[:NAME_CHARACTERS], address))
        self._by_address.take_back(address)
