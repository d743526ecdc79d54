"""Accounts in the browser: home page, sign up, log in, log out, change the password."""

from __future__ import annotations

from penncloud.services.accounts import Account, BadName, NameTaken, WrongPassword
from penncloud.services.passwords import MIN_CHARACTERS, BadPassword
from penncloud.web.application import Application, json_answer, see_other
from penncloud.web.context import WebContext
from penncloud.web.errors import WebError
from penncloud.web.request import SESSION_COOKIE, VISITOR_COOKIE, WebRequest
from penncloud.web.security import local_path


class _Features:
    """The routes of this module."""

    def __init__(self, context: WebContext) -> None:
        self._context = context
        self._attempts = context.attempts

    def home(self, request: WebRequest) -> bytes:
        return self._context.page(request, "account/home.html")

    def session(self, request: WebRequest) -> bytes:
        """Scripts ask whether they are still logged in, and so whether this frontend answers."""
        return json_answer(request, {"name": request.login.name})

    def login_form(self, request: WebRequest) -> bytes:
        target = local_path(request.query.text("next", "/"))
        if request.session is not None:
            return see_other(request, target)
        return self._login_page(request, target)

    async def log_in(self, request: WebRequest) -> bytes:
        form = request.form()
        name = form.text("name", "").strip().lower()
        password = form.text("password", "")
        target = local_path(form.text("next", "/"))
        wait_s = await self._attempts.log_in(name, request.client_address)
        if wait_s:
            request.setResponseCode(429)
            request.setHeader("retry-after", str(int(wait_s) + 1))
            minutes = int(wait_s / 60) + 1
            text = f"Too many attempts. Please try again in {minutes} minutes."
            return self._login_page(request, target, name, text)
        account = await self._context.accounts.verify(name, password)
        if account is None or not await self._begin_session(request, account):
            request.setResponseCode(403)
            text = "This name and password do not go together."
            return self._login_page(request, target, name, text)
        self._attempts.was_legitimate(name, request.client_address)
        return see_other(request, target)

    async def log_out(self, request: WebRequest) -> bytes:
        await self._context.sessions.end(request.login)
        request.set_cookie(SESSION_COOKIE, "", 0)
        return see_other(request, "/login")

    def sign_up_form(self, request: WebRequest) -> bytes:
        if request.session is not None:
            return see_other(request, "/")
        return self._sign_up_page(request)

    async def sign_up(self, request: WebRequest) -> bytes:
        form = request.form()
        name = form.text("name", "").strip().lower()
        password = form.text("password", "")
        if password != form.text("again", ""):
            return self._sign_up_page(request, name, "The two passwords differ.")
        if await self._attempts.sign_up(request.client_address):
            raise WebError(429, "Too many new accounts from your address. Please try again later.")
        try:
            account = await self._context.accounts.create(
                name, password, maker=request.visitor_token
            )
        except NameTaken as error:
            return await self._sign_up_again(request, name, password, error)
        except (BadName, BadPassword) as error:
            return self._sign_up_page(request, name, str(error))
        await self._begin_session(request, account)
        return see_other(request, "/")

    async def _sign_up_again(
        self, request: WebRequest, name: str, password: str, taken: NameTaken
    ) -> bytes:
        """The answer where the name is taken: perhaps by this very visitor, who was not told.

        Only the browser that asked for the account gets to its password, and that counts as a login:
        signing up tells nobody more about a password than logging in does.
        """
        if not await self._context.accounts.was_made_by(name, request.visitor_token):
            return self._sign_up_page(request, name, str(taken))
        if await self._attempts.log_in(name, request.client_address):
            raise WebError(429, "Too many attempts. Please try again later.")
        account = await self._context.accounts.verify(name, password)
        if account is None or not await self._begin_session(request, account):
            text = "You have made this account already. Please log in, with the password it has."
            return self._sign_up_page(request, name, text)
        self._attempts.was_legitimate(name, request.client_address)
        return see_other(request, "/")

    def account(self, request: WebRequest) -> bytes:
        done = "The password is changed." if request.query.text("changed", "") else ""
        return self._account_page(request, done=done)

    async def change_password(self, request: WebRequest) -> bytes:
        form = request.form()
        login = request.login
        new = form.text("new", "")
        if new != form.text("again", ""):
            return self._account_page(request, "The two new passwords differ.")
        if await self._attempts.log_in(login.name, request.client_address):
            raise WebError(429, "Too many attempts. Please try again later.")
        try:
            account = await self._context.accounts.change_password(
                login.name, form.text("old", ""), new
            )
        except (WrongPassword, BadPassword) as error:
            return self._account_page(request, str(error))
        self._attempts.was_legitimate(login.name, request.client_address)
        await self._begin_session(request, account)
        return see_other(request, "/account?changed=1")

    async def _begin_session(self, request: WebRequest, account: Account) -> bool:
        """A new session id at every login; False if the account was changed in between."""
        session = await self._context.sessions.start(account)
        if session is None:
            return False
        request.set_cookie(SESSION_COOKIE, session.cookie, self._context.sessions.lifetime_s)
        if request.cookie(VISITOR_COOKIE):
            request.set_cookie(VISITOR_COOKIE, "", 0)
        return True

    def _login_page(
        self, request: WebRequest, target: str, name: str = "", problem: str = ""
    ) -> bytes:
        return self._context.page(
            request, "account/login.html", target=target, name=name, problem=problem
        )

    def _sign_up_page(self, request: WebRequest, name: str = "", problem: str = "") -> bytes:
        if problem:
            request.setResponseCode(400)
        return self._context.page(
            request,
            "account/signup.html",
            name=name,
            problem=problem,
            min_characters=MIN_CHARACTERS,
        )

    def _account_page(self, request: WebRequest, problem: str = "", done: str = "") -> bytes:
        if problem:
            request.setResponseCode(400)
        return self._context.page(
            request,
            "account/account.html",
            problem=problem,
            done=done,
            min_characters=MIN_CHARACTERS,
        )


def mount(app: Application, context: WebContext) -> None:
    features = _Features(context)
    context.navigation.add("Account", "/account", icon="account", about="Your name and password")
    app.route("/")(features.home)
    app.route("/session")(features.session)
    app.route("/login", access="public")(features.login_form)
    app.route("/login", methods=["POST"], access="public")(features.log_in)
    app.route("/logout", methods=["POST"])(features.log_out)
    app.route("/signup", access="public")(features.sign_up_form)
    app.route("/signup", methods=["POST"], access="public")(features.sign_up)
    app.route("/account")(features.account)
    app.route("/account/password", methods=["POST"])(features.change_password)

    @app.route("/healthz", access="open")
    def healthz(request: WebRequest) -> bytes:
        """Answers while the reactor turns; says nothing of the store."""
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        return b"ok\n"
