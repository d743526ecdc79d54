"""Puts the web application together from its services; used by the node, the tests and the demo."""

from __future__ import annotations

from urllib.parse import urlsplit

from argon2 import PasswordHasher
from prometheus_client import CollectorRegistry

from penncloud.client.directory import Directory
from penncloud.client.raw import RawCells
from penncloud.client.table import Table
from penncloud.platform.config import Cluster, Http
from penncloud.platform.environment import Environment
from penncloud.platform.resources import static_dir
from penncloud.platform.trusted import Trusted
from penncloud.services.accounts import Accounts
from penncloud.services.admin import ServerControl
from penncloud.services.sessions import Sessions
from penncloud.web.application import Application
from penncloud.web.attempts import Attempts, CountedHere
from penncloud.web.context import WebContext
from penncloud.web.events import Events
from penncloud.web.features import mount_all
from penncloud.web.security import HostNames
from penncloud.web.siblings import Siblings
from penncloud.web.site import WebSite
from penncloud.web.statics import Statics


def build_site(
    environment: Environment,
    *,
    cluster: Cluster,
    config: Http,
    table: Table,
    raw: RawCells,
    directory: Directory,
    control: ServerControl,
    registry: CollectorRegistry,
    hasher: PasswordHasher | None = None,
    attempts: Attempts | None = None,
) -> tuple[WebSite, WebContext]:
    """The site to listen with, and the context of its features. `attempts` are counted in this process
    unless they are given."""
    sessions = Sessions(table, environment, config.session_hours * 3600)
    statics = Statics(static_dir())
    siblings = Siblings(config)
    directory.subscribe(siblings.update)
    context = WebContext(
        environment=environment,
        table=table,
        raw=raw,
        directory=directory,
        control=control,
        accounts=Accounts(table, environment, hasher),
        sessions=sessions,
        cluster=cluster,
        config=config,
        registry=registry,
        events=Events(table, environment, sessions, registry),
        siblings=siblings,
        attempts=attempts or CountedHere(environment.reactor),
        static_url=statics.url,
    )
    app = Application(context)
    statics.mount(app)
    context.events.mount(app)
    mount_all(app, context)
    names = HostNames([config.host, config.advertise, *config.host_names, _host_of(config.lb_url)])
    site = WebSite(
        app,
        environment,
        names,
        registry,
        slow_s=config.slow_s,
        trusted=Trusted(config.trusted_proxies),
        cookie_domain=config.cookie_domain.lower().strip("."),
    )
    return site, context


def _host_of(url: str) -> str:
    return urlsplit(url).hostname or ""
