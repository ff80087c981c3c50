"""Certificates of the tests' own: an authority, and the PEM files of a server."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import trustme

from hartonomous.security import Tls


class Files:
    """The PEM files of a server, signed by an authority of the tests' own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.certificate, self.key, self.client_ca = (folder / name for name in ("tls.crt", "tls.key", "clients.crt"))
        self.authority.cert_pem.write_to_path(str(self.client_ca))
        self.issue()

    def issue(self, **options: Any) -> trustme.LeafCert:
        """Write a new certificate with its key."""
        leaf = self.authority.issue_cert("127.0.0.1", **options)
        leaf.private_key_pem.write_to_path(str(self.key))
        self.key.chmod(0o600)
        self.certificate.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
        return leaf

    def section(self, *, client_ca: bool = False) -> dict[str, str]:
        """Return what the configuration says."""
        section = {"certificate": str(self.certificate), "key": str(self.key)}
        return section | ({"client_ca": str(self.client_ca)} if client_ca else {})

    @property
    def config(self) -> Tls:
        """The section as the server reads it."""
        return Tls.model_validate(self.section())

    def client(self) -> ssl.SSLContext:
        """Return the context of a client that trusts the authority."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context
