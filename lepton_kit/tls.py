"""What connections trust: read once for this process, as the certificates take 25 ms of a core."""

import ssl
from functools import cache

import httpx


@cache
def trusted() -> ssl.SSLContext:
    """Return the certificates to verify servers by: those of `SSL_CERT_FILE` where that is set, else certifi's."""
    return httpx.create_ssl_context()
