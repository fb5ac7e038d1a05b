"""Start the server: a socket first, then the model, then the address on the screen."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import BaseModel

from galr_mm.integrations.installation import require_module
from galr_mm.serve.app import EXTRA, make_app
from galr_mm.serve.guard import LOCAL
from galr_mm.serve.library import Images, Library


def serve(
    model: BaseModel | str | Path | Config | None,
    index: str | Path,
    pretrained: bool | str | Path = True,
    device: str | torch.device | None = None,
    host: str = '127.0.0.1',
    port: int = 8000,
) -> None:
    """Show an index as a page until Ctrl+C. An address that other machines reach needs a token, which is printed.

    Args:
        model: see :class:`galr_mm.apis.ArchiveSearcher`.
        index: folder of the index.
        pretrained: checkpoint of the model; True takes what the package or the config names.
        device: where the model goes.
        host: address or name to listen on.
        port: 0 takes a free one.

    Raises:
        ImportError: when FastAPI or uvicorn is not installed; names the extra.
        OSError: when the address cannot be listened on, or the index is not there.
        ValueError: when the index is of another model.
    """
    for module in ('fastapi', 'uvicorn'):
        require_module(module, EXTRA)
    import uvicorn

    with listen(host, port) as listening:
        address, port = listening.getsockname()[:2]
        ip = ipaddress.ip_address(address)
        token = None if ip.is_loopback else secrets.token_urlsafe(32)
        hosts = LOCAL | {host.lower(), str(ip)} | ({socket.gethostname().lower()} if token else set())
        app = make_app(lambda: Library(model, index, pretrained, device), lambda: Images(index), hosts, token)
        shown = socket.gethostname() if ip.is_unspecified else f'[{ip}]' if ip.version == 6 else str(ip)
        print(f'http://{shown}:{port}/{f"#{token}" if token else ""}   (Ctrl+C ends it)', flush=True)
        if token:
            print('The address holds the token; what is sent is not encrypted.', flush=True)
        config = uvicorn.Config(
            app, log_level='warning', access_log=False, server_header=False, proxy_headers=False, ws='none',
            timeout_graceful_shutdown=3,
        )  # fmt: skip
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:  # uvicorn has ended, and says so again
            return


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        OSError: names address and port.
    """
    try:
        if not 0 <= port < 1 << 16:
            raise OverflowError('a port is a number from 0 to 65535')
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)
        except OSError:
            listening.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        raise OSError(f'cannot listen on {host}, port {port}: {error}; --host and --port take another') from error
    return listening
