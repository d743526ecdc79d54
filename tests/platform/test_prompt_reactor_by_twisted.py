"""Twisted's own tests of reactors, on ours: all that stand for its epoll reactor are made once more."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from twisted.trial.unittest import SynchronousTestCase

# In twisted.internet.test.
_MODULES: Final = "core fdset newtls process socket stdio tcp threads time tls udp unix"
_STOCK: Final = "_EPollReactorTests"
# A reactor that does not end is told so long before trial's bound.
_WITHIN_S: Final = 60
# Not ours to pass: the first is skipped by the epoll reactor's name, for what epoll itself does; the second
# runs only as root, and needs that every user of the machine may read this Python.
_SKIPPED: Final = {
    "test_lostFileDescriptor": "epoll does not tell of descriptors that are closed",
    "test_changeUID": "needs a Python that every user may read",
}


def _ours() -> dict[str, type[SynchronousTestCase]]:
    cases: dict[str, type[SynchronousTestCase]] = {}
    for name_of_module in _MODULES.split():
        module = import_module(f"twisted.internet.test.test_{name_of_module}")
        for name, case in vars(module).items():
            if not name.endswith(_STOCK):
                continue
            (builder, _) = case.__bases__
            attributes: dict[str, Any] = {
                "_reactors": ["penncloud.platform.prompt_reactor.PromptReactor"],
                "timeout": _WITHIN_S,
            }
            for test, why in _SKIPPED.items():
                if hasattr(builder, test):
                    attributes[test] = _skipped(why)
            made: dict[str, Any] = type(
                builder.__name__, (builder,), attributes
            ).makeTestCaseClasses()  # type: ignore[attr-defined]
            for of_ours in made.values():
                # Trial looks for the tests of a module by what its classes say.
                of_ours.__module__ = __name__
            cases.update(made)
    return cases


def _skipped(why: str) -> Any:
    def test(self: SynchronousTestCase) -> None:
        """Not asked of this reactor."""

    test.skip = why  # type: ignore[attr-defined]
    return test


_CASES: Final = _ours()
globals().update(_CASES)


class CompleteTests(SynchronousTestCase):
    def test_there_are_tests(self) -> None:
        """Twisted's way of making these tests has not changed such that none are made here."""
        self.assertGreater(len(_CASES), 30)
