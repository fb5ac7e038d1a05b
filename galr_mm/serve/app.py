"""The application: a page of files that are held in memory, and an interface in json under ``/api/``."""

# without ``from __future__ import annotations``: FastAPI looks at types that are imported where they are needed
import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any, Generic, TypeVar

from galr_mm.integrations.installation import require_module
from galr_mm.messages import clip
from galr_mm.serve.guard import COOKIE, LOCAL, Guard
from galr_mm.serve.library import EXPORTS, SIDES, Images, Library
from galr_mm.serve.requests import HeatQuery, Query, Refused

EXTRA = 'serve'
TYPES = {
    '.html': 'text/html; charset=utf-8',
    '.js': 'text/javascript; charset=utf-8',
    '.css': 'text/css; charset=utf-8',
    '.json': 'application/json',
    '.svg': 'image/svg+xml',
}
MEDIA = dict(geojson='application/geo+json', csv='text/csv; charset=utf-8')

T = TypeVar('T')
R = TypeVar('R')


class InThread(Generic[T]):
    """An object that lives in a thread of its own, which does one thing after another.

    Args:
        make: makes it, in that thread.

    Raises:
        Exception: what ``make`` raises.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._made = self._pool.submit(make).result()

    async def __call__(self, call: Callable[[T], R]) -> R:
        """Wait for the result of a call with the object."""
        return await asyncio.wrap_future(self._pool.submit(call, self._made))


def static_files() -> dict[str, tuple[bytes, str]]:
    """Content and type of the files of the page, by their path in its address."""
    root = files('galr_mm.serve').joinpath('static')
    found = {}
    for folder, prefix in ((root, ''), (root.joinpath('leaflet'), 'leaflet/')):
        for file in folder.iterdir():
            kind = TYPES.get(f'.{file.name.rpartition(".")[2]}')
            if kind is not None:
                found[prefix + file.name] = file.read_bytes(), kind
    return found


def make_app(
    library: Callable[[], Library],
    images: Callable[[], Images],
    hosts: frozenset[str] = LOCAL,
    token: str | None = None,
) -> Guard:
    """The application for a server of ASGI.

    Args:
        library: makes what answers, in a thread of its own.
        images: makes what gives images, likewise.
        hosts: see :class:`galr_mm.serve.guard.Guard`.
        token: likewise.

    Raises:
        ImportError: when FastAPI is not installed; names the extra.
    """
    require_module('fastapi', EXTRA)
    from fastapi import FastAPI, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    page, answers, pictures = static_files(), InThread(library), InThread(images)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    fresh = {'cache-control': 'no-store'}

    def in_words(status: int, message: str) -> Response:
        return JSONResponse(dict(message=message), status, fresh)

    def file(name: str) -> Response:
        if name not in page:
            raise HTTPException(404)
        content, kind = page[name]
        return Response(content, media_type=kind, headers={'cache-control': 'no-cache'})

    @app.get('/')
    async def index() -> Response:
        return file('index.html')

    @app.get('/static/{name:path}')
    async def static(name: str) -> Response:
        return file(name)

    @app.post('/api/session')
    async def session() -> Response:
        response = Response(status_code=204, headers=fresh)
        if token is not None:  # the guard has seen it
            response.set_cookie(COOKIE, token, httponly=True, samesite='strict')
        return response

    @app.get('/api/info')
    async def info() -> Response:
        return JSONResponse(await answers(Library.info), headers=fresh)

    @app.post('/api/search')
    async def search(query: Query) -> Response:
        return JSONResponse(await answers(lambda made: made.search(query)), headers=fresh)

    @app.post('/api/export/{kind}')
    async def export(kind: str, query: Query) -> Response:
        if kind not in EXPORTS:
            raise HTTPException(404)
        text = await answers(lambda made: made.export(query, kind))
        named = fresh | {'content-disposition': f'attachment; filename="hits.{kind}"'}
        return Response(text, media_type=MEDIA[kind], headers=named)

    @app.post('/api/heat')
    async def heat(query: HeatQuery) -> Response:
        return JSONResponse(await answers(lambda made: made.heat(query.tile_id, query.sentence)), headers=fresh)

    @app.get('/api/images/{tile_id:path}')
    async def image(tile_id: str, request: Request, size: str = 'small') -> Response:
        if size not in SIDES:
            raise HTTPException(404)
        tag = await pictures(lambda made: made.tag(tile_id, size))
        kept = {'etag': tag, 'cache-control': 'private, no-cache'}  # asked for again, but not sent
        if request.headers.get('if-none-match') == tag:
            return Response(status_code=304, headers=kept)
        return Response(await pictures(lambda made: made.jpeg(tile_id, size)), media_type='image/jpeg', headers=kept)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return in_words(error.status, error.message)

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        return in_words(error.status_code, clip(error.detail).lower())

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, error: RequestValidationError) -> Response:
        return in_words(422, clip('; '.join(map(_problem, error.errors()[:3]))))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return in_words(500, 'the server could not do that; its terminal says why')

    return Guard(app, hosts, token)


def _problem(error: dict[str, Any]) -> str:
    place = '.'.join(str(part) for part in error['loc'][1:])
    message = str(error['msg']).removeprefix('Value error, ')
    return f'{place}: {message}' if place else message
