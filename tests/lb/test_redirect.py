"""Twin of `penncloud.lb.redirect`."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lb.redirect import BadRequest, location, origin_form, requested_name
from tests.lb.test_balance import http


class RequestedNameTests(SynchronousTestCase):
    def test_name_without_port(self) -> None:
        """The port is cut off, case does not matter, IPv6 keeps its brackets."""
        self.assertEqual(requested_name([b"LocalHost:8080"], True), "localhost")
        self.assertEqual(requested_name([b"cloud.example.org"], True), "cloud.example.org")
        self.assertEqual(requested_name([b"[::1]:8080"], True), "[::1]")

    def test_old_clients_need_none(self) -> None:
        """HTTP/1.0 has no Host header."""
        self.assertEqual(requested_name([], False), "")

    def test_refused(self) -> None:
        """None, two, or one that is not a host name: RFC 9112 wants 400."""
        bad: list[list[bytes]] = [
            [],
            [b"a", b"b"],
            [b""],
            [b"a b"],
            [b"user@host"],
            [b"host/path"],
            [b"host:port"],
            [b"h\x00st"],
            [b"<script>"],
            [b"x" * 300],
        ]
        for hosts in bad:
            with self.assertRaises(BadRequest, msg=repr(hosts)):
                requested_name(hosts, True)


class OriginFormTests(SynchronousTestCase):
    def test_kept_as_it_came(self) -> None:
        """Path and query are neither decoded nor normalised."""
        for target in (b"/", b"/a/../b?x=%2F&y=1;2", b"//evil.example/x"):
            self.assertEqual(origin_form(target), target)

    def test_absolute_form(self) -> None:
        """The authority of an absolute target is dropped, not followed."""
        self.assertEqual(origin_form(b"http://evil.example/a?b"), b"/a?b")
        self.assertEqual(origin_form(b"http://evil.example"), b"/")
        self.assertEqual(origin_form(b"HTTP://evil.example?b"), b"/?b")

    def test_refused(self) -> None:
        """Control and non-ASCII bytes, and what is no path at all."""
        for target in (b"", b"*", b"evil.example:80", b"/\xc3\xa9", b"/a\tb", b"/a\x00"):
            with self.assertRaises(BadRequest, msg=repr(target)):
                origin_form(target)


class LocationTests(SynchronousTestCase):
    def test_advertised_host(self) -> None:
        """The client goes where the directory says, not where its Host says."""
        node = msgspec.structs.replace(http(1), host="web1.example.org")
        for name in ("", "evil.example", "localhost", "127.0.0.1"):
            self.assertEqual(location(node, name, b"/x"), b"http://web1.example.org:8081/x")

    def test_localhost_stays_localhost(self) -> None:
        """On one machine a browser keeps the name it came by, as its cookies are bound to it."""
        node = http(1)
        self.assertEqual(location(node, "localhost", b"/x"), b"http://localhost:8081/x")
        self.assertEqual(location(node, "127.0.0.1", b"/x"), b"http://127.0.0.1:8081/x")
        self.assertEqual(location(node, "", b"/x"), b"http://127.0.0.1:8081/x")

    def test_ipv6(self) -> None:
        """An IPv6 address is put in brackets."""
        node = msgspec.structs.replace(http(1), host="2001:db8::1")
        self.assertEqual(location(node, "", b"/"), b"http://[2001:db8::1]:8081/")

    @given(st.binary(max_size=40), st.binary(max_size=40))
    def test_never_elsewhere(self, host: bytes, target: bytes) -> None:
        """Whatever a client sends, the redirect leads to the frontend or is refused."""
        try:
            name = requested_name([host], True)
            where = location(http(1), name, origin_form(b"/" + target))
        except BadRequest:
            return
        parts = urlsplit(where.decode("ascii"))
        self.assertIn(parts.netloc, ("127.0.0.1:8081", "localhost:8081"))
        self.assertEqual(parts.scheme, "http")
