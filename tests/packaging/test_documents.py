"""The documents hold together: what they point to is there, decisions are numbered."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

_ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


class DocumentTests(SynchronousTestCase):
    def test_links(self) -> None:
        """Every file and picture that a document points to exists."""
        documents = [_ROOT / "README.md", *(_ROOT / "docs").rglob("*.md")]
        found = [(path, link) for path in documents for link in _LINK.findall(path.read_text())]
        self.assertGreater(len(found), 10)
        missing = [(path.name, link) for path, link in found if not (path.parent / link).exists()]
        self.assertEqual(missing, [])

    def test_decisions(self) -> None:
        """Decisions are numbered 1, 2, 3... in their file names, and their titles say the same."""
        notes = sorted((_ROOT / "docs" / "decisions").glob("[0-9]*.md"))
        numbers = [int(path.name.partition("-")[0]) for path in notes]
        self.assertEqual(numbers, list(range(1, len(notes) + 1)))
        titles = [path.read_text().partition("\n")[0] for path in notes]
        for number, title in zip(numbers, titles, strict=True):
            self.assertTrue(title.startswith(f"# {number}. "), title)
