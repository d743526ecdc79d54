"""docs/raft.md against the code."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from twisted.trial.unittest import SynchronousTestCase

from penncloud.coordinator.group_messages import Phase
from penncloud.coordinator.messages import CoordinatorRole
from penncloud.platform.config import Coordinator
from penncloud.raft.messages import Message
from penncloud.raft.node import Options, Role
from tests.raft.diagram import document

TEXT = (Path(__file__).parent.parent.parent / "docs" / "raft.md").read_text("utf-8")


class DocumentationTests(SynchronousTestCase):
    def test_states(self) -> None:
        """Every state of a node and every phase of a founding is explained."""
        for name in (*get_args(Role), *get_args(Phase)):
            self.assertIn(name, TEXT)
        self.assertIn("learner", {*get_args(CoordinatorRole)})

    def test_diagram(self) -> None:
        """The state diagram is what the code does; if not: python -m tests.raft.diagram."""
        self.assertEqual(document(), TEXT)

    def test_messages(self) -> None:
        """Every message is named."""
        for kind in get_args(Message):
            self.assertIn(f"`{kind.__name__}`", TEXT)

    def test_times(self) -> None:
        """The times are those of the configuration."""
        role = Coordinator()
        self.assertIn(f"`raft_heartbeat_ms` ({role.raft_heartbeat_ms})", TEXT)
        self.assertIn(f"`election_timeout_ms` ({role.election_timeout_ms},", TEXT)

    def test_sizes(self) -> None:
        """So are the sizes."""
        self.assertIn(f"`raft_log_bytes` ({Coordinator().raft_log_bytes >> 20} MiB)", TEXT)
        self.assertIn(f"pieces of {Options().max_message_bytes >> 10} KiB", TEXT)
