"""The static files as a whole."""

from __future__ import annotations

import tomllib
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform.resources import static_dir
from penncloud.web.statics import Statics

ROOT = Path(__file__).resolve().parents[2]


class StaticsTests(SynchronousTestCase):
    def test_every_directory_is_installed(self) -> None:
        """A wheel lists the directories of static/ one by one: none may be forgotten."""
        pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
        patterns = pyproject["tool"]["setuptools"]["data-files"]
        listed = {path for names in patterns.values() for name in names for path in ROOT.glob(name)}
        missing = {path for path in (ROOT / "static").rglob("*") if path.is_file()} - listed
        self.assertEqual(missing, set())
        for target, names in patterns.items():
            for name in names:
                self.assertEqual(target, f"share/penncloud/{Path(name).parent.as_posix()}")

    def test_everything_from_others_has_its_licence(self) -> None:
        """Each folder of static/vendor/ has a licence beside it and a line in the list."""
        table = (static_dir() / "vendor/README.md").read_text("utf-8")
        folders = [path for path in (static_dir() / "vendor").iterdir() if path.is_dir()]
        self.assertTrue(folders)
        for folder in folders:
            self.assertTrue(list(folder.glob("LICENSE*")), folder.name)
            self.assertIn(f"| {folder.name} |", table)

    def test_address_changes_with_the_content(self) -> None:
        """A changed file has a new address, so that it may be cached for ever."""
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "a.js").write_text("1")
        first = Statics(directory).url("a.js")
        (directory / "a.js").write_text("2")
        self.assertNotEqual(first, Statics(directory).url("a.js"))

    def test_unknown_name_is_an_error_at_once(self) -> None:
        """A typo in a template fails when the page is rendered, not in the browser."""
        with self.assertRaises(KeyError):
            Statics(static_dir()).url("js/nothing.js")
