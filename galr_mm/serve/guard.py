"""What every request passes before the application sees it, and the headers that every answer gets."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from typing import Any, NamedTuple

from galr_mm.serve.requests import UPLOAD

COOKIE = 'galr_token'
LOCAL = frozenset({'localhost', '127.0.0.1', '::1'})
PATIENCE = 60.0  # seconds for the body of a request
HEADERS = {
    'content-security-policy': "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    'x-content-type-options': 'nosniff',
    'x-frame-options': 'DENY',
    'referrer-policy': 'no-referrer',
    'cross-origin-opener-policy': 'same-origin',
    'cross-origin-resource-policy': 'same-origin',
}
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Lane(NamedTuple):
    """How many requests of a kind are held at a time, and how many bytes each may bring."""

    requests: int
    size: int


IMAGES, QUESTIONS, UPLOADS = Lane(64, 0), Lane(32, 1 << 16), Lane(4, UPLOAD * 4 // 3 + (1 << 16))


class Stopped(Exception):
    """A request that ends here, with a status, words, and headers."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers


class Guard:
    """An ASGI application around another one.

    - The Host header must be a name of this server, so that no other site's name leads here (DNS rebinding).
    - A page of another site can send nothing (Origin, Sec-Fetch-Site).
    - Bodies are bounded and read before they go on; beyond a number of requests at a time the answer is 503.
    - With a token, ``/api/`` is for those who have it, in the header ``Authorization: Bearer`` or the cookie.

    Args:
        app: the application.
        hosts: names of this server, without a port.
        token: None asks for none. With one any IP address is a name of this server too, as no name server can give it
            to somebody else.
    """

    def __init__(self, app: App, hosts: frozenset[str] = LOCAL, token: str | None = None) -> None:
        self.app = app
        self.hosts = hosts
        self.token = token
        self.held = dict.fromkeys((IMAGES, QUESTIONS, UPLOADS), 0)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope['type'] == 'lifespan':
            await self.app(scope, receive, send)
        if scope['type'] != 'http':
            return

        async def answer(message: Message) -> None:
            if message['type'] == 'http.response.start':
                message['headers'] = [
                    *message.get('headers', ()),
                    *((k.encode(), v.encode()) for k, v in HEADERS.items()),
                ]
            await send(message)

        try:
            headers = _single(scope['headers'])
            self.check(scope['method'], scope['path'], headers)
            await self.hold(scope, headers, receive, answer)
        except Stopped as stop:
            body = json.dumps(dict(message=stop.message)).encode()
            extra = {'content-type': 'application/json', 'cache-control': 'no-store', 'connection': 'close'}
            start = dict(type='http.response.start', status=stop.status)
            named = {name.replace('_', '-'): value for name, value in stop.headers.items()}
            start['headers'] = [(k.encode(), v.encode()) for k, v in (extra | named).items()]
            await answer(start)
            await answer(dict(type='http.response.body', body=body))

    def check(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Whether a request is one of this server's own page or of a program that knows it.

        Raises:
            Stopped: when it is not.
        """
        host = headers.get('host', '')
        if not self.knows(host):
            raise Stopped(421, 'this server does not answer to that name')
        site, origin = headers.get('sec-fetch-site', 'none'), headers.get('origin')
        foreign = site not in ('same-origin', 'none') or (origin is not None and origin.partition('://')[2] != host)
        if foreign and (method, path) != ('GET', '/'):
            raise Stopped(403, 'requests of other sites are not answered')
        if self.token is not None and path.startswith('/api/') and not self.opens(headers):
            raise Stopped(401, 'a token is needed: open the address that the server printed', www_authenticate='Bearer')

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server."""
        name = host.rpartition(']')[0].lstrip('[') if host.startswith('[') else host.partition(':')[0]
        if self.token is not None:
            with suppress(ValueError):
                return bool(ipaddress.ip_address(name))
        return name.lower() in self.hosts

    def opens(self, headers: Mapping[str, str]) -> bool:
        """Whether a request has the token; the time that it takes does not depend on how much of it is right."""
        assert self.token is not None
        scheme, _, given = headers.get('authorization', '').partition(' ')
        if scheme.lower() != 'bearer':
            try:
                cookie = SimpleCookie(headers.get('cookie', '')).get(COOKIE)
            except CookieError:
                cookie = None
            given = '' if cookie is None else cookie.value
        return hmac.compare_digest(given.encode(), self.token.encode())

    async def hold(
        self, scope: MutableMapping[str, Any], headers: Mapping[str, str], receive: Receive, send: Send
    ) -> None:
        """Let the application answer, with the whole body, while there is room.

        Raises:
            Stopped: when there is none, or the body is too large or too slow.
        """
        length = headers.get('content-length', '0' if scope['method'] in ('GET', 'HEAD') else '')
        large = not length.isdecimal() or int(length) > QUESTIONS.size
        lane = IMAGES if scope['method'] in ('GET', 'HEAD') else UPLOADS if large else QUESTIONS
        if length.isdecimal() and int(length) > lane.size:
            raise Stopped(413, f'the request has {length} bytes, at most {lane.size} are accepted')
        if self.held[lane] >= lane.requests:
            raise Stopped(503, 'too many requests at a time; try again in a second', retry_after='1')
        self.held[lane] += 1
        try:
            try:
                body = await asyncio.wait_for(_body(receive, lane.size), PATIENCE)
            except asyncio.TimeoutError:
                raise Stopped(408, 'the request did not arrive in time') from None
            waiting = [dict(type='http.request', body=body, more_body=False)]

            async def replay() -> Message:
                return waiting.pop() if waiting else await receive()

            await self.app(scope, replay, send)
        finally:
            self.held[lane] -= 1


async def _body(receive: Receive, size: int) -> bytes:
    parts, length, more = [], 0, True
    while more:
        message = await receive()
        if message['type'] == 'http.disconnect':
            raise Stopped(400, 'the request ended before its body')
        parts.append(message.get('body', b''))
        length += len(parts[-1])
        more = message.get('more_body', False)
        if length > size:
            raise Stopped(413, f'the request is larger than {size} bytes')
    return b''.join(parts)


def _single(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by name, in lower case; of one that is given twice, which none of ours may be, nothing is accepted."""
    found: dict[str, str] = {}
    for name, value in headers:
        key = name.decode('latin-1').lower()
        if key in found and key in ('host', 'origin', 'authorization', 'content-length', 'sec-fetch-site'):
            raise Stopped(400, f'the header {key} is given twice')
        found[key] = f'{found[key]}; {value.decode("latin-1")}' if key in found else value.decode('latin-1')
    return found
