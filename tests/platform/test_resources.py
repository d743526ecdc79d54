"""Twin of `penncloud.platform.resources`."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform.errors import ConfigurationError
from penncloud.platform.resources import MAX_WORKERS, static_dir, worker_count


class WorkerCountTests(SynchronousTestCase):
    def machine(self, cores: int, memory_mib: int) -> None:
        self.patch(os, "sched_getaffinity", lambda pid: set(range(cores)))
        pages = memory_mib * 1024 * 1024 // 4096
        sizes = {"SC_PHYS_PAGES": pages, "SC_PAGE_SIZE": 4096}
        self.patch(os, "sysconf", lambda name: sizes[name])

    def test_auto(self) -> None:
        """One per core; fewer where memory is short, and none on a very small machine."""
        for cores, memory_mib, count in (
            (4, 16_000, 4),
            (1, 16_000, 1),
            (8, 2048, 4),
            (2, 1024, 2),
            (2, 1000, 1),
            (2, 500, 0),
            (256, 500_000, MAX_WORKERS),
        ):
            self.machine(cores, memory_mib)
            self.assertEqual(worker_count("auto"), count, (cores, memory_mib))

    def test_configured(self) -> None:
        """A number is a number, whatever the machine is; one that makes no sense is said."""
        self.machine(1, 500)
        for count in (0, 1, 8, MAX_WORKERS):
            self.assertEqual(worker_count(count), count)
        for count in (-1, MAX_WORKERS + 1):
            with self.assertRaisesRegex(ConfigurationError, "workers"):
                worker_count(count)


class StaticTests(SynchronousTestCase):
    def test_found(self) -> None:
        """The style sheets and scripts are where the program is."""
        self.assertTrue((Path(static_dir()) / "js" / "page.js").is_file())
