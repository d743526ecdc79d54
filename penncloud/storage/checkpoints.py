"""Checkpoints on their way between servers: served in pieces, staged, installed.

The stream
    A checkpoint is one sequence of bytes: its description (`lsm.transfer.encode_description`), then the
    files that it names, one behind the other. The first piece is the description as a whole, each
    further one a chunk of one file, so that every piece can be checked by itself. The number of a
    checkpoint names one set of files on one disk for ever (`Engine.on_checkpoint`): a transfer that was
    interrupted goes on with the same number, or begins anew with another.

Sending
    Files are held from the first piece that is asked for until `SENT_S` after the last one has gone (it may
    be asked for again), or until nobody has asked for `IDLE_S`. At most `transfers` that are not at their
    end are held at a time. Who asks for one more, or for a checkpoint that is
    not the latest any more, gets nothing and is offered one again.

Receiving
    `lsm/incoming/TABLET/origin` remembers whose checkpoint it is: one record of `lsm.record` at position
    0 whose payload is a msgpack map {source, number, version, entry_cfg}. It is written after everything
    of an earlier transfer is gone. A piece is on the disk before the next one is asked for. A start
    checks what is there against the description's checksums and goes on behind it.

Both directions pass a throttle, so that clients hardly notice.
"""

from __future__ import annotations

from typing import Any, Final
from zlib import crc32

import msgspec
from attrs import define, frozen
from twisted.logger import Logger

from penncloud.lsm.engine import Engine, TabletRecovery
from penncloud.lsm.errors import (
    NoSuchTablet,
    Overloaded,
    StoreDamaged,
    TableDamaged,
    TabletDamaged,
)
from penncloud.lsm.record import decode, encode
from penncloud.lsm.transfer import (
    INCOMING,
    CheckpointExport,
    CheckpointImport,
    Description,
    decode_description,
    encode_description,
)
from penncloud.platform.disk import Disk
from penncloud.platform.errors import DiskError
from penncloud.replication.messages import Checkpoint, Staged, StagePiece
from penncloud.storage.throttle import Throttle

# Files that nobody has asked for so long are let go of.
IDLE_S: Final = 30.0
SENT_S: Final = 2.0
# Pieces that may wait for their turn, in each direction.
_WAITING: Final = 64


@frozen
class PieceRead:
    """Bytes of a checkpoint; `checksum` is their CRC-32. `done`: these are the last."""

    data: bytes
    checksum: int
    done: bool


class _Origin(msgspec.Struct, frozen=True):
    source: str
    number: int
    version: int
    entry_cfg: int


@define(eq=False)
class _Outgoing:
    """A checkpoint that is being sent. `head` is its encoded description."""

    export: CheckpointExport
    description: Description
    head: bytes
    expiry: Any = None
    # The last piece has gone.
    sent: bool = False

    @property
    def size_bytes(self) -> int:
        return len(self.head) + self.description.size_bytes

    def read(self, offset: int) -> bytes:
        """The piece at `offset`; empty behind the end. Raises TableDamaged, ValueError."""
        if offset == 0:
            return self.head
        offset -= len(self.head)
        for index, file in enumerate(self.description.files):
            if offset < file.size_bytes:
                if offset < 0 or offset % self.description.chunk_bytes:
                    raise ValueError("not the beginning of a piece")
                return self.export.read(index, offset)
            offset -= file.size_bytes
        return b""


@define(eq=False)
class _Incoming:
    """A checkpoint that is being fetched."""

    origin: _Origin
    coming: CheckpointImport
    head_bytes: int

    @property
    def size_bytes(self) -> int:
        return self.head_bytes + self.coming.have_bytes


