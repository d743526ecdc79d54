"""Kill -9 of everything at once: what was acknowledged is there afterwards, byte for byte.

Three clients work against a real cluster and note what they were promised: files whose upload was
answered with success, mails that the mail server took with 250, chat messages that were posted. In the
middle of it the agent is killed, then every server. The cluster is started again on the same
directory, and all promises are held against what is there.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import smtplib
import tempfile
import textwrap
import threading
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Final

from attrs import define, field
from twisted.trial.unittest import SynchronousTestCase

from tests.journeys.stage import VisitedCluster
from tests.processes.member import Member, Unanswered
from tests.waiting import PATIENCE_S, wait_until

PASSWORD: Final = "correct horse battery"
# Promises of each kind before the kill.
_ENOUGH: Final = 5


@define
class Client:
    """One thread that does `step` again and again until told to end; failures end nothing.

    `promised` has what was acknowledged, by name. `begun` has what was tried.
    """

    step: Callable[[int], str]
    promised: list[str] = field(factory=list)
    begun: int = 0
    refused: list[str] = field(factory=list)
    _stop: threading.Event = field(factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.begun += 1
            try:
                self.promised.append(self.step(self.begun))
            except (Unanswered, OSError, smtplib.SMTPException) as error:
                self.refused.append(repr(error))
                self._stop.wait(0.05)

    def end(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(PATIENCE_S)


def content(number: int) -> bytes:
    """Bytes of a file: several chunks, not compressible, different for every number."""
    return random.Random(number).randbytes(200_000 + number % 7 * 300_000)


def body_of(number: int) -> str:
    """Text of a mail, in lines that no mail program folds."""
    lines = textwrap.wrap(random.Random(number).randbytes(3000).hex(), 70)
    return "\n".join([f"promised {number}:", *lines]) + "\n"


class KillEverythingTests(SynchronousTestCase):
    """The cluster dies as a machine does that loses its processes."""

    def setUp(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="penncloud-kill-"))
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        self.cluster = VisitedCluster(str(self.root / "data"))
        self.addCleanup(self.cluster.destroy)
        self.cluster.start()
        first, second = self.cluster.frontend_url(1), self.cluster.frontend_url(2)
        self.uploader = Member(first, "uschi")
        self.reader = Member(second, "rita")
        self.chatter = Member(second, "chris")
        for member in (self.uploader, self.reader, self.chatter):
            member.sign_up(PASSWORD)

    def test_what_was_acknowledged_survives_the_death_of_everything(self) -> None:
        """Twice in a row, so that a recovered cluster is proven to be a whole one."""
        clients: list[Client] = []
        for round_ in range(2):
            clients = self.work(round_, clients)
            self.cluster.kill_everything()
            for client in clients:
                client.end()
            self.cluster.start()
            self.check(clients)

    # -- before ----------------------------------------------------------------------------------

    def work(self, round_: int, earlier: list[Client]) -> list[Client]:
        """Clients at work, each with enough promises in hand and something under way."""
        base = 1000 * round_
        clients = [
            Client(lambda number: self.upload(base + number)),
            Client(lambda number: self.send(base + number)),
            Client(lambda number: self.say(base + number)),
        ]
        for client, before in zip(clients, earlier, strict=False):
            client.promised.extend(before.promised)
        enough = [len(client.promised) + _ENOUGH for client in clients]
        for client in clients:
            client.start()
        wait_until(
            lambda: all(
                len(client.promised) >= wanted
                for client, wanted in zip(clients, enough, strict=True)
            ),
            lambda: f"promises: {[(len(c.promised), c.refused[-3:]) for c in clients]}",
            PATIENCE_S,
        )
        return clients

    def upload(self, number: int) -> str:
        name = f"file-{number}.bin"
        self.uploader.upload(name, content(number))
        return name

    def send(self, number: int) -> str:
        message = EmailMessage()
        message["From"] = "outside@example.org"
        message["To"] = "rita@penncloud"
        message["Subject"] = f"promise-{number}"
        message["Message-ID"] = f"<promise-{number}@example.org>"
        message.set_content(body_of(number), cte="7bit")
        with smtplib.SMTP("127.0.0.1", self.cluster.smtp_port, timeout=PATIENCE_S) as smtp:
            smtp.send_message(message)
        return str(number)

    def say(self, number: int) -> str:
        text = f"said {number}: {random.Random(number).randbytes(20).hex()}"
        self.chatter.say(text, f"client-message-{number:08d}")
        return text

    # -- after -----------------------------------------------------------------------------------

    def check(self, clients: list[Client]) -> None:
        """Every promise against what is there, on a frontend that knows nothing of before."""
        files, mails, said = (client.promised for client in clients)
        for name in files:
            number = int(name.removeprefix("file-").removesuffix(".bin"))
            found = self.uploader.download(name)
            self.assertEqual(_digest(found), _digest(content(number)), name)
        inbox = self.reader.inbox()
        for text in mails:
            subject = f"promise-{text}"
            self.assertEqual(len(inbox.get(subject, [])), 1, f"{subject} in {inbox.keys()}")
            received = self.reader.mail(inbox[subject][0]).replace(b"\r\n", b"\n")
            self.assertTrue(received.endswith(body_of(int(text)).encode()), received)
        board = self.chatter.board()
        for text in said:
            self.assertEqual(board.count(text), 1, text)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
