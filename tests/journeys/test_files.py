"""Files and folders in the browser: up, down, around, and away."""

from __future__ import annotations

import hashlib
import random
import re
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from tests.journeys.browser import Visitor
from tests.journeys.journey import PASSWORD, Journey

HOSTILE = b"<script>document.title = 'taken over'; console.error('ran');</script>"


class FilesJourney(Journey):
    """One person, sometimes at two browsers."""

    def test_what_is_uploaded_comes_back_byte_for_byte(self) -> None:
        """Several files of several chunks at once, from one frontend, read through the other."""
        visitor = self.member("gerda", at=self.cluster.frontend_url(1) + "/login")
        page = visitor.page
        page.goto(self.cluster.frontend_url(1) + "/files/")
        self.judge(visitor)
        files = {
            "empty.txt": b"",
            "gr\u00fc\u00dfe & more.txt": "Grüße\n".encode(),
            "large.bin": random.Random(1).randbytes(12_345_678),
            "chunk.bin": random.Random(2).randbytes(512 * 1024),
        }
        self.upload(page, files)
        for name in files:
            expect(self.row(page, name)).to_be_visible()
        expect(page.locator("[data-uploads-title]")).to_contain_text(
            re.compile("uploaded|stored|done|complete", re.I)
        )
        self.judge(visitor)
        page.goto(self.cluster.frontend_url(2) + "/files/")
        for name, content in files.items():
            self.assertEqual(self.download(visitor, name), _digest(content), name)

    def test_folders_are_made_and_files_move_are_renamed_and_deleted(self) -> None:
        """A folder, a file in it, a new name, another folder, and the end of all of it."""
        visitor = self.member("hilde")
        page = visitor.page
        page.goto(self.origin(visitor) + "/files/")
        self.make_folder(page, "Letters")
        self.make_folder(page, "Archive")
        self.upload(page, {"draft.txt": b"Dear reader"})
        self.act(page, "Move", "draft.txt")
        dialog = page.get_by_role("dialog")
        dialog.get_by_text("Letters", exact=True).click()
        dialog.get_by_role("button", name="Move here").click()
        expect(self.row(page, "draft.txt")).to_have_count(0)

        self.row(page, "Letters").get_by_role("link", name="Letters").click()
        expect(page.get_by_role("heading", name="Letters")).to_be_visible()
        expect(self.row(page, "draft.txt")).to_be_visible()
        self.act(page, "Rename", "draft.txt")
        dialog.get_by_role("textbox").fill("final.txt")
        dialog.get_by_role("button", name="Rename").click()
        expect(self.row(page, "final.txt")).to_be_visible()
        self.assertEqual(self.download(visitor, "final.txt"), _digest(b"Dear reader"))
        self.judge(visitor)

        page.get_by_role("link", name="Files", exact=True).first.click()
        self.act(page, "Move", "Letters")
        dialog.get_by_text("Archive", exact=True).click()
        dialog.get_by_role("button", name="Move here").click()
        expect(self.row(page, "Letters")).to_have_count(0)
        page.goto(self.origin(visitor) + "/files/Archive/Letters/final.txt?view=1")
        expect(page.get_by_text("Dear reader")).to_be_visible()

        page.goto(self.origin(visitor) + "/files/")
        self.act(page, "Delete", "Archive")
        dialog.get_by_role("button", name="Delete").click()
        expect(self.row(page, "Archive")).to_have_count(0)
        expect(page.get_by_text("Nothing is here yet.")).to_be_visible()

    def test_a_name_is_there_once_however_many_tabs_act(self) -> None:
        """Two browsers make the same folder: one of them is told, nothing is lost."""
        first = self.member("ida")
        second = self.person("ida again")
        self.log_in(second, "ida", PASSWORD)
        for visitor in (first, second):
            visitor.page.goto(self.origin(visitor) + "/files/")
        self.make_folder(first.page, "Shared name")
        expect(self.row(second.page, "Shared name")).to_be_visible()  # without a reload
        with second.forgiving("409"):
            self.ask_for_folder(second.page, "Shared name")
            expect(second.page.get_by_role("dialog").get_by_role("alert")).to_be_visible()
            second.page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        expect(self.row(second.page, "Shared name")).to_have_count(1)

    def test_an_uploaded_page_is_not_run(self) -> None:
        """HTML and SVG of users come as files; nothing of them acts in the cloud's name."""
        visitor = self.member("jana")
        page = visitor.page
        page.goto(self.origin(visitor) + "/files/")
        self.upload(page, {"page.html": HOSTILE, "picture.svg": b"<svg>" + HOSTILE + b"</svg>"})
        for name in ("page.html", "picture.svg"):
            expect(self.row(page, name)).to_be_visible()
            answer = visitor.context.request.get(f"{self.origin(visitor)}/files/{name}")
            kind = answer.headers["content-type"]
            disposition = answer.headers.get("content-disposition", "")
            policy = answer.headers["content-security-policy"]
            self.assertTrue(disposition.startswith("attachment") or "sandbox" in policy, name)
            self.assertEqual(answer.headers["x-content-type-options"], "nosniff")
            self.assertNotIn("script-src 'self'" if "sandbox" in policy else "\0", kind)

    # -- what a person does ----------------------------------------------------------------------

    def row(self, page: Page, name: str) -> Locator:
        return page.locator(f'tr[data-name="{name}"]:visible')

    def upload(self, page: Page, files: dict[str, bytes]) -> None:
        """Choose files by the button; returns when they are chosen, not when they are stored."""
        folder = Path(self.mktemp())
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Upload", exact=True).click()
        chooser.value.set_files([folder / name for name in files])

    def download(self, visitor: Visitor, name: str) -> str:
        """The digest of what the row's download button brings."""
        row = self.row(visitor.page, name)
        row.hover()
        with visitor.page.expect_download() as download:
            row.get_by_role("link", name=f"Download {name}").click()
        return _digest(download.value.path().read_bytes())

    def ask_for_folder(self, page: Page, name: str) -> None:
        page.get_by_role("button", name="New folder").click()
        page.get_by_role("dialog").get_by_role("textbox").fill(name)
        page.get_by_role("dialog").get_by_role("button", name="Create").click()

    def make_folder(self, page: Page, name: str) -> None:
        self.ask_for_folder(page, name)
        expect(self.row(page, name)).to_be_visible()

    def act(self, page: Page, verb: str, name: str) -> None:
        row = self.row(page, name)
        row.hover()
        row.get_by_role("button", name=f"{verb} {name}").click()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
