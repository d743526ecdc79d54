"""Sending one message to the recipients of one domain: host after host, until all are answered."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError, TimeoutError
from twisted.logger import Logger

from penncloud.platform.config import parse_address
from penncloud.platform.environment import Environment
from penncloud.platform.tls import AnybodysCertificate
from penncloud.smtp.client import Answer, Conversation, Job, Outcome, Timeouts
from penncloud.smtp.mx import MxRouter, NoRoute

# Conversations begun for one message in one attempt, whatever the domain's records say.
MAX_CONVERSATIONS = 12


@define
class Verdict:
    """What is known of a recipient after an attempt, and which server said it."""

    answer: Answer
    remote: str = ""


@define
class Relay:
    """The way out. `smart_host` (host:port) takes everything, if it is set.

    `opportunistic_tls`: encrypt to servers that offer STARTTLS, whatever certificate they have.
    """

    _environment: Environment
    _router: MxRouter
    hostname: str
    port: int = 25
    smart_host: str = ""
    timeouts: Timeouts = field(factory=Timeouts)
    opportunistic_tls: bool = True

    log = Logger()

    async def send(self, domain: str, job: Job) -> dict[str, Verdict]:
        """A verdict for every recipient; never raises for what the other side does.

        Hosts are tried in the order of their preference. A recipient whom one host refuses for good is
        not offered to the next; one whom a host puts off is.
        """
        verdicts: dict[str, Verdict] = {}
        settled: set[str] = set()
        try:
            if self.smart_host:
                host, port = parse_address(self.smart_host)
                hosts = [host]
            else:
                hosts, port = await self._router.hosts(domain), self.port
        except NoRoute as error:
            code = 550 if error.is_permanent else 450
            return _for_all(job, Verdict(Answer(code, error.status, str(error))))
        left = MAX_CONVERSATIONS
        for host in hosts:
            try:
                addresses = await self._router.addresses(host)
            except NoRoute as error:
                permanent = error.is_permanent and len(hosts) == 1
                answer = Answer(550 if permanent else 450, error.status, str(error))
                refused = Outcome(dict.fromkeys(job.recipients, answer), is_refused=True)
                self._note(refused, host, verdicts, settled)
                continue
            for address in addresses:
                waiting = [each for each in job.recipients if each not in settled]
                if not waiting or left == 0:
                    break
                left -= 1
                outcome = await self._try(host, address, port, _with_recipients(job, waiting))
                self._note(outcome, host, verdicts, settled)
                if not outcome.is_refused:
                    break  # this host has spoken; its other addresses would say the same
        nothing = Verdict(Answer(450, "4.4.0", "No server could be asked"))
        return {recipient: verdicts.get(recipient, nothing) for recipient in job.recipients}

    async def _try(self, host: str, address: str, port: int, job: Job) -> Outcome:
        """By STARTTLS if it can be had, else in the clear: RFC 7435, better than not at all."""
        if not self.opportunistic_tls:
            return await self._talk(address, port, job)
        outcome = await self._talk(address, port, job, AnybodysCertificate(host))
        if not outcome.tls_failed:
            return outcome
        self.log.info(
            "{host} ({address}): STARTTLS failed, so in the clear", host=host, address=address
        )
        return await self._talk(address, port, job)

    async def _talk(
        self, address: str, port: int, job: Job, tls: AnybodysCertificate | None = None
    ) -> Outcome:
        kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
        endpoint: Any = kind(
            self._environment.reactor, address, port, timeout=self.timeouts.connect
        )
        conversation = Conversation(self._environment, job, self.hostname, self.timeouts, tls)
        try:
            connecting: Deferred[Any] = connectProtocol(endpoint, conversation)
            await connecting
        except (ConnectError, TimeoutError, OSError) as error:
            answer = Answer(0, "4.4.1", f"No connection to {address}: {error}")
            return Outcome(dict.fromkeys(job.recipients, answer), is_refused=True)
        return await conversation.done

    def _note(
        self, outcome: Outcome, host: str, verdicts: dict[str, Verdict], settled: set[str]
    ) -> None:
        """Remember the answers. What a host says before it knows the recipient settles nothing."""
        for recipient, answer in outcome.answers.items():
            if recipient in settled:
                continue
            verdicts[recipient] = Verdict(answer, host)
            if (answer.is_delivered or answer.is_permanent) and not outcome.is_refused:
                settled.add(recipient)
            self.log.info(
                "{host} on <{recipient}>: {code} {status} {text}",
                host=host,
                recipient=recipient,
                code=answer.code,
                status=answer.status,
                text=answer.text,
            )


def _for_all(job: Job, verdict: Verdict) -> dict[str, Verdict]:
    return dict.fromkeys(job.recipients, verdict)


def _with_recipients(job: Job, recipients: list[str]) -> Job:
    return Job(job.sender, recipients, job.size, job.body, job.may_finish)
