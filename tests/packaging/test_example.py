"""`etc/penncloud.example.toml` says what the configuration's structs say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform.config import SECTIONS, read_file, section

EXAMPLE = Path(__file__).parent.parent.parent / "etc" / "penncloud.example.toml"


class ExampleTests(SynchronousTestCase):
    def test_sections(self) -> None:
        """Every section is there, in the same order, and no other."""
        self.assertEqual(list(tomllib.loads(EXAMPLE.read_text())), list(SECTIONS))

    def test_every_key_with_its_default(self) -> None:
        """Each section has exactly the struct's keys, and their values are the defaults."""
        document = tomllib.loads(EXAMPLE.read_text())
        for name, kind in SECTIONS.items():
            keys = {field.name for field in msgspec.structs.fields(kind)}
            self.assertEqual(set(document[name]), keys, name)
            self.assertEqual(section(kind, document[name], name), kind(), name)

    def test_is_accepted(self) -> None:
        """The file is read as it is by every role."""
        read_file(str(EXAMPLE))

    def test_every_key_is_explained(self) -> None:
        """No key of a section stands there without a word, unless an earlier section has it."""
        explained: set[str] = set()
        comment = False
        for line in EXAMPLE.read_text().splitlines():
            key = re.match(r"([a-z_]+) = ", line)
            if key and comment:
                explained.add(key[1])
            elif key:
                self.assertIn(key[1], explained)
            comment = line.startswith("#")
