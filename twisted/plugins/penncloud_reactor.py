"""`--reactor prompt`, for any program that takes the option. The roles use it without being asked to."""

from twisted.application.reactors import Reactor

prompt = Reactor(
    "prompt",
    "penncloud.platform.prompt_reactor",
    "epoll(7) with less work for each small answer",
)
