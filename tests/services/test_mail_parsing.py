"""Addresses, headers and MIME: strict where it decides, tolerant and bounded where it only shows."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from penncloud.services.mail import headers, html, mime
from penncloud.services.mail.addresses import Address, BadAddress, parse_address, parse_list
from penncloud.services.mail.summary import summarise


class AddressTests(SynchronousTestCase):
    def test_plain_and_quoted(self) -> None:
        """Dot-atoms and quoted local parts are understood; only the domain is lowered."""
        self.assertEqual(parse_address("Al.ice@Example.ORG"), Address("Al.ice", "example.org"))
        odd = parse_address('"a b\\"c@d"@x.org')
        self.assertEqual(odd, Address('a b"c@d', "x.org"))
        self.assertEqual(parse_address(str(odd)), odd)

    def test_refused(self) -> None:
        """What is no address is refused with a reason, not passed on."""
        for bad in (
            "",
            "a",
            "a@",
            "@x",
            "a@@b",
            "a b@c",
            ".a@b",
            "a..b@c",
            "a@b..c",
            "a@-b",
            "<a@b>",
            "@r:a@b",
            "a@b\r\n",
            "a\x00@b",
            '"a@b',
            "x" * 65 + "@b",
            "a@" + "b" * 256,
        ):
            with self.subTest(bad=bad):
                self.assertRaises(BadAddress, parse_address, bad)

    def test_list(self) -> None:
        """Names, quoted commas, comments and groups of a header are taken apart."""
        text = '"Doe, Jane" <jane@x>, bob@y (Bob (B) C), friends: a@b, C <c@d>;, <e@f>'
        shown = [(s.name, s.address) for s in parse_list(text)]
        self.assertEqual(
            shown,
            [
                ("Doe, Jane", "jane@x"),
                ("Bob (B) C", "bob@y"),
                ("", "a@b"),
                ("C", "c@d"),
                ("", "e@f"),
            ],
        )
        self.assertEqual(str(parse_list(text)[0]), '"Doe, Jane" <jane@x>')

    def test_list_never_recurses(self) -> None:
        """Thousands of open parentheses, which end the stdlib's parser, only make an odd name."""
        self.assertEqual(len(parse_list("(" * 100_000 + "a@b")), 1)

    @given(st.text(max_size=200))
    @settings(max_examples=150, deadline=None)
    def test_list_takes_anything(self, text: str) -> None:
        """No text makes the list parser fail."""
        parse_list(text)


class HeaderTests(SynchronousTestCase):
    def test_folding_and_encoded_words(self) -> None:
        """Folded lines are joined; a character split over two encoded words is whole again."""
        data = (
            b"Subject: =?utf-8?Q?Gr=C3?=\r\n =?UTF-8?Q?=BC=C3=9Fe?= an"
            b" =?iso-8859-1?B?SvxyZ2Vu?=\r\nX:\r\n\r\nbody"
        )
        found, body = headers.split(data)
        self.assertEqual(found.text("subject"), "Grüße an Jürgen")
        self.assertEqual(data[body:], b"body")

    def test_deceiving_characters_go(self) -> None:
        """Controls and text direction overrides never reach the page."""
        self.assertEqual(headers.decode("a\u202egpj.exe\x07\r\nb".encode()), "agpj.exe b")

    def test_unknown_and_dangerous_charsets(self) -> None:
        """Unknown charsets, and codecs that are none, are read as UTF-8 or Latin-1."""
        self.assertEqual(headers.decode_bytes("ü".encode(), "x-unknown"), "ü")
        self.assertEqual(headers.decode_bytes(b"\xfc", "idna"), "ü")
        self.assertEqual(headers.decode_bytes(b"abc", "base64\x00"), "abc")

    def test_parameters(self) -> None:
        """Quoted, continued and percent-encoded parameters (RFC 2231)."""
        kind, found = headers.parameters(
            b'Text/Plain; charset="us;ascii"; name*0*=utf-8\'\'%c3%bc; name*1="b.txt"'
        )
        self.assertEqual(kind, "text/plain")
        self.assertEqual(dict(found), {"charset": "us;ascii", "name": "üb.txt"})

    @given(st.binary(max_size=300))
    @settings(max_examples=150, deadline=None)
    def test_any_bytes(self, data: bytes) -> None:
        """No bytes make the header or MIME reader fail."""
        headers.split(data)
        headers.decode(data)
        headers.parameters(data)
        summarise(b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n" + data, len(data))


MIXED = (
    b"From: =?utf-8?Q?J=C3=BCrgen?= <j@x.org>\r\nTo: alice@penncloud\r\nSubject: s\r\n"
    b"Message-ID: <1@x>\r\nReferences: <a@x>\r\n <b@x>\r\n"
    b"Content-Type: multipart/mixed; boundary=out\r\n\r\n"
    b'preamble\r\n--out\r\nContent-Type: multipart/alternative; boundary="in"\r\n\r\n'
    b"--in\r\n\r\nplain =\r\n text\r\n--in\r\nContent-Type: text/html; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\nPGI+aGk8L2I+\r\n--in--\r\n"
    b'--out\r\nContent-Type: application/pdf; name="../../etc/passwd"\r\n'
    b"Content-Transfer-Encoding: quoted-printable\r\n\r\n=41=42\r\n--out--\r\nepilogue"
)


class MimeTests(SynchronousTestCase):
    def test_structure(self) -> None:
        """Alternatives and attachments are found, decoded, and named without a path."""
        found = mime.parse(MIXED)
        plain, marked = found.first("text/plain"), found.first("text/html")
        assert plain is not None
        assert marked is not None
        self.assertEqual(mime.content(MIXED, plain), b"plain =\r\n text")
        self.assertEqual(mime.content(MIXED, marked), b"<b>hi</b>")
        (pdf,) = found.attachments
        self.assertEqual((pdf.download_name, mime.content(MIXED, pdf)), ("passwd", b"AB"))
        self.assertFalse(found.is_cut)

    def test_depth_is_bounded(self) -> None:
        """A multipart nested 1,500 deep is cut at the bound and stays downloadable as one part."""
        head = b"".join(
            b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n)
            for n in range(1500)
        )
        found = mime.parse(head + b"\r\nend")
        self.assertTrue(found.is_cut)
        self.assertEqual(len(found.parts), 1)
        self.assertEqual(found.parts[0].content_type, "application/octet-stream")

    def test_part_number_is_bounded(self) -> None:
        """Ten thousand parts are kept as one."""
        body = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 10_000
        found = mime.parse(body)
        self.assertTrue(found.is_cut)
        self.assertEqual(len(found.parts), 1)

    def test_text_in_boundary_like_lines(self) -> None:
        """A line that only begins like the boundary does not end a part."""
        body = (
            b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n--bc\r\nx--b\r\n--b--\r\n"
        )
        (part,) = mime.parse(body).parts
        self.assertEqual(mime.content(body, part), b"--bc\r\nx--b")

    def test_names_are_cleaned(self) -> None:
        """Path parts, NUL, direction overrides and endless names do not survive."""
        self.assertEqual(mime.clean_name("../../a\x00b"), "ab")
        self.assertEqual(mime.clean_name("C:\\x\\evil\u202etxt.exe"), "eviltxt.exe")
        self.assertEqual(mime.clean_name(".."), "")
        self.assertEqual(len(mime.clean_name("a" * 400 + ".pdf")), mime.MAX_NAME_CHARS)

    def test_summary(self) -> None:
        """A summary has what the list shows and what threads are found by."""
        found = summarise(MIXED, 1234)
        self.assertEqual(found.sender, "Jürgen <j@x.org>")
        self.assertEqual((found.subject, found.snippet, found.size), ("s", "plain = text", 1234))
        self.assertEqual((found.message_id, found.references), ("<1@x>", ("<a@x>", "<b@x>")))
        self.assertTrue(found.has_attachments)

    def test_hostile_summary(self) -> None:
        """A message of deep MIME and parentheses in To is still listed."""
        hostile = b"To: " + b"(" * 5000 + b"\r\nSubject: deep\r\n\r\nx"
        self.assertEqual(summarise(hostile, 9).subject, "deep")


