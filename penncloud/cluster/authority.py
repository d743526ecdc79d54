"""The cluster's certificate authority: makes it, signs with it, and replaces it without a gap.

    DIR/ca-1.pem, ca-1.key      the first authority's certificate and key; ca-2... its successors
    DIR/signing                 the number of the one that signs

The directory (mode 700) is all there is to it: whoever has it can make a member of the cluster. It is not
needed on any server. What servers need is written to another directory: `ca.pem`, the certificates of all
authorities that are believed, and for each server `ID.pem` and `ID.key`.

An authority is replaced in three steps, between which the files are brought to every host; at each step
every pair of servers has an authority that both believe:

    begin    a second authority; `ca.pem` has both, the first still signs
    switch   the second one signs: every certificate is made again
    finish   the first one is forgotten
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Literal

from attrs import define, frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from penncloud.cluster.layout import replace_file
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.tls.names import (
    ORGANIZATION,
    NotOurs,
    PeerName,
    checked,
    name_of,
    subject_of,
)

Step = Literal["begin", "switch", "finish"]

AUTHORITY_DAYS: Final = 3650
SERVER_DAYS: Final = 365
# Clocks of a cluster's hosts differ: what is issued now is valid a little earlier.
_SKEW: Final = datetime.timedelta(minutes=10)
# A certificate is made again when less than this share of its life is left.
_RENEW_SHARE: Final = 1 / 3


@frozen
class Issued:
    """A certificate that was found in a directory. `hosts` are the names and addresses in it."""

    name: PeerName
    hosts: tuple[str, ...]
    certificate: x509.Certificate

    @property
    def expires(self) -> datetime.datetime:
        return self.certificate.not_valid_after_utc


@define
class Authority:
    """The authority in `directory`. `now` gives the wall clock in Unix seconds.

    Its methods raise ConfigurationError for files that cannot be read, written or understood.
    """

    directory: Path
    now: Callable[[], float]

    @property
    def exists(self) -> bool:
        return (self.directory / "signing").exists()

    def init(self) -> None:
        """Make the first authority. Raises ConfigurationError where there is one already."""
        if self.exists:
            raise ConfigurationError(f"{self.directory}: there is an authority already")
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.directory.chmod(0o700)
        except OSError as error:
            raise ConfigurationError(f"{self.directory}: {error.strerror}") from error
        self._make(1)
        self._sign_with(1)

    # -- what there is ---------------------------------------------------------------------------

    @property
    def signing(self) -> int:
        """The number of the authority that signs."""
        path = self.directory / "signing"
        try:
            return int(path.read_text("ascii"))
        except FileNotFoundError as error:
            raise ConfigurationError(
                f"{self.directory}: there is no authority; `penncloud ca init` makes one"
            ) from error
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{path}: cannot be read: {error}") from error

    @property
    def numbers(self) -> list[int]:
        """Of all authorities that are believed, the oldest first."""
        stems = [path.stem.removeprefix("ca-") for path in self.directory.glob("ca-*.pem")]
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def certificate(self, number: int) -> x509.Certificate:
        path = self.directory / f"ca-{number}.pem"
        return _read_certificate(path)

    # -- what servers need -----------------------------------------------------------------------

    def publish(self, out: Path) -> None:
        """Write `ca.pem`: every authority that is believed."""
        bundle = b"".join(_pem(self.certificate(number)) for number in self.numbers)
        _write(out / "ca.pem", bundle, 0o644)

    def issue(
        self, out: Path, role: str, node_id: str, hosts: Sequence[str], days: int = SERVER_DAYS
    ) -> Issued:
        """Make a key and a certificate for a server, and `ca.pem`, in `out`.

        `hosts` are the names and addresses at which other programs (Prometheus) look for it; the id is
        always one of them.
        """
        try:
            name = checked(role, node_id)
        except NotOurs as error:
            raise ConfigurationError(str(error)) from error
        if days < 1:
            raise ConfigurationError(f"--days {days}: at least one")
        number = self.signing
        key = ec.generate_private_key(ec.SECP256R1())
        names = tuple(dict.fromkeys([node_id, *hosts]))
        certificate = self._certify(name, names, key.public_key(), number, days)
        self.publish(out)
        # The key first: who reads between the two finds a pair that does not match, and waits.
        _write(out / f"{node_id}.key", _key_pem(key), 0o600)
        _write(out / f"{node_id}.pem", _pem(certificate), 0o644)
        return Issued(name, names, certificate)

    def ensure(self, out: Path, role: str, node_id: str, hosts: Sequence[str]) -> bool:
        """Issue a certificate if there is none that will do for a while; whether one was made."""
        wanted = (checked(role, node_id), tuple(dict.fromkeys([node_id, *hosts])))
        try:
            found = read_issued(out / f"{node_id}.pem")
        except ConfigurationError:
            found = None
        good = (
            found is not None
            and (out / f"{node_id}.key").exists()
            and (found.name, found.hosts) == wanted
            and found.certificate.issuer == self.certificate(self.signing).subject
            and not self._is_due(found.certificate)
        )
        if not good:
            self.issue(out, role, node_id, hosts)
        return not good

    def rotate(self, step: Step, out: Path | None = None) -> None:
        """One step of replacing the authority; `out`: a directory whose files follow at once."""
        numbers = self.numbers
        signing = self.signing
        if step == "begin":
            if len(numbers) > 1:
                raise ConfigurationError("a rotation is under way: switch or finish comes next")
            self._make(signing + 1)
        elif step == "switch":
            if numbers[-1] == signing:
                raise ConfigurationError("there is no other authority to switch to: begin first")
            self._sign_with(numbers[-1])
        else:
            if len(numbers) == 1 or numbers[-1] != signing:
                raise ConfigurationError("nothing to finish: begin, then switch")
            for number in numbers[:-1]:
                (self.directory / f"ca-{number}.pem").unlink()
                (self.directory / f"ca-{number}.key").unlink(missing_ok=True)
        if out is not None:
            self.publish(out)
            if step == "switch":
                for found in all_issued(out):
                    self.issue(out, found.name.role, found.name.id, found.hosts)

    # -- signing ---------------------------------------------------------------------------------

    def _moment(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self.now(), datetime.UTC).replace(microsecond=0)

    def _is_due(self, certificate: x509.Certificate) -> bool:
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        return certificate.not_valid_after_utc - self._moment() < life * _RENEW_SHARE

    def _sign_with(self, number: int) -> None:
        _write(self.directory / "signing", b"%d\n" % number, 0o600)

    def _make(self, number: int) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        stamp = self._moment()
        # The same name twice would make a certificate's issuer ambiguous: the moment is part of it.
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
                x509.NameAttribute(
                    NameOID.COMMON_NAME, f"authority {number} of {stamp:%Y-%m-%dT%H:%M:%SZ}"
                ),
            ]
        )
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(stamp - _SKEW)
            .not_valid_after(stamp + datetime.timedelta(days=AUTHORITY_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(identifier, critical=False)
            .sign(key, hashes.SHA256())
        )
        _write(self.directory / f"ca-{number}.key", _key_pem(key), 0o600)
        _write(self.directory / f"ca-{number}.pem", _pem(certificate), 0o644)

    def _certify(
        self,
        name: PeerName,
        hosts: Sequence[str],
        key: ec.EllipticCurvePublicKey,
        number: int,
        days: int,
    ) -> x509.Certificate:
        issuer = self.certificate(number)
        issuer_key = self._key(number)
        stamp = self._moment()
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if name.role not in ("admin", "monitor"):
            uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject_of(name))
            .issuer_name(issuer.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(stamp - _SKEW)
            .not_valid_after(stamp + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False
            )
            .add_extension(identifier, critical=False)
            .sign(issuer_key, hashes.SHA256())
        )

    def _key(self, number: int) -> ec.EllipticCurvePrivateKey:
        path = self.directory / f"ca-{number}.key"
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise ConfigurationError(f"{path}: is no private key") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigurationError(f"{path}: is not a key that this program made")
        return key


def read_issued(path: Path) -> Issued:
    """A server's certificate. Raises ConfigurationError for what is none."""
    certificate = _read_certificate(path)
    try:
        name = name_of(certificate)
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (NotOurs, x509.ExtensionNotFound, ValueError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    return Issued(name, tuple(str(each.value) for each in found), certificate)


def all_issued(directory: Path) -> list[Issued]:
    """Every server's certificate in a directory, by id."""
    paths = sorted(directory.glob("*.pem"))
    return [read_issued(path) for path in paths if path.name != "ca.pem"]


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise ConfigurationError(f"{host!r} is no host name or address") from error


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"{path}: is no certificate") from error


def _write(path: Path, content: bytes, mode: int) -> None:
    try:
        # Certificates are no secrets; each key is private by its own mode.
        os.makedirs(path.parent, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{path.parent}: {error.strerror}") from error
    replace_file(path, content, mode)
