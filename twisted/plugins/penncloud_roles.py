"""The five roles of PennCloud as `twistd` subcommands."""

from twisted.application.service import ServiceMaker

coordinator = ServiceMaker(
    "PennCloud coordinator",
    "penncloud.taps.coordinator",
    "The source of truth for nodes and tablets, and the failure detector",
    "penncloud-coordinator",
)
storage = ServiceMaker(
    "PennCloud storage",
    "penncloud.taps.storage",
    "One server of the key-value store",
    "penncloud-storage",
)
http = ServiceMaker("PennCloud http", "penncloud.taps.http", "One web frontend", "penncloud-http")
smtp = ServiceMaker("PennCloud smtp", "penncloud.taps.smtp", "Mail in and out", "penncloud-smtp")
lb = ServiceMaker(
    "PennCloud lb", "penncloud.taps.lb", "The load balancer that browsers meet", "penncloud-lb"
)