class HtmlTests(SynchronousTestCase):
    def test_active_content_goes(self) -> None:
        """Scripts, handlers, frames, forms and javascript: links do not survive."""
        page, _ = html.sanitise(
            '<script>x</script><p onclick="x" style="color:red;position:fixed">a</p>'
            "<iframe src=x></iframe>"
            '<a href="javascript:x">l</a><form action=x><input></form><svg onload=x>',
            {},
        )
        for gone in ("script", "onclick", "iframe", "javascript", "form", "svg", "position"):
            self.assertNotIn(gone, page)
        self.assertIn("color:red", page.replace(" ", ""))

    def test_links_lead_to_the_web_or_to_mail(self) -> None:
        """A link to data: would be a page that the sender wrote, opened from ours."""
        for kept in ("https://a.example/", "HTTP://a.example/", "mailto:a@b.example"):
            self.assertIn("href", html.sanitise(f'<a href="{kept}">l</a>', {})[0], kept)
        for gone in ("data:text/html,x", " data:text/html,x", "cid:a", "/logout", "//a.example"):
            self.assertNotIn("href", html.sanitise(f'<a href="{gone}">l</a>', {})[0], gone)

    def test_html_as_text_keeps_its_lines(self) -> None:
        """What is quoted of HTML mail reads as it was shown: lines, characters, nothing hidden."""
        source = (
            "<style>p{}</style><title>t</title><script>x()</script><p>Dear &lt;Bob&gt;,<br>one\n two"
            "</p><p class=x>caf&eacute;&nbsp;&amp;amp; <b>tea</b></p><div><div><div>end</div></div></div>"
        )
        self.assertEqual(html.as_text(source), "Dear <Bob>,\none two\n\ncafé &amp; tea\n\nend")
        self.assertEqual(html.as_text("<p"), "")

    def test_remote_pictures_are_blocked(self) -> None:
        """A picture from elsewhere is not loaded, and that is told; one of the message is put in."""
        page, blocked = html.sanitise(
            '<img src="https://spy/x.png"><img src="cid:me">', {"me": ("image/png", b"png")}
        )
        self.assertTrue(blocked)
        self.assertNotIn("spy", page)
        self.assertIn("data:image/png;base64,cG5n", page)

    def test_own_pictures_only(self) -> None:
        """data: and svg pictures of the sender's choosing stay out."""
        page, _ = html.sanitise(
            '<img src="data:image/svg+xml,x"><img src="cid:s">', {"s": ("image/svg+xml", b"<svg>")}
        )
        self.assertNotIn("svg", page)
