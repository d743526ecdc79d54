"""Webmail over a whole frontend: what is sent arrives once, what is shown is harmless."""

from __future__ import annotations

import html
import re
from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from penncloud.services.blobs import Blobs
from penncloud.services.mail.bodies import Bodies
from penncloud.services.mail.mailbox import Filing, Mailbox
from penncloud.services.mail.summary import summarise
from tests.web.frontend import Answer, Browser, start_frontend

Fields = list[tuple[str, str]]
Files = list[tuple[str, str, bytes]]


def multipart(fields: Fields, files: Files) -> tuple[bytes, dict[str, str]]:
    """A form as a browser posts it."""
    body = b""
    for name, value in fields:
        body += f'--X\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    for name, content_type, data in files:
        body += (
            f'--X\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
            f"Content-Type: {content_type}\r\n\r\n"
        ).encode()
        body += data + b"\r\n"
    return body + b"--X--\r\n", {"Content-Type": "multipart/form-data; boundary=X"}


class MailTests(TestCase):
    async def setUp(self) -> None:  # type: ignore[override]
        self.frontend = start_frontend(reactor)
        self.alice, self.bob = self.frontend.browser(), self.frontend.browser()
        await self.alice.sign_up("alice")
        await self.bob.sign_up("bob")

    async def tearDown(self) -> None:  # type: ignore[override]
        await self.frontend.stop()

    async def write(
        self,
        browser: Browser,
        page: str = "/mail/compose",
        files: Files | None = None,
        **fields: str,
    ) -> Answer:
        """Open a form, change some of its fields, send it."""
        answer = await browser.get(page)
        self.assertEqual(answer.status, 200)
        form = self.fields(answer.text)
        form.update(fields)
        ticked = re.findall(r'name="keep" value="(\d+)"', answer.text)
        posted = [*form.items(), *(("keep", number) for number in ticked)]
        body, headers = multipart(posted, files or [("", "application/octet-stream", b"")])
        return await browser.send("POST", "/mail/send", body, headers)

    def fields(self, page: str) -> dict[str, str]:
        found = {}
        for tag in re.findall(r"<input [^>]*>", page.partition('id="compose"')[2]):
            name = re.search(r'name="([^"]*)"', tag)
            value = re.search(r'value="([^"]*)"', tag)
            if name and value and name[1] != "keep":
                found[name[1]] = html.unescape(value[1])
        text = re.search(r"<textarea[^>]*>\n?(.*?)</textarea>", page, re.S)
        found["text"] = html.unescape(text[1]) if text else ""
        return found

    async def only(self, browser: Browser, box: str = "/mail") -> str:
        """The path of the one message in a box."""
        page = (await browser.get(box)).text
        (path,) = re.findall(r'href="(/mail/(?:inbox|sent)/[0-9a-f]{16})"', page)
        return str(path)

    async def deliver(self, raw: bytes) -> str:
        """Put a message into bob's inbox, as the smtp server does; its path."""
        await self.deliver_only(raw)
        return await self.only(self.bob)

    async def test_login_first(self) -> None:
        """Without a session every page of mail leads to the login."""
        for path in ("/mail", "/mail/sent", "/mail/compose", "/mail/inbox/0000000000000001"):
            answer = await self.frontend.browser().get(path)
            self.assertEqual((answer.status, answer.header("location")[:6]), (303, "/login"))

    async def test_send_and_read(self) -> None:
        """A message to a user here is in both boxes, opens, and was unread until it was marked."""
        answer = await self.write(
            self.alice, to="bob", subject="Grüße <b>", text="Hello\n\nhttps://x.org/a. <script>"
        )
        self.assertEqual((answer.status, answer.header("location")), (303, "/mail/sent?sent=1"))
        inbox = (await self.bob.get("/mail")).text
        self.assertIn("alice@penncloud", inbox)
        self.assertIn("Grüße &lt;b&gt;", inbox)
        self.assertIn('class="letter unread"', inbox)
        path = await self.only(self.bob)
        page = (await self.bob.get(path)).text
        self.assertIn("Hello\n\n", page)
        self.assertIn('<a href="https://x.org/a"', page)
        self.assertIn("&lt;script&gt;", page)
        self.assertIn('class="letter unread"', (await self.bob.get("/mail")).text)
        await self.bob.post(f"{path}/mark", {"as": "read"})
        self.assertNotIn("unread", (await self.bob.get("/mail")).text)
        self.assertIn("To bob@penncloud", (await self.alice.get("/mail/sent")).text)

    async def test_mail_is_private(self) -> None:
        """Nobody else can open, fetch, mark, answer or delete a message by its address."""
        await self.write(self.alice, to="bob", subject="s", text="secret")
        path = await self.only(self.bob)
        for suffix in ("", "/html", "/raw", "/attachments/0", "/reply", "/forward"):
            self.assertEqual((await self.alice.get(path + suffix)).status, 404)
        for suffix in ("/delete", "/mark"):
            await self.alice.get("/mail")
            self.assertEqual((await self.alice.post(path + suffix)).status, 404)

    async def test_sent_once(self) -> None:
        """The same form posted twice sends one message."""
        page = (await self.alice.get("/mail/compose")).text
        fields = {**self.fields(page), "to": "bob", "subject": "s", "text": "x"}
        body, headers = multipart(list(fields.items()), [])
        for _ in range(2):
            answer = await self.alice.send("POST", "/mail/send", body, headers)
            self.assertEqual(answer.status, 303)
        await self.only(self.bob)
        await self.only(self.alice, "/mail/sent")

    async def test_sent_again_with_another_text(self) -> None:
        """Whoever did not hear that it was sent, and writes on, sends both: nothing is lost in silence."""
        page = (await self.alice.get("/mail/compose")).text
        fields = {**self.fields(page), "to": "bob", "subject": "s"}
        for text in ("first", "second", "second"):
            body, headers = multipart([*fields.items(), ("text", text)], [])
            answer = await self.alice.send("POST", "/mail/send", body, headers)
            self.assertEqual(answer.status, 303)
        for person, box in ((self.bob, "/mail"), (self.alice, "/mail/sent")):
            page = (await person.get(box)).text
            self.assertEqual((page.count("first"), page.count("second")), (1, 1))

    async def test_refused_forms(self) -> None:
        """Line breaks in a header field, a missing token, a bad CSRF token: nothing is sent."""
        refused: list[tuple[Any, int]] = [
            ({"to": "bob\r\nBcc: eve@x.org"}, 400),
            ({"to": "bob", "subject": "a\nX: y"}, 400),
            ({"to": "bob", "token": ""}, 400),
            ({"to": "bob", "csrf": "wrong"}, 403),
            ({"to": "bob", "kind": "other"}, 400),
        ]
        for fields, status in refused:
            with self.subTest(fields=fields):
                self.assertEqual((await self.write(self.alice, **fields)).status, status)
        self.assertIn("No mail yet", (await self.bob.get("/mail")).text)

    async def test_problems_keep_what_was_written(self) -> None:
        """A recipient that does not exist or is none gives the form back with everything in it."""
        for to, problem in (
            ("zoe", "Nobody here has the address zoe@penncloud"),
            ("a@@b", "is not a mail address"),
            # What IDNA makes of these is none: "a/c.org", and a name longer than any may be.
            ("bob, x@℀.org", "is not a mail address"),
            ("bob, x@" + "ü." * 50 + "org", "is not a mail address"),
            ("", "Say to whom"),
            ("bob, zoe@penncloud", "zoe@penncloud"),
        ):
            answer = await self.write(self.alice, to=to, subject="my subject", text="my text")
            self.assertEqual(answer.status, 422)
            self.assertIn(problem, html.unescape(answer.text))
            kept = self.fields(answer.text)
            self.assertEqual(
                (kept["to"], kept["subject"], kept["text"]), (to, "my subject", "my text")
            )
        self.assertIn("No mail yet", (await self.bob.get("/mail")).text)
        script = await self.alice.send(
            "POST",
            "/mail/send",
            *multipart([*self.fields((await self.alice.get("/mail/compose")).text).items()], []),
        )
        self.assertEqual(script.status, 422)

    async def test_attachments(self) -> None:
        """Files of any bytes and name come through, served for download only."""
        data = bytes(range(256)) * 1200
        answer = await self.write(
            self.alice,
            to="bob",
            subject="files",
            text="see",
            files=[("ü b.html", "text/html", data), ("../x.txt", "bad type", b"<b>")],
        )
        self.assertEqual(answer.status, 303)
        path = await self.only(self.bob)
        page = (await self.bob.get(path)).text
        numbers = re.findall(rf'href="{path}/attachments/(\d+)"', page)
        self.assertEqual(len(numbers), 2)
        first = await self.bob.get(f"{path}/attachments/{numbers[0]}")
        self.assertEqual(first.body, data)
        self.assertEqual(
            first.header("content-disposition"),
            "attachment; filename=\"_ b.html\"; filename*=UTF-8''%C3%BC%20b.html",
        )
        self.assertEqual(first.header("x-content-type-options"), "nosniff")
        self.assertIn("sandbox", first.header("content-security-policy"))
        second = await self.bob.get(f"{path}/attachments/{numbers[1]}")
        self.assertEqual(second.header("content-type"), "application/octet-stream")
        self.assertIn('filename="x.txt"', second.header("content-disposition"))
        self.assertEqual((await self.bob.get(f"{path}/attachments/99")).status, 404)

    async def test_reply(self) -> None:
        """A reply's To and Subject are the original's, also when the form was tampered with."""
        await self.write(self.alice, to="bob", subject="Plan", text="line one")
        path = await self.only(self.bob)
        page = (await self.bob.get(f"{path}/reply")).text
        form = self.fields(page)
        self.assertEqual((form["to"], form["subject"]), ("alice@penncloud", "Re: Plan"))
        self.assertIn("> line one", form["text"])
        self.assertEqual(page.count("readonly"), 2)
        answer = await self.write(
            self.bob, f"{path}/reply", to="eve@example.org", subject="Other", text="my answer"
        )
        self.assertEqual(answer.status, 303)
        reply = await self.only(self.alice)
        page = (await self.alice.get(reply)).text
        self.assertIn("Re: Plan", page)
        self.assertIn("You to bob@penncloud", page)  # the conversation shows what was sent
        self.assertIn('<a href="/mail/sent/', page)
        again = self.fields((await self.alice.get(f"{reply}/reply")).text)
        self.assertEqual(again["subject"], "Re: Plan")

    async def test_forward(self) -> None:
        """A forward has `FWD: ` before the subject, the text, and the attachments that are kept."""
        await self.write(
            self.alice,
            to="bob",
            subject="Plan",
            text="body",
            files=[("a.txt", "text/plain", b"AA")],
        )
        path = await self.only(self.bob)
        form = self.fields((await self.bob.get(f"{path}/forward")).text)
        self.assertEqual((form["to"], form["subject"]), ("", "FWD: Plan"))
        self.assertIn("From: alice@penncloud", form["text"])
        self.assertIn("body", form["text"])
        answer = await self.write(
            self.bob, f"{path}/forward", to="alice", files=[("b.txt", "text/plain", b"BB")]
        )
        self.assertEqual(answer.status, 303)
        page = (await self.alice.get(await self.only(self.alice))).text
        self.assertIn("a.txt", page)
        self.assertIn("b.txt", page)

    async def test_delete(self) -> None:
        """Deleting one message, and several that were ticked, empties the box and the store."""
        for n in range(3):
            await self.write(self.alice, to="bob", subject=f"s{n}", text="x")
        page = (await self.bob.get("/mail")).text
        stamps = re.findall(r'data-stamp="([0-9a-f]+)"', page)
        self.assertEqual((await self.bob.post(f"/mail/inbox/{stamps[0]}/delete")).status, 303)
        fields = (
            f"csrf={self.bob.csrf}&box=inbox&stamp={stamps[1]}&stamp={stamps[2]}&stamp={stamps[0]}"
        )
        answer = await self.bob.send(
            "POST",
            "/mail/delete",
            fields.encode(),
            {"Content-Type": "application/x-www-form-urlencoded"},
        )
        self.assertEqual(answer.status, 303)
        self.assertIn("No mail yet", (await self.bob.get("/mail")).text)
        self.assertEqual((await self.bob.get(f"/mail/inbox/{stamps[0]}")).status, 404)

    async def test_html_mail_is_quoted_as_text(self) -> None:
        """Mail without plain text loses nothing of what it says when it is answered or forwarded."""
        path = await self.deliver(
            b"From: <x@y.org>\r\nSubject: h\r\nContent-Type: text/html\r\n\r\n"
            b"<p>first &amp; <b>bold</b></p><p>second</p>\r\n"
        )
        reply = self.fields((await self.bob.get(f"{path}/reply")).text)
        self.assertIn("> first & bold\n> \n> second\n", reply["text"])
        forward = self.fields((await self.bob.get(f"{path}/forward")).text)
        self.assertIn("first & bold\n\nsecond", forward["text"])

    async def test_html_mail(self) -> None:
        """HTML is sanitised and framed under its own policy; pictures from elsewhere are blocked."""
        path = await self.deliver(
            b"From: <x@y.org>\r\nSubject: h\r\nContent-Type: text/html\r\n\r\n"
            b"<p onclick=a()>Hi</p><script>evil()</script><img src='https://spy.org/x.png'>"
        )
        page = await self.bob.get(path)
        self.assertIn('<iframe class="html" sandbox="allow-popups', page.text)
        self.assertIn("frame-src 'self'", page.header("content-security-policy"))
        frame = await self.bob.get(f"{path}/html")
        self.assertIn("<p>Hi</p>", frame.text)
        for evil in ("script", "onclick", "spy.org"):
            self.assertNotIn(evil, frame.text)
        self.assertIn("sandbox", frame.header("content-security-policy"))
        self.assertIn("default-src 'none'", frame.header("content-security-policy"))

    async def test_hostile_message(self) -> None:
        """A message nested 1,500 deep with parentheses in To is listed, opened and downloadable."""
        raw = (
            b"To: "
            + b"(" * 5000
            + b"\r\nSubject: deep\r\nReturn: x\r\n"
            + b"".join(
                b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n)
                for n in range(1500)
            )
        )
        path = await self.deliver(raw)
        self.assertIn("deep", (await self.bob.get("/mail")).text)
        page = await self.bob.get(path)
        self.assertEqual(page.status, 200)
        self.assertIn("too deeply nested", page.text)
        original = await self.bob.get(f"{path}/raw")
        self.assertEqual(original.body, b"Return-Path: <x@y.org>\r\n" + raw)
        self.assertEqual(original.header("content-type"), "message/rfc822")

    async def test_pages(self) -> None:
        """The list is cut into pages; a bad place is refused."""
        for n in range(53):
            raw = b"Subject: n%d\r\n\r\n" % n
            await self.deliver_only(raw)
        first = (await self.bob.get("/mail")).text
        self.assertEqual(first.count('class="letter '), 50)
        older = re.search(r'href="(/mail\?before=[0-9a-f]+)"', first)
        assert older is not None
        rest = (await self.bob.get(older[1])).text
        self.assertEqual(rest.count('class="letter '), 3)
        self.assertEqual((await self.bob.get("/mail?before=x")).status, 400)
        self.assertEqual((await self.bob.get("/mail/inbox/zz")).status, 404)

    async def deliver_only(self, raw: bytes) -> None:
        environment, table = self.frontend.context.environment, self.frontend.table
        bodies = Bodies(table, Blobs(table, environment.entropy), environment)
        message_id = bodies.new_id()
        writer = await bodies.open(message_id, ["inbox/bob"])
        await writer.write(raw)
        await writer.finish(["inbox/bob"])
        filing = Filing(message_id, message_id, summarise(raw, len(raw)), "x@y.org")
        await Mailbox(table, bodies, environment, "bob").file("inbox", filing)

    async def test_store_unavailable(self) -> None:
        """When the store does not answer the form is told 503, and sending it again sends once."""
        page = (await self.alice.get("/mail/compose")).text
        fields = {**self.fields(page), "to": "bob", "subject": "s", "text": "x"}
        body, headers = multipart(list(fields.items()), [])
        mutate = type(self.frontend.table).mutate
        count = 0

        async def failing(table: Any, row: bytes, *args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += row.startswith((b"mail/", b"queue/", b"message/"))
            self.frontend.table.unavailable = count == 4
            return await mutate(table, row, *args, **kwargs)

        self.patch(type(self.frontend.table), "mutate", failing)
        answer = await self.alice.send("POST", "/mail/send", body, headers)
        self.assertEqual(answer.status, 503)
        self.frontend.table.unavailable = False
        answer = await self.alice.send("POST", "/mail/send", body, headers)
        self.assertEqual(answer.status, 303)
        await self.only(self.alice, "/mail/sent")
