"""The README's pictures, taken from a real cluster with demo content.

    python -m tests.journeys.screenshots [DIRECTORY]     (or scripts/screenshots)

Everything on them came in as users bring it in: through the pages and through the mail server.
"""

from __future__ import annotations

import shutil
import smtplib
import sys
import tempfile
from email.message import EmailMessage
from pathlib import Path
from typing import Final

from playwright.sync_api import Page, expect

from tests.journeys.browser import Chromium, Visitor, find_chromium
from tests.journeys.stage import VisitedCluster

PASSWORD: Final = "correct horse battery"
# What a README can carry.
_MAX_PICTURE_BYTES: Final = 200 * 1024

FOLDERS: Final = ("Letters", "Photos", "Thesis")
FILES: Final = {
    "budget-2025.csv": b"month,rent,food\n" + b"".join(b"%d,800,310\n" % n for n in range(1, 13)),
    "notes.md": b"# Notes\n\n- ask Grace about the compiler\n- book the train\n" * 9,
    "lecture-07.pdf": b"%PDF-1.4\n" + bytes(1_840_000),
    "holiday.mp4": bytes(24_300_000),
    "diagram.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>" * 120,
    "backup.zip": bytes(7_450_000),
}
MAILS: Final = (
    ("Library <desk@library.example>", "Your loan is due on Friday", "Two books are due."),
    ("Alan <alan@example.org>", "Can machines think?", "I wrote down what I believe.\n\nAlan"),
    ("Conference <pc@sosp.example>", "Your submission 172", "We are happy to tell you ..."),
)
LETTER: Final = (
    "Dear Ada,\n\nthe compiler is done. It found the first bug by itself - a moth, this time"
    " a real one. I have put the log book into our shared folder.\n\n"
    "Shall we go through it on Thursday at four?\n\nGrace"
)
TALK: Final = (
    ("grace", "Good morning! Did the cloud come back after last night's power cut?"),
    ("ada", "It did. Everything that I had uploaded is there."),
    ("linus", "The power was away from 23:10 to 23:40, all machines at once."),
    ("grace", "Then all is as it should be."),
    ("ada", "Slides for Thursday are in my folder \u201cThesis\u201d."),
    ("linus", "Reading them now."),
)


class Photographer:
    """Fills a cluster and takes the pictures."""

    def __init__(self, cluster: VisitedCluster, browser: Chromium, target: Path) -> None:
        self._cluster = cluster
        self._browser = browser
        self._target = target

    def run(self) -> None:
        base = self._cluster.frontend_url(1)
        self._take(self._browser.visitor("somebody").page, base + "/login", "login")
        people = {name: self._member(name) for name in ("ada", "grace", "linus")}
        ada = people["ada"].page
        self._files(people["ada"])
        self._mail(people)
        self._chat(people)
        self._take(ada, base + "/files/", "files")
        self._take(ada, base + "/mail", "mail")
        self._take(ada, base + "/chat", "chat")
        self._admin()

    def _member(self, name: str) -> Visitor:
        visitor = self._browser.visitor(name)
        page = visitor.page
        page.goto(self._cluster.frontend_url(1) + "/signup")
        page.locator("input[name=name]").fill(name)
        page.locator("input[name=password]").fill(PASSWORD)
        page.locator("input[name=again]").fill(PASSWORD)
        page.get_by_role("button", name="Sign up").click()
        expect(page.get_by_role("heading", name=f"Hello, {name}")).to_be_visible()
        return visitor

    def _files(self, visitor: Visitor) -> None:
        page = visitor.page
        page.goto(self._cluster.frontend_url(1) + "/files/")
        for name in FOLDERS:
            page.get_by_role("button", name="New folder").click()
            page.get_by_role("dialog").get_by_role("textbox").fill(name)
            page.get_by_role("dialog").get_by_role("button", name="Create").click()
            expect(page.locator(f'tr[data-name="{name}"]')).to_be_visible()
        with tempfile.TemporaryDirectory() as folder:
            for name, content in FILES.items():
                (Path(folder) / name).write_bytes(content)
            with page.expect_file_chooser() as chooser:
                page.get_by_role("button", name="Upload", exact=True).click()
            chooser.value.set_files([Path(folder) / name for name in FILES])
            for name in FILES:
                expect(page.locator(f'tr[data-name="{name}"]')).to_be_visible()

    def _mail(self, people: dict[str, Visitor]) -> None:
        for sender, subject, text in MAILS:
            message = EmailMessage()
            message["From"], message["To"], message["Subject"] = sender, "ada@penncloud", subject
            message.set_content(text)
            with smtplib.SMTP("127.0.0.1", self._cluster.smtp_port) as smtp:
                smtp.send_message(message)
        page = people["grace"].page
        page.goto(self._cluster.frontend_url(1) + "/mail/compose")
        page.get_by_label("To", exact=True).fill("ada@penncloud")
        page.get_by_label("Subject").fill("The compiler is done")
        page.get_by_role("textbox", name="Message").fill(LETTER)
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("status").filter(has_text="on its way")).to_be_visible()

    def _chat(self, people: dict[str, Visitor]) -> None:
        for visitor in people.values():
            visitor.page.goto(self._cluster.frontend_url(1) + "/chat")
        for name, text in TALK:
            page = people[name].page
            page.get_by_label("Message", exact=True).fill(text)
            page.get_by_role("button", name="Send").click()
            for visitor in people.values():
                expect(visitor.page.locator("#messages").get_by_text(text)).to_be_visible()

    def _admin(self) -> None:
        visitor = self._browser.visitor("admin")
        page, base = visitor.page, self._cluster.frontend_url(1)
        # A cluster that somebody really uses has a password of its own.
        self._cluster.penncloud("user", "passwd", "admin", stdin=PASSWORD.encode() + b"\n")
        page.goto(base + "/login")
        page.get_by_label("Name").fill("admin")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", name="Hello, admin")).to_be_visible()
        page.goto(base + "/admin/servers/storage-2/stop")
        page.locator("#confirm").fill("storage-2")
        page.get_by_role("button", name="Stop storage-2").click()
        expect(page.locator('tr[data-server="storage-2"]')).to_contain_text("dead")
        self._take(page, base + "/admin", "admin")

    def _take(self, page: Page, url: str, name: str) -> None:
        page.goto(url)
        page.wait_for_load_state("load")
        page.evaluate("document.fonts.ready")
        page.mouse.move(0, 0)
        path = self._target / f"{name}.png"
        page.screenshot(path=path, animations="disabled", caret="hide")
        if path.stat().st_size > _MAX_PICTURE_BYTES:
            raise SystemExit(f"{path} is larger than {_MAX_PICTURE_BYTES} bytes")
        print(f"{path}  {path.stat().st_size // 1024} KiB", flush=True)


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    target.mkdir(parents=True, exist_ok=True)
    chromium = find_chromium()
    if chromium is None:
        raise SystemExit("the pictures need chromium")
    root = tempfile.mkdtemp(prefix="penncloud-pictures-")
    cluster = VisitedCluster(root + "/data")
    try:
        cluster.start()
        browser = Chromium(chromium)
        try:
            Photographer(cluster, browser, target).run()
        finally:
            browser.close()
    finally:
        cluster.destroy()
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
