"""What every feature of the web frontend gets: the services, the page templates, the navigation."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from attrs import define, field, frozen
from jinja2 import Environment as Templates
from jinja2 import PackageLoader, StrictUndefined
from prometheus_client import CollectorRegistry

from penncloud.client.directory import Directory
from penncloud.client.raw import RawCells
from penncloud.client.table import Table
from penncloud.platform.config import Cluster, Http
from penncloud.platform.environment import Environment
from penncloud.services.accounts import Accounts
from penncloud.services.admin import ServerControl
from penncloud.services.sessions import Sessions
from penncloud.web.attempts import Attempts
from penncloud.web.events import Events
from penncloud.web.request import WebRequest
from penncloud.web.siblings import Siblings


@frozen
class NavigationEntry:
    """One entry of the bar at the top, and one tile of the home page."""

    label: str
    path: str
    icon: str  # name of a symbol in templates/icons.html
    about: str  # a few words for the tile
    admin_only: bool = False


@define
class Navigation:
    """Entries in the order in which the features were mounted."""

    entries: list[NavigationEntry] = field(factory=list)

    def add(
        self, label: str, path: str, *, icon: str, about: str, admin_only: bool = False
    ) -> None:
        self.entries.append(NavigationEntry(label, path, icon, about, admin_only))

    def visible(self, is_admin: bool) -> list[NavigationEntry]:
        return [entry for entry in self.entries if is_admin or not entry.admin_only]


def size_text(size_bytes: int) -> str:
    """A size for people: decimal units, as disks and browsers show them."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    size = float(size_bytes)
    for unit in ("kB", "MB", "GB", "TB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.1f} {unit}" if size < 9.95 else f"{size:.0f} {unit}"
    return f"{size / 1000:.1f} PB"


def iso_time(unix_s: float) -> str:
    """For `<time datetime>`; scripts show it in the reader's own time zone."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")


def time_text(unix_s: float) -> str:
    """For readers without scripts."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


@define
class WebContext:
    """Shared by all features of one frontend. `templates` escapes everything by itself."""

    environment: Environment
    table: Table
    raw: RawCells
    directory: Directory
    control: ServerControl
    accounts: Accounts
    sessions: Sessions
    cluster: Cluster
    config: Http
    registry: CollectorRegistry
    events: Events
    siblings: Siblings
    attempts: Attempts
    static_url: Callable[[str], str]
    navigation: Navigation = field(factory=Navigation)
    templates: Templates = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.templates = Templates(
            loader=PackageLoader("penncloud.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self.templates.filters.update(
            static_url=self.static_url, size=size_text, iso=iso_time, time=time_text
        )

    def page(self, request: WebRequest, template: str, **values: Any) -> bytes:
        """A template of `templates/` as the answer to `request`.

        Templates extend base.html; besides `values` they see `session` (or none), `csrf`, `path`,
        `navigation`, `lb_url` and `domain`.
        """
        session = request.session
        common: dict[str, Any] = {
            "session": session,
            "csrf": request.csrf,
            "path": request.path.decode("utf-8", "replace"),
            "navigation": self.navigation.visible(session.is_admin) if session else [],
            "lb_url": self.config.lb_url,
            "domain": self.cluster.domain,
        }
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        return self.templates.get_template(template).render(common | values).encode()
