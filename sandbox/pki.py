"""Certificates in earnest: a CA of the sandbox's own, and what it signs."""

from __future__ import annotations

import datetime
import ipaddress
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_LIFETIME = datetime.timedelta(days=30)
# Clocks of two machines differ; a certificate that is valid "from now" is refused by one that is behind.
_BACKDATE = datetime.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key as PEM files; ``bundle_path`` holds both, as MongoDB wants them."""

    certificate_path: Path
    key_path: Path
    bundle_path: Path


class Authority:
    """A certificate authority in a directory; made there if there is none yet."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.certificate_path = directory / "ca.crt"
        self._key_path = directory / "ca.key"
        if not self.certificate_path.exists():
            directory.mkdir(parents=True, exist_ok=True)
            self._create(name)

    @property
    def pem(self) -> str:
        """The CA's certificate, which a client needs to verify servers."""
        return self.certificate_path.read_text(encoding="utf-8")

    def server(
        self, name: str, dns_names: Iterable[str] = ("localhost",), addresses: Iterable[str] = ("127.0.0.1",)
    ) -> Certificate:
        """A server's certificate for these names and addresses, in files called ``name``."""
        alternatives: list[x509.GeneralName] = [x509.DNSName(dns) for dns in dns_names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        subject = _name(name)
        # A member of a MongoDB replica set is client and server at once.
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._issue(name, subject, usages, x509.SubjectAlternativeName(alternatives))

    def client(self, common_name: str, organizations: Iterable[str] = ()) -> Certificate:
        """A client's certificate; for Kubernetes the common name is the user and the organizations are its groups."""
        file_name = "client-" + "".join(c if c.isalnum() or c in "-." else "_" for c in common_name)
        return self._issue(file_name, _name(common_name, organizations), [ExtendedKeyUsageOID.CLIENT_AUTH], None)

    def _create(self, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name), _name(name), key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        write_private(self._key_path, _pem(key))
        certificate = builder.sign(key, hashes.SHA256())
        self.certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _issue(
        self,
        file_name: str,
        subject: x509.Name,
        usages: list[x509.ObjectIdentifier],
        alternatives: x509.SubjectAlternativeName | None,
    ) -> Certificate:
        authority = x509.load_pem_x509_certificate(self.certificate_path.read_bytes())
        authority_key = serialization.load_pem_private_key(self._key_path.read_bytes(), None)
        if not isinstance(authority_key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{self._key_path} is not an elliptic curve key")
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(subject, authority.subject, key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
        builder = builder.add_extension(identifier, critical=False)
        if alternatives is not None:
            builder = builder.add_extension(alternatives, critical=False)
        paths = [self.directory / f"{file_name}.{suffix}" for suffix in ("crt", "key", "pem")]
        certificate = builder.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        private = _pem(key)
        paths[0].write_bytes(certificate)
        write_private(paths[1], private)
        write_private(paths[2], certificate + private)
        return Certificate(*paths)


def _name(common_name: str, organizations: Iterable[str] = ()) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in organizations]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + _LIFETIME)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only we can read, in one step: readers see the old content or the new."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    scratch.touch(mode=0o600)
    scratch.write_bytes(content)
    scratch.rename(path)
