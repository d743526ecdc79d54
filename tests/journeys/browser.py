"""Chromium as a judge: visitors whose every page is watched for what must never happen.

A `Visitor` is one person with an own browser context (own cookies). Violations of the content security
policy, errors in the console, uncaught exceptions and answers of 500 and above are collected from all
pages; `Visitor.check` raises for them. Playwright's synchronous API is used: the judged cluster runs
in processes of its own, so nothing here may need the reactor.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.waiting import PATIENCE_S

_T = TypeVar("_T")

# How long a page may take on a busy machine with two cores.
PATIENCE_MS: Final = 1000 * PATIENCE_S
DESKTOP: Final = (1280, 800)
PHONE: Final = (390, 844)

_FLAGS: Final = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

_REPORT_VIOLATIONS: Final = """
addEventListener("securitypolicyviolation", (event) =>
  console.error("CSP: " + event.violatedDirective + " " + event.blockedURI + " " + event.sample));
"""

# Serious and critical findings only: what keeps somebody from using the page.
_AXE: Final = """async () => {
  const result = await axe.run(document, {resultTypes: ["violations"]});
  return result.violations
    .filter((one) => one.impact === "serious" || one.impact === "critical")
    .map((one) => one.id + ": " + one.help + ": "
                  + one.nodes.slice(0, 4).map((node) => node.html.slice(0, 160)).join(" | "));
}"""

_SIDEWAYS: Final = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  return [...document.querySelectorAll("body *")]
    .filter((one) => one.getBoundingClientRect().right > width + 1)
    .slice(0, 5)
    .map((one) => one.outerHTML.slice(0, 120));
}"""


def find_chromium() -> str | None:
    """The browser's executable, if the machine has one."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Visitor:
    """One person at one browser. `page` is where they are now."""

    def __init__(self, name: str, context: BrowserContext) -> None:
        self.name = name
        self.context = context
        self.problems: list[str] = []
        self._forgiven: list[str] = []
        context.set_default_timeout(PATIENCE_MS)
        context.add_init_script(_REPORT_VIOLATIONS)
        context.on("page", self._watch)
        self.page: Page = context.new_page()

    def _watch(self, page: Page) -> None:
        page.on("console", lambda message: self._console(message.type, message.text, page.url))
        page.on("pageerror", lambda error: self._note(f"uncaught: {error}", page.url))
        page.on("response", lambda answer: self._answer(answer.status, answer.url))

    def _console(self, kind: str, text: str, url: str) -> None:
        if kind == "error":
            self._note(text, url)

    def _answer(self, status: int, url: str) -> None:
        if status >= 500:
            self._note(f"answer {status}", url)

    def _note(self, text: str, url: str) -> None:
        if not any(part in text for part in self._forgiven):
            self.problems.append(f"{self.name} at {url}: {text}")

    @contextmanager
    def forgiving(self, *parts: str) -> Iterator[None]:
        """For a step that is meant to meet an error: problems with one of `parts` do not count."""
        self._forgiven.extend(parts)
        try:
            yield
        finally:
            for part in parts:
                self._forgiven.remove(part)

    def check(self) -> None:
        """Raise AssertionError for anything that went wrong on any page so far."""
        problems, self.problems = self.problems, []
        if problems:
            raise AssertionError("\n".join(problems))

    def check_accessibility(self) -> None:
        """Raise AssertionError for serious findings of axe-core on the present page."""
        self.page.evaluate(_axe_source())
        findings = self.page.evaluate(_AXE)
        if findings:
            raise AssertionError(f"{self.page.url}:\n" + "\n".join(findings))

    def check_phone_width(self) -> None:
        """Raise AssertionError if the present page has to be scrolled sideways on a phone."""
        self.page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
        try:
            too_wide = self.page.evaluate(_SIDEWAYS)
        finally:
            self.page.set_viewport_size({"width": DESKTOP[0], "height": DESKTOP[1]})
        if too_wide:
            raise AssertionError(f"{self.page.url} is wider than a phone:\n" + "\n".join(too_wide))

    def close(self) -> None:
        self.context.close()


def _axe_source() -> str:
    return (Path(__file__).parent / "vendor" / "axe.min.js").read_text("utf-8")


class Chromium:
    """One browser process, and the visitors who use it."""

    def __init__(self, executable: str) -> None:
        self._playwright = sync_playwright().start()
        self._browser: Browser = self._playwright.chromium.launch(
            executable_path=executable, args=_FLAGS
        )

    def visitor(self, name: str, **options: Any) -> Visitor:
        """A new person, in a context of their own (`options` as of Browser.new_context)."""
        size = {"width": DESKTOP[0], "height": DESKTOP[1]}
        settings: dict[str, Any] = {"viewport": size, "color_scheme": "light", **options}
        return Visitor(name, self._browser.new_context(**settings))

    def close(self) -> None:
        self._browser.close()
        self._playwright.stop()


def wait_for(page: Page, condition: Callable[[], _T | None], what: str) -> _T:
    """Look again and again until `condition` gives something true; the page goes on meanwhile.

    For conditions outside the page (a mail that arrives, a server that dies); raises AssertionError
    naming `what` after the usual patience.
    """
    step_ms = 100
    for _ in range(PATIENCE_MS // step_ms):
        found = condition()
        if found:
            return found
        page.wait_for_timeout(step_ms)
    raise AssertionError(f"waited in vain for {what}")


def describe(value: object) -> str:
    """A value in a failure message."""
    return json.dumps(value, indent=1, default=str)
