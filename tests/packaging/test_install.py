"""What a wheel and an editable installation bring: commands, roles, templates and static files.

Each is installed, without its dependencies, into an environment of its own that borrows those of the
environment that runs the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parent.parent.parent
ROLES = {f"penncloud-{role}" for role in ("coordinator", "storage", "http", "smtp", "lb")}
SOURCES = ("penncloud", "twisted", "static", "etc", "docs")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md")

_PROBE = """
import json, pathlib, sys
from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
import penncloud.web
from penncloud.platform.resources import static_dir
web = pathlib.Path(penncloud.web.__file__).parent
print(json.dumps({
    "package": penncloud.web.__file__,
    "roles": [p.tapname for p in getPlugins(IServiceMaker) if p.tapname.startswith("penncloud-")],
    "static": str(static_dir()),
    "templates": sorted(str(p.relative_to(web)) for p in (web / "templates").rglob("*.html")),
}))
"""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    # Trial's workers hand down a path that leads to the checkout.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        env=environment,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def files_below(directory: Path) -> set[str]:
    return {
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
    }


class InstallTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.work = Path(tempfile.mkdtemp(prefix="penncloud-packaging-"))
        self.addCleanup(shutil.rmtree, self.work)
        self.source = self.work / "source"
        self.source.mkdir()
        skip = shutil.ignore_patterns("__pycache__", "*.egg-info", "dropin.cache")
        for name in SOURCES:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.source / name, ignore=skip)
        for name in FILES:
            shutil.copy(ROOT / name, self.source / name)

    def install(self, name: str, *what: str | Path) -> Path:
        """A new environment with this installed; its directory."""
        place = self.work / name
        run(sys.executable, "-m", "venv", "--without-pip", place)
        site = Path(
            run(place / "bin/python", "-c", "import site; print(site.getsitepackages()[0])").strip()
        )
        (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
        run(
            *pip,
            "--python",
            place / "bin/python",
            "install",
            "--no-deps",
            "--no-index",
            "--no-build-isolation",
            "--ignore-installed",
            "--root-user-action=ignore",
            *what,
        )
        return place

    def check(self, place: Path, package_root: Path, static: Path) -> None:
        found = json.loads(run(place / "bin/python", "-P", "-c", _PROBE, cwd=self.work))
        self.assertTrue(Path(found["package"]).is_relative_to(package_root), found["package"])
        self.assertEqual(set(found["roles"]), ROLES)
        self.assertTrue(Path(found["static"]).is_relative_to(static), found["static"])
        self.assertEqual(files_below(Path(found["static"])), files_below(ROOT / "static"))
        self.assertEqual(
            set(found["templates"]),
            {f"templates/{name}" for name in files_below(ROOT / "penncloud" / "web" / "templates")},
        )
        twistd = "from twisted.scripts.twistd import run; run()"
        listed = run(place / "bin/python", "-P", "-c", twistd, "--help", cwd=self.work)
        for role in ROLES:
            self.assertIn(role, listed)
        self.assertIn("Runs and administers", run(place / "bin/penncloud", "--help", cwd=self.work))

    def test_wheel(self) -> None:
        """From a wheel everything is found inside the environment, nothing in the checkout."""
        wheels = self.work / "wheels"
        run(
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--quiet",
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            wheels,
            self.source,
        )
        (wheel,) = wheels.glob("penncloud-*.whl")
        place = self.install("wheel", wheel)
        self.check(place, place, place)

    def test_editable(self) -> None:
        """Installed editable, the checkout itself is what runs."""
        place = self.install("editable", "--editable", self.source)
        self.check(place, self.source, self.source)
