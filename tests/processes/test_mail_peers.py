"""Mail between a real cluster and programs that others wrote: swaks in, another mail server out."""

from __future__ import annotations

import json
import os
import re
import shutil
import smtplib
import subprocess
import time
from types import SimpleNamespace
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase

from tests.processes.cluster import RunningCluster
from tests.smtp.servers import NameServer, ScriptedMail
from tests.waiting import PATIENCE_S
from tests.web.frontend import Browser
from tests.web.test_mail import multipart

reactor: Any = _reactor
PASSWORD = "correct horse battery"


class MailCluster(TestCase):
    """A cluster, and another mail server that its mail goes to."""

    timeout = 600
    # Further options of `penncloud up`; {directory} is its data directory.
    more: tuple[str, ...] = ()

    async def setUp(self) -> None:  # type: ignore[override]
        self.names = NameServer()
        self.remote = ScriptedMail()
        self.names.zone.mx["example.org"] = [(10, "gone.example.org"), (20, "mail.example.org")]
        self.names.zone.a["gone.example.org"] = ["127.0.0.9"]
        self.names.zone.a["mail.example.org"] = ["127.0.0.1"]
        options = [
            "--set=smtp.resolver=" + self.names.address,
            f"--set=smtp.relay_port={self.remote.listen()}",
            # Soon enough for a test, should a first attempt fail for whatever passes on its own.
            "--set=smtp.retry_seconds=[2.0]",
            "--http=1",
        ]
        directory = os.path.abspath(self.mktemp())
        options += [option.format(directory=directory) for option in self.more]
        self.cluster = RunningCluster(directory, options)
        await deferToThread(self.cluster.start)
        self.browsers: list[Browser] = []
        self.port = self.cluster.document.smtp[0].port

    async def tearDown(self) -> None:  # type: ignore[override]
        for browser in self.browsers:
            await browser.close()
        await deferToThread(self.cluster.destroy)
        await self.remote.stop()
        await self.names.stop()

    async def browser(self, name: str) -> Browser:
        """Somebody who has just signed up."""
        frontend: Any = SimpleNamespace(
            url=f"http://127.0.0.1:{self.cluster.document.http[0].port}", reactor=reactor
        )
        browser = Browser(frontend)
        self.browsers.append(browser)
        self.assertEqual((await browser.sign_up(name, PASSWORD)).status, 303)
        return browser

    async def swaks(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run swaks against the cluster. Skips the test where it is not installed."""
        program = shutil.which("swaks")
        if program is None:
            raise SkipTest("swaks is not installed")
        command = [program, "--server", f"127.0.0.1:{self.port}", "--helo", "peer.example.org"]
        return await deferToThread(
            subprocess.run,
            [*command, *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    def seen_from_outside(self) -> str:
        """What the world saw of our server, and the end of its log: why mail did not leave."""
        log = self.cluster.layout.log("smtp-1").read_text(errors="replace")
        return (
            f"asked of DNS: {self.names.zone.asked}\nsaid to the mail server: {self.remote.lines}\n"
            + "\n".join(log.splitlines()[-40:])
        )

    async def until_in(self, browser: Browser, path: str, text: str) -> str:
        """The page at `path`, once it holds `text`."""
        for _ in range(int(PATIENCE_S / 0.2)):
            page = (await browser.get(path)).text
            if text in page:
                return page
            await deferLater(reactor, 0.2, lambda: None)
        raise AssertionError(f"{text!r} does not appear at {path}\n{self.seen_from_outside()}")

    async def send_outside(self, browser: Browser, to: str) -> None:
        """Write a message in the browser and send it."""
        form = (await browser.get("/mail/compose")).text
        token = re.search(r'name="token" value="([0-9a-f]+)"', form)
        assert token is not None
        fields = [
            ("csrf", browser.csrf),
            ("token", token[1]),
            ("kind", "new"),
            ("to", to),
            ("subject", "to outside"),
            ("text", ".\n..dots\nGrüße\n"),
        ]
        body, headers = multipart(fields, [])
        answer = await browser.send("POST", "/mail/send", body, headers)
        self.assertEqual(answer.status, 303)

    async def until_arrived(self, arrived: Deferred[None]) -> None:
        # Long enough for one more attempt: the first pause of the queue is a minute.
        arrived.addTimeout(2 * PATIENCE_S, reactor)
        try:
            await arrived
        except DeferredTimeout:
            self.fail(f"nothing arrived\n{self.seen_from_outside()}")


class MailPeersTests(MailCluster):
    async def test_swaks(self) -> None:
        """swaks delivers with an attachment, and is told what is wrong with strangers."""
        bob = await self.browser("bob")
        data = os.urandom(300_000)
        path = self.mktemp()
        with open(path, "wb") as attachment:
            attachment.write(data)
        sent = await self.swaks(
            "--from", "x@example.org", "--to", "bob@penncloud", "--header", "Subject: from outside",
            "--attach-name", "data.bin", "--attach", f"@{path}",
        )  # fmt: skip
        self.assertEqual(sent.returncode, 0, sent.stdout)
        self.assertRegex(sent.stdout, r"<-  250 2\.0\.0 ")
        page = await self.until_in(bob, "/mail", "from outside")
        (letter,) = re.findall(r'href="(/mail/inbox/[0-9a-f]+)"', page)
        part = re.search(rf'href="({letter}/attachments/\d+)"', (await bob.get(letter)).text)
        assert part is not None
        self.assertEqual((await bob.get(part[1])).body, data)
        for recipient, code in (("nobody@penncloud", "550 5.1.1"), ("x@example.com", "550 5.7.1")):
            refused = await self.swaks("--from", "x@example.org", "--to", recipient)
            self.assertEqual(refused.returncode, 24)
            self.assertIn(f"<** {code}", refused.stdout)

    async def test_large_messages_do_not_grow_the_server(self) -> None:
        """24 MB in one message, several at once: the server's memory grows by less than one of them."""
        await self.browser("bob")
        status = f"/proc/{self.cluster.pid('smtp-1')}/status"

        def peak_bytes() -> int:
            with open(status) as file:
                found = re.search(r"VmHWM:\s+(\d+) kB", file.read())
            assert found is not None
            return int(found[1]) * 1024

        def send() -> None:
            with smtplib.SMTP("127.0.0.1", self.port, timeout=PATIENCE_S) as client:
                text = "Subject: large\r\n\r\n" + ("y" * 70 + "\r\n") * (24_000_000 // 72)
                client.sendmail("x@example.org", ["bob@penncloud"], text)

        before = peak_bytes()
        await gatherResults([deferToThread(send) for _ in range(3)])
        self.assertLess(peak_bytes() - before, 24_000_000)

    async def test_out_and_bounce(self) -> None:
        """A message goes to the second MX when the first is away; a refusal comes back as a bounce."""
        arrived: Deferred[None] = Deferred()
        self.remote.on_message = lambda: arrived.callback(None)
        self.remote.script["RCPT"] = lambda line: (
            "550 5.1.1 never heard of" if "<no@" in line else "250 2.1.5 ok"
        )
        alice = await self.browser("alice")
        await self.send_outside(alice, "yes@example.org, no@example.org")
        await self.until_arrived(arrived)
        self.assertIn(b"\r\nSubject: to outside\r\n", self.remote.messages[0])
        self.assertIn(b"\r\n=2E\r\n..dots\r\nGr=C3=BC=C3=9Fe\r\n", self.remote.messages[0])
        page = await self.until_in(alice, "/mail", "Undelivered mail")
        (letter,) = re.findall(r'href="(/mail/inbox/[0-9a-f]+)"', page)
        self.assertIn("never heard of", (await alice.get(letter)).text)
        self.assertEqual(len(self.remote.messages), 1)

    async def test_killed_while_mail_comes_in(self) -> None:
        """Every message that got its 250 is there after the storage servers were killed."""
        bob = await self.browser("bob")
        acknowledged: list[str] = []

        def send(number: int) -> None:
            try:
                with smtplib.SMTP("127.0.0.1", self.port, timeout=PATIENCE_S) as client:
                    text = f"Subject: n{number}\r\n\r\n" + "x" * 100 * number + "\r\n"
                    client.sendmail("x@example.org", ["bob@penncloud"], text)
                    acknowledged.append(f"n{number}")
            except (smtplib.SMTPException, OSError):
                return  # not acknowledged: nothing was promised

        for number in range(6):
            await deferToThread(send, number)
        before = len(acknowledged)
        self.cluster.kill("storage-1")
        # A few are refused until another server has taken over.
        for number in range(6, 60):
            await deferToThread(send, number)
            if number >= 12 and len(acknowledged) > before:
                break
        self.assertGreater(len(acknowledged), before)
        page = await self.until_in(bob, "/mail", acknowledged[-1])
        for subject in acknowledged:
            self.assertIn(subject, page)


class MailTakeoverTests(MailCluster):
    """A frontend stands by for the mail server of its host."""

    more = (
        "--set=smtp.standby=true",
        "--set=http.mail_config={directory}/etc/smtp-1.toml",
    )

    async def test_takeover(self) -> None:
        """Killed: another process has the port; killed while sending: another one sends, once, and
        `penncloud mail queue` shows who."""
        await self.lose("smtp-1")
        await deferToThread(self.until_greeted)
        await self.until_shown(r"http-1 .* live, serves mail")
        alice = await self.browser("alice")
        self.remote.script["DATA"] = ""  # The peer takes its time: whoever sends has to wait.
        await deferToThread(self.cluster.penncloud, "node", "start", "smtp-1")
        await self.send_outside(alice, "yes@example.org")
        holder = await self.until_leased()
        self.remote.lines.clear()
        await self.lose(holder.removesuffix("-mail"))
        successor = await self.until_leased(besides=holder)
        self.assertIn(successor, (await self.penncloud("mail", "queue")).stdout.decode())
        self.assertEqual(self.remote.messages, [])
        self.remote.script["DATA"] = "354 go"
        arrived: Deferred[None] = Deferred()
        self.remote.on_message = lambda: arrived.callback(None)
        self.remote.go_on()
        await self.until_arrived(arrived)
        while (await self.queue())["queue"]:
            await deferLater(reactor, 0.5, lambda: None)
        self.assertEqual(len(self.remote.messages), 1)

    async def lose(self, node_id: str) -> None:
        """Kill a server, and see to it that it does not come back."""
        self.cluster.kill(node_id)
        await deferToThread(self.cluster.penncloud, "node", "stop", node_id)

    def until_greeted(self) -> None:
        """Somebody takes mail on the host's port."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                with smtplib.SMTP("127.0.0.1", self.port, timeout=PATIENCE_S) as client:
                    self.assertEqual(client.noop()[0], 250)
                return
            except ConnectionRefusedError:
                self.assertLess(time.monotonic(), deadline, "nobody took the port over")
                time.sleep(0.05)

    async def penncloud(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return await deferToThread(self.cluster.penncloud, *arguments)

    async def until_shown(self, pattern: str) -> None:
        """`penncloud status` says so: it knows by the next answer to a heartbeat."""
        for _ in range(int(PATIENCE_S)):
            status = (await self.penncloud("status")).stdout.decode()
            if re.search(pattern, status):
                return
            await deferLater(reactor, 0.5, lambda: None)
        raise AssertionError(f"{pattern!r} is not in\n{status}")

    async def queue(self) -> dict[str, Any]:
        shown = await self.penncloud("mail", "queue", "--json")
        found: dict[str, Any] = json.loads(shown.stdout)
        return found

    async def until_leased(self, besides: str = "") -> str:
        """The server that works on the message, once its peer waits for the text; not `besides`, which may
        have been started again for a moment before it was stopped for good."""
        for _ in range(int(PATIENCE_S)):
            for item in (await self.queue())["queue"]:
                # A lease outlives its holder; whoever has reached the peer has one.
                if item["domain"] and item.get("lease") and "DATA" in self.remote.lines:
                    node = str(item["lease"]["node"])
                    if node != besides:
                        return node
            await deferLater(reactor, 0.5, lambda: None)
        raise AssertionError(f"nobody sends\n{self.seen_from_outside()}")
