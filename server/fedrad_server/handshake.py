"""Would a site believe this certificate? Asked of Python's own ssl, in memory: a handshake with a client set up as a site's is."""

import ssl
from pathlib import Path

_ROUNDS = 8  # a handshake of TLS 1.3 takes three
_REASONS = {  # X509_V_ERR_ of OpenSSL
    7: "is signed by an authority that is not believed",
    9: "is not valid yet",
    10: "has expired",
    18: "is signed by itself, and no --authority says that it is to be believed",
    19: "is signed by an authority that is not believed",
    20: "is signed by an authority that is not believed",
    21: "is signed by an authority that is not believed",
    24: "is signed by something that is no authority",
    26: "is not meant for servers",
    62: "does not hold this name",
    64: "does not hold this address",
}


def refusal(certificate: Path, key: Path, *, host: str, authority: str) -> str:
    """Why a site that connects to `host` would refuse the server; empty when it would not.

    Args:
        certificate: PEM, the server's own first, then those between it and the authority.
        authority: PEM of whose certificates are believed; empty: this machine's own list.

    Raises:
        ssl.SSLError: the key is not the certificate's, or has a passphrase, or a file is no PEM.
    """
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.load_cert_chain(certificate, key, password="")  # or OpenSSL asks at the terminal
    connecting = ssl.create_default_context(cadata=authority or None)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    site = connecting.wrap_bio(back, there, server_hostname=host)
    server = listening.wrap_bio(there, back, server_side=True)
    for _ in range(_ROUNDS):
        for side in (site, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return _REASONS.get(error.verify_code, f"is refused (OpenSSL's reason {error.verify_code})")
            except ssl.SSLError as error:
                return f"is refused ({error.reason})"
    return ""
