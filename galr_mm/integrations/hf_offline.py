"""Models of the Hugging Face hub on machines that may have no network."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

PROXIES = ('HTTPS_PROXY', 'https_proxy', 'ALL_PROXY', 'all_proxy')


@contextmanager
def fail_fast_offline(timeout: float = 5.0) -> Iterator[None]:
    """Let the hub's libraries look on the disk only where the hub cannot be reached.

    Without a network they retry each file for half a minute before they say so. The hub is tried once, with ``timeout``
    in seconds, and not at all behind a proxy or where ``HF_HUB_OFFLINE`` is set.

    huggingface_hub has no such switch for one call: inside the block its ``HF_HUB_OFFLINE`` is set for the whole
    process, so another thread that downloads in that time looks on the disk only.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or any(map(os.environ.get, PROXIES)) or _reachable(constants.ENDPOINT, timeout):
        yield
        return
    before = constants.HF_HUB_OFFLINE
    try:
        _set_offline(True)
        yield
    finally:
        _set_offline(before)


def _reachable(endpoint: str, timeout: float) -> bool:
    url = urlsplit(endpoint)
    try:
        socket.create_connection((url.hostname, url.port or (80 if url.scheme == 'http' else 443)), timeout).close()
    except OSError:
        return False
    return True


def _set_offline(value: bool) -> None:
    from huggingface_hub import constants
    from huggingface_hub import utils as hub_utils

    constants.HF_HUB_OFFLINE = value
    # open sessions remember how they were made (huggingface_hub below 1.0; later ones ask each time)
    if hasattr(hub_utils, 'reset_sessions'):
        hub_utils.reset_sessions()
