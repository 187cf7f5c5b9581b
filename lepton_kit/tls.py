"""Connections to servers, and what they trust: read once for this process, as the certificates take 25 ms of a core."""

import ssl
from functools import cache

import httpx

from lepton_kit.errors import InputError
from lepton_kit.secrets import without_password


@cache
def trusted() -> ssl.SSLContext:
    """Return the certificates to verify servers by: those of `SSL_CERT_FILE` where that is set, else certifi's."""
    return httpx.create_ssl_context()


def client_of(what: str, address: str, timeout: float) -> tuple[httpx.Client, str]:
    """Return a client of the server at an address, and the address without its password, which messages show.

    A path of the address is kept before those that are asked for. An answer may take `timeout` seconds.

    Raises InputError, which names `what` the server is, when the address is none.
    """
    given = without_password(str(address))
    try:
        url = httpx.URL(address)
    except (httpx.InvalidURL, TypeError) as error:
        raise InputError(f"{what} address {given!r}: not an address ({without_password(str(error))})") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise InputError(f"{what} address {given!r}: must begin with http:// or https:// and name a host")
    shown = str(url.copy_with(userinfo=b"")).rstrip("/")
    auth = (url.username, url.password) if url.userinfo else None
    client = httpx.Client(
        base_url=shown, auth=auth, timeout=timeout, trust_env=False, follow_redirects=True, verify=trusted()
    )
    return client, shown
