"""A fault lasts from when it has begun, however long that takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.torture.bed import Bed
from penncloud.torture.run import Order, Run
from tests.rpc.world import environment


@define(eq=False)
class _SlowToBegin:
    begun: Deferred[None] = field(factory=Deferred)
    ended: bool = False
    at_s = 0.0
    for_s = 2.0
    kind = "slow"
    alone = True

    async def begin(self, bed: Bed) -> None:
        await self.begun

    def end(self, bed: Bed) -> None:
        self.ended = True


class FaultTests(SynchronousTestCase):
    def test_ends_after_it_has_begun(self) -> None:
        """A server that takes long to die is not revived before it is dead."""
        clock, fault = Clock(), _SlowToBegin()
        bed: Any = None
        run = Run(environment(clock), bed, Order(1, 60.0, ()), Path(), lambda _: None)
        beginning = Deferred.fromCoroutine(run._begin(fault))
        clock.advance(10)
        self.assertFalse(fault.ended)
        fault.begun.callback(None)
        self.successResultOf(beginning)
        clock.advance(1.9)
        self.assertFalse(fault.ended)
        clock.advance(0.1)
        self.assertTrue(fault.ended)