class Copies:
    """See the module. Calls for different tablets may overlap, those of `stage`, `install` and `forget`
    for one tablet may not. `bytes_per_s` (0: no limit) holds for each direction.
    """

    _log = Logger()

    def __init__(
        self, clock: Any, disk: Disk, engine: Engine, bytes_per_s: int, transfers: int
    ) -> None:
        self._clock = clock
        self._disk = disk
        self._engine = engine
        self._transfers = transfers
        self._sending = Throttle(clock, bytes_per_s, _WAITING)
        self._receiving = Throttle(clock, bytes_per_s, _WAITING)
        self._outgoing: dict[tuple[int, int], _Outgoing] = {}
        self._opening = 0
        self._incoming: dict[int, _Incoming] = {}
        # Since the start.
        self.sent_bytes = 0
        self.received_bytes = 0

    @property
    def under_way(self) -> int:
        """Checkpoints that are held for others, and those that are being fetched."""
        return len(self._outgoing) + len(self._incoming)

    async def open(self) -> None:
        """Find what earlier transfers have left, once the engine is open. Raises DiskError."""
        for name in self._disk.listdir(INCOMING):
            tablet = int(name) if name.isdecimal() else None
            incoming = None if tablet is None else await self._left(tablet)
            if tablet is not None and incoming is not None:
                self._incoming[tablet] = incoming
            else:
                await self._engine.discard_import(name)

    async def _left(self, tablet: int) -> _Incoming | None:
        """What is there of a transfer, if that can be gone on with."""
        directory = f"{INCOMING}/{tablet}"
        try:
            record = decode(self._disk.read(f"{directory}/origin"), 0, 0)
            head = self._disk.read(f"{directory}/description")
            description = decode_description(head)
            if record is None or description.tablet != tablet:
                return None
            origin = msgspec.msgpack.decode(record.payload, type=_Origin)
        except (FileNotFoundError, StoreDamaged, msgspec.DecodeError):
            return None
        coming = await self._engine.begin_import(description)
        return _Incoming(origin, coming, len(head))

    # -- sending ---------------------------------------------------------------------------------

    async def read(self, tablet: int, number: int, offset: int) -> PieceRead | None:
        """The piece at `offset` of the own checkpoint `number`; fires when its turn has come.

        None: that is not there (any more), or too much is being sent; nothing is to be answered.
        """
        outgoing = self._outgoing.get((tablet, number)) or await self._hold(tablet, number)
        if outgoing is None:
            return None
        self._put_off(tablet, number, outgoing)
        try:
            left = max(0, outgoing.size_bytes - offset)
            await self._sending.pass_bytes(min(left, outgoing.description.chunk_bytes))
            if self._outgoing.get((tablet, number)) is not outgoing:
                return None
            data = outgoing.read(offset)
        except Overloaded:
            return None
        except (ValueError, TableDamaged, DiskError) as error:
            self._log.warn("tablet {tablet}: not sent: {error}", tablet=tablet, error=error)
            self._let_go(tablet, number)
            if isinstance(error, TableDamaged):
                self._engine.report_damage(tablet, error)
            return None
        self.sent_bytes += len(data)
        outgoing.sent = offset + len(data) >= outgoing.size_bytes
        self._put_off(tablet, number, outgoing)
        return PieceRead(data, crc32(data), outgoing.sent)

    async def _hold(self, tablet: int, number: int) -> _Outgoing | None:
        sending = sum(not outgoing.sent for outgoing in self._outgoing.values())
        if sending + self._opening >= self._transfers:
            return None
        self._opening += 1
        try:
            exported = await self._engine.export_checkpoint(tablet, number)
        except (NoSuchTablet, TabletDamaged, DiskError) as error:
            self._log.warn("tablet {tablet}: not sent: {error}", tablet=tablet, error=error)
            return None
        finally:
            self._opening -= 1
        if exported is None:
            return None
        export, description = exported
        present = self._outgoing.get((tablet, number))
        if present is not None:
            # Asked for twice while it was being opened.
            export.close()
            return present
        outgoing = _Outgoing(export, description, encode_description(description))
        self._outgoing[tablet, number] = outgoing
        return outgoing

    def _put_off(self, tablet: int, number: int, outgoing: _Outgoing) -> None:
        left_s = SENT_S if outgoing.sent else IDLE_S
        if outgoing.expiry is None:
            outgoing.expiry = self._clock.callLater(left_s, self._let_go, tablet, number)
        else:
            outgoing.expiry.reset(left_s)

    def _let_go(self, tablet: int, number: int) -> None:
        outgoing = self._outgoing.pop((tablet, number), None)
        if outgoing is not None:
            if outgoing.expiry is not None and outgoing.expiry.active():
                outgoing.expiry.cancel()
            outgoing.export.close()

    # -- receiving -------------------------------------------------------------------------------

    def staged(self, tablet: int) -> Staged | None:
        """What is on the disk of a transfer."""
        incoming = self._incoming.get(tablet)
        if incoming is None:
            return None
        origin = incoming.origin
        checkpoint = Checkpoint(origin.number, origin.version, origin.entry_cfg)
        return Staged(origin.source, checkpoint, incoming.size_bytes)

    async def stage(self, tablet: int, piece: StagePiece) -> None:
        """Make a piece durable; one at offset 0 begins anew.

        Raises StoreDamaged when it is not what belongs there: everything staged is forgotten then.
        Raises DiskError; after DiskFull what was staged before is still there.
        """
        await self._receiving.pass_bytes(len(piece.data))
        if piece.offset == 0:
            await self._begin(tablet, piece)
        elif piece.data:
            incoming = self._expected(tablet, piece.source, piece.checkpoint)
            if piece.offset != incoming.size_bytes:
                raise StoreDamaged(f"a piece at {piece.offset} where {incoming.size_bytes} is due")
            try:
                await incoming.coming.write(piece.data)
            except StoreDamaged:
                await self.forget(tablet)
                raise
        self.received_bytes += len(piece.data)

    async def _begin(self, tablet: int, piece: StagePiece) -> None:
        await self.forget(tablet)
        description, checkpoint = decode_description(piece.data), piece.checkpoint
        if (description.tablet, description.version, description.entry_cfg) != (
            tablet,
            checkpoint.version,
            checkpoint.entry_cfg,
        ):
            raise StoreDamaged("the description is of another checkpoint than the one offered")
        origin = _Origin(piece.source, checkpoint.number, checkpoint.version, checkpoint.entry_cfg)
        coming = await self._engine.begin_import(description)
        try:
            data = b"".join(encode([msgspec.msgpack.encode(origin)], 0, 0))
            await self._disk.replace(f"{INCOMING}/{tablet}/origin", data)
        except BaseException:
            coming.close()
            raise
        self._incoming[tablet] = _Incoming(origin, coming, len(piece.data))

    def _expected(self, tablet: int, source: str, checkpoint: Checkpoint) -> _Incoming:
        incoming = self._incoming.get(tablet)
        wanted = _Origin(source, checkpoint.number, checkpoint.version, checkpoint.entry_cfg)
        if incoming is None or incoming.origin != wanted:
            raise StoreDamaged(f"nothing of that checkpoint of tablet {tablet} is staged")
        return incoming

    async def install(self, tablet: int, source: str, checkpoint: Checkpoint) -> TabletRecovery:
        """Let the staged checkpoint take the tablet's place in the engine, at once.

        Nothing of the tablet is on its way to the log, and nothing is appended meanwhile. Raises
        StoreDamaged, TableDamaged (everything staged is forgotten), DiskError.
        """
        incoming = self._expected(tablet, source, checkpoint)
        if incoming.coming.wanted() is not None:
            raise StoreDamaged(f"the checkpoint of tablet {tablet} is not complete")
        try:
            found = await self._engine.finish_import(incoming.coming)
        except (TableDamaged, StoreDamaged):
            await self.forget(tablet)
            raise
        del self._incoming[tablet]
        return found

    async def forget(self, tablet: int) -> None:
        """Throw away what is staged. Raises DiskError."""
        incoming = self._incoming.pop(tablet, None)
        if incoming is not None:
            incoming.coming.close()
        await self._engine.discard_import(str(tablet))

    def stop(self) -> None:
        """Let go of everything; what is staged stays."""
        self._sending.stop()
        self._receiving.stop()
        for tablet, number in list(self._outgoing):
            self._let_go(tablet, number)
        for incoming in self._incoming.values():
            incoming.coming.close()
        self._incoming.clear()
