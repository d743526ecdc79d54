"""Mail between people in browsers, from the shell, and back."""

from __future__ import annotations

import re
import shutil
import smtplib
import subprocess
from email.message import EmailMessage

from playwright.sync_api import Locator, Page, expect

from tests.journeys.browser import Visitor
from tests.journeys.journey import Journey
from tests.waiting import PATIENCE_S


class MailJourney(Journey):
    """Two people with addresses."""

    def test_two_people_write_answer_and_forward(self) -> None:
        """A message, its reply with To and subject fixed, a forward with FWD:, and the end of it."""
        karl = self.member("karl", at=self.cluster.frontend_url(1) + "/login")
        lena = self.member("lena", at=self.cluster.frontend_url(2) + "/login")
        lena.page.goto(self.origin(lena) + "/mail")
        self.judge(lena)
        karl.page.goto(self.origin(karl) + "/mail/compose")
        self.judge(karl)
        self.write(karl.page, "lena@penncloud", "Tea <at> five?", "Shall we?\n\nKarl")
        karl.page.goto(self.origin(karl) + "/mail/sent")
        expect(self.line(karl.page, "Tea <at> five?")).to_be_visible()

        self.open(lena, "Tea <at> five?")
        expect(lena.page.get_by_role("region", name="Text of the message")).to_contain_text(
            "Shall we?"
        )
        self.judge(lena)
        lena.page.get_by_role("button", name="Reply").click()
        expect(lena.page.get_by_label("To", exact=True)).to_have_value("karl@penncloud")
        expect(lena.page.get_by_label("To", exact=True)).not_to_be_editable()
        expect(lena.page.get_by_label("Subject")).to_have_value("Re: Tea <at> five?")
        expect(lena.page.get_by_label("Subject")).not_to_be_editable()
        lena.page.get_by_role("textbox", name="Message").fill("With pleasure.")
        lena.page.get_by_role("button", name="Send").click()
        expect(lena.page.get_by_role("status").filter(has_text="on its way")).to_be_visible()

        self.open(karl, "Re: Tea <at> five?")
        expect(karl.page.get_by_role("region", name="Text of the message")).to_contain_text(
            "With pleasure."
        )
        earlier = karl.page.get_by_role("region", name="Earlier in this conversation")
        expect(earlier).to_contain_text("Shall we?")
        karl.page.get_by_role("button", name="Forward").click()
        expect(karl.page.get_by_label("Subject")).to_have_value("FWD: Re: Tea <at> five?")
        karl.page.get_by_label("To", exact=True).fill("karl@penncloud")
        karl.page.get_by_role("button", name="Send").click()
        expect(karl.page.get_by_role("status").filter(has_text="on its way")).to_be_visible()
        self.open(karl, "FWD: Re: Tea <at> five?")
        expect(karl.page.locator("#message")).to_contain_text("With pleasure.")
        self.judge(karl)
        karl.page.get_by_role("button", name="Delete").click()
        expect(karl.page.get_by_role("heading", name="Inbox")).to_be_visible()
        expect(self.line(karl.page, "FWD: Re: Tea <at> five?")).to_have_count(0)
        expect(self.line(karl.page, "Re: Tea <at> five?")).to_have_count(1)

    def test_mail_from_the_shell_arrives_while_the_inbox_is_open(self) -> None:
        """By smtplib, and by swaks where the machine has it; hostile HTML stays harmless."""
        mona = self.member("mona")
        mona.page.goto(self.origin(mona) + "/mail")
        message = EmailMessage()
        message["From"] = "Nils <nils@example.org>"
        message["To"] = "mona@penncloud"
        message["Subject"] = "From the shell"
        message.set_content("Plain words.")
        message.add_alternative(
            "<p>Formatted <b>words</b>.<script>console.error('ran')</script>"
            "<img src=x onerror=\"console.error('ran')\"></p>",
            subtype="html",
        )
        message.add_attachment(b"\x00\xffbytes", "application", "octet-stream", filename="a.bin")
        with smtplib.SMTP("127.0.0.1", self.cluster.smtp_port) as smtp:
            smtp.send_message(message)
        expect(self.line(mona.page, "From the shell")).to_be_visible()  # without a reload
        self.line(mona.page, "From the shell").click()
        frame = mona.page.frame_locator("iframe")
        expect(frame.get_by_text("Formatted words")).to_be_visible()
        with mona.page.expect_download() as download:
            mona.page.get_by_role("link", name="a.bin").click()
        self.assertEqual(download.value.path().read_bytes(), b"\x00\xffbytes")
        self.judge(mona)
        if swaks := shutil.which("swaks"):
            self.send_by_swaks(swaks, "mona@penncloud", "By swaks")
            mona.page.goto(self.origin(mona) + "/mail")
            expect(self.line(mona.page, "By swaks")).to_be_visible()

    def test_the_server_is_nobodys_relay(self) -> None:
        """Unknown members are refused with 550, the outside world too for those who are outside."""
        with smtplib.SMTP("127.0.0.1", self.cluster.smtp_port) as smtp:
            smtp.ehlo("example.org")
            smtp.mail("nils@example.org")
            self.assertEqual(smtp.rcpt("nobody-of-this-name@penncloud")[0], 550)
            self.assertIn(smtp.rcpt("someone@example.com")[0], (550, 554))

    # -- what a person does ----------------------------------------------------------------------

    def write(self, page: Page, to: str, subject: str, text: str) -> None:
        page.get_by_label("To", exact=True).fill(to)
        page.get_by_label("Subject").fill(subject)
        page.get_by_role("textbox", name="Message").fill(text)
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("status").filter(has_text="on its way")).to_be_visible()

    def line(self, page: Page, subject: str) -> Locator:
        """A line of a mailbox."""
        marks = r"^\s*(Unread:)?\s*(With attachments:)?\s*"
        whole = re.compile(marks + re.escape(subject) + r"\s*$")
        return page.locator(".letters .subject", has_text=whole)

    def open(self, visitor: Visitor, subject: str) -> None:
        visitor.page.goto(self.origin(visitor) + "/mail")
        self.line(visitor.page, subject).click()
        expect(visitor.page.get_by_role("heading", name=subject, exact=True)).to_be_visible()

    def send_by_swaks(self, swaks: str, to: str, subject: str) -> None:
        server = f"127.0.0.1:{self.cluster.smtp_port}"
        people = "--from", "otto@example.org", "--to", to
        done = subprocess.run(
            [swaks, "--server", server, *people, "--h-Subject", subject, "--body", "by swaks"],
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout.decode("utf-8", "replace"))
