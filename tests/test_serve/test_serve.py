"""The server of an index: what it answers, and what it refuses."""

import asyncio
import base64
import json
import re
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
import torch

from galr_mm.apis import ArchiveIndexer, ArchiveSearcher
from galr_mm.archive import Where
from galr_mm.archive.bank import METHODS
from galr_mm.cli.archive import main
from galr_mm.serve import Images, Library, make_app
from galr_mm.serve.guard import COOKIE, IMAGES, QUESTIONS, UPLOADS
from galr_mm.serve.requests import PIXELS, SENTENCE, TOPK, UPLOAD
from galr_mm.serve.server import listen
from tests.helpers import ROOT, environment
from tests.test_serve.conftest import NASTY

pytestmark = pytest.mark.serve
JSON = {'content-type': 'application/json'}


class Client:
    """Requests to an application in this process, each in a loop of its own; cookies stay."""

    def __init__(self, app):
        httpx = pytest.importorskip('httpx', reason='the extra galr_mm[dev]')
        self.app, self.cookies = app, httpx.Cookies()
        self.together = lambda: httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url='http://127.0.0.1', timeout=60
        )

    def request(self, method, path, **options):
        async def send():
            async with self.together() as client:
                client.cookies = self.cookies
                return await client.request(method, path, **options)

        answer = asyncio.run(send())
        self.cookies.update(answer.cookies)
        return answer

    def get(self, path, **options):
        return self.request('GET', path, **options)

    def post(self, path, **options):
        return self.request('POST', path, **options)

    def raw(self, path):
        """GET of a path as it stands, which clients and browsers would have made shorter."""
        sent = []

        async def receive():
            return dict(type='http.request', body=b'', more_body=False)

        async def send(part):
            sent.append(part)

        scope = dict(type='http', method='GET', path=unquote(path), raw_path=path.encode(), query_string=b'',
                     headers=[(b'host', b'127.0.0.1')], http_version='1.1', scheme='http', root_path='')  # fmt: skip
        asyncio.run(self.app(scope, receive, send))
        return sent[0]['status'], b''.join(part.get('body', b'') for part in sent)


@pytest.fixture(scope='module')
def client(app):
    return Client(app)


def ask(client, call='search', **query):
    return client.post(f'/api/{call}', json=query)


def message(answer, status):
    """What a refusal says."""
    assert answer.status_code == status, answer.text
    assert answer.headers['content-type'] == 'application/json'
    return answer.json()['message']


def base64_of(content):
    return base64.b64encode(content).decode()


def png(width, height, rows=b''):
    """A PNG whose head says what it likes."""

    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')


# answers


def test_hits_are_those_of_a_search(client, searcher, archive):
    answer = ask(client, sentence='two ships', topk=9).json()
    (expected,) = searcher('two ships', topk=9)
    assert [hit['tile_id'] for hit in answer['hits']] == [hit.tile_id for hit in expected]
    np.testing.assert_allclose([hit['score'] for hit in answer['hits']], [hit.score for hit in expected], atol=1e-6)
    names = {hit['path'] for hit in ask(client, sentence='two ships', topk=TOPK).json()['hits']}
    assert {NASTY, 'caf\\udce9 \\n.jpg', 'wide.png'} < names
    assert all((archive / name).is_file() for name in names if '\\' not in name)
    placed = next(hit for hit in answer['hits'] if hit['path'].startswith('north/'))
    assert placed['footprint']['type'] == 'Polygon'
    assert placed['metadata'] == {'season': "<b>dry'"}


def test_filters_are_those_of_a_search(client, searcher):
    where = dict(bbox=[1.5, 10, 3.5, 10.5], start='2021-06-02', end='2021-06-04', platform=['GF-1'], min_score=-1)
    found = ask(client, sentence='ships', where=where | dict(metadata={'season': "<b>dry'"})).json()['hits']
    (expected,) = searcher('ships', where=Where(**where))
    assert [hit['tile_id'] for hit in found] == [hit.tile_id for hit in expected]
    assert len(found) == 2
    nothing = ask(client, sentence='ships', where=dict(platform='none')).json()
    assert (nothing['hits'], nothing['passing']) == ([], 0)
    nothing = ask(client, sentence='ships', where=dict(min_score=2)).json()
    assert (nothing['hits'], nothing['passing']) == ([], 16)


def test_an_image_finds_itself(client, archive):
    path = sorted((archive / 'north').iterdir())[2]
    (hit,) = ask(client, image=base64_of(path.read_bytes()), topk=1).json()['hits']
    assert hit['path'] == f'north/{path.name}'
    assert hit['score'] == pytest.approx(1, abs=1e-3)


def test_re_ranking(client, searcher):
    info = client.get('/api/info').json()
    assert info['rerank'] == dict(sentence=[*METHODS], image=[])
    for method in ('mr', 'qbnorm'):
        found = ask(client, sentence='two ships', rerank=method).json()['hits']
        (expected,) = searcher('two ships', topk=24, rerank=method)
        assert [hit['tile_id'] for hit in found] == [hit.tile_id for hit in expected]
        assert found[0]['rerank_score'] is not None
    assert 'no bank of images' in message(ask(client, image=base64_of(png(8, 8, bytes(200))), rerank='mr'), 422)


def test_what_there_is(client):
    info = client.get('/api/info').json()
    assert (info['images'], info['tiles'], info['placed']) == (8, 16, 5)
    assert (info['platforms'], info['fields']) == (['GF-0', 'GF-1'], {'season': ["<b>dry'"]})
    assert (info['first'], info['last']) == ('2021-06-01T00:00:00Z', '2021-06-05T00:00:00Z')
    assert (info['gsd'], info['boxes']) == ([0.1, 0.5], False)


def test_images_are_encoded_anew(client, archive):
    hits = ask(client, sentence='ships', topk=TOPK).json()['hits']
    tile = next(hit for hit in hits if hit['path'] == 'wide.png' and hit['window'][0])
    source = cv2.imread(str(archive / 'wide.png'))
    left, top, right, bottom = tile['window']
    for size, expected in dict(small=source[top:bottom, left:right], whole=source).items():
        answer = client.get(f'/api/images/{tile["tile_id"]}', params=dict(size=size))
        assert answer.headers['content-type'] == 'image/jpeg'
        assert b'exif' not in answer.content[:200].lower()
        image = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
        assert image.shape == expected.shape
        assert np.abs(image.astype(int) - expected).mean() < 8
        again = client.get(
            f'/api/images/{tile["tile_id"]}', params=dict(size=size), headers={'if-none-match': answer.headers['etag']}
        )
        assert (again.status_code, again.content) == (304, b'')
    assert message(client.get(f'/api/images/{tile["tile_id"]}', params=dict(size='huge')), 404)


@pytest.mark.parametrize('name', ['wide.png', NASTY], ids=['tiles', 'windows'])
def test_a_heat_map(client, model, index, name):
    (hits,) = ArchiveSearcher(model, index)('ships', topk=TOPK, merge='none')
    tiles = [hit for hit in hits if Path(hit.path).name == Path(name).name]
    found = client.post('/api/heat', json=dict(tile_id=tiles[0].tile_id, sentence='ships')).json()
    cells = np.array(found['cells'])
    assert cells.shape == (len(found['y_edges']) - 1, len(found['x_edges']) - 1)
    assert [found['y_edges'][-1], found['x_edges'][-1]] == found['size']
    assert cells.max() > cells.min()
    if len(tiles) > 1:  # the corner belongs to one tile alone
        corner = next(hit.score for hit in tiles if hit.window[:2] == (0, 0))
        assert cells[0, 0] == pytest.approx(corner, abs=1e-5)
        assert found['windows'] == len(tiles)


@pytest.mark.parametrize('kind', ['geojson', 'csv'])
def test_files_of_hits(client, kind, archive):
    query = dict(sentence='=two ships', topk=4)
    answer = ask(client, f'export/{kind}', **query)
    assert answer.headers['content-disposition'] == f'attachment; filename="hits.{kind}"'
    hits = ask(client, **query).json()['hits']
    if kind == 'geojson':
        assert [f['properties']['path'] for f in answer.json()['features']] == [hit['path'] for hit in hits]
        assert [f['geometry'] for f in answer.json()['features']] == [hit['footprint'] for hit in hits]
    else:
        assert answer.text.count("'=two ships") == 4
    assert str(archive.parent) not in answer.text
    assert message(ask(client, 'export/exe', sentence='a'), 404)


def test_a_writer_meanwhile(model, index, archive, tmp_path):
    """What it commits is found by the next search of a server that runs."""
    shutil.copytree(archive, tmp_path / 'images')
    indexer = ArchiveIndexer(model, tmp_path / 'index')
    indexer.update(tmp_path / 'images', show_progress=False)
    client = Client(make_app(lambda: Library(model, tmp_path / 'index'), lambda: Images(tmp_path / 'index')))
    gone = ask(client, sentence='ships', topk=TOPK).json()['hits']
    (tmp_path / 'images/wide.png').rename(tmp_path / 'images/new.png')
    indexer.update(tmp_path / 'images', show_progress=False)
    found = ask(client, sentence='ships', topk=TOPK).json()['hits']
    assert {hit['path'] for hit in found} - {hit['path'] for hit in gone} == {'new.png'}
    old, new = (next(hit for hit in hits if hit['path'].endswith(name)) for hits, name in
                ((gone, 'wide.png'), (found, 'new.png')))  # fmt: skip
    assert 'no such tile' in message(client.get(f'/api/images/{old["tile_id"]}'), 404)
    assert client.get(f'/api/images/{new["tile_id"]}').status_code == 200
    (tmp_path / 'images/new.png').write_bytes(b'no image')
    assert 'cannot be read any more' in message(client.get(f'/api/images/{new["tile_id"]}'), 410)
    assert 'cannot be read' in message(client.post('/api/heat', json=dict(tile_id=new['tile_id'], sentence='a')), 410)
    (tmp_path / 'images/new.png').unlink()
    assert 'not there' in message(client.get(f'/api/images/{new["tile_id"]}'), 410)


# attacks


def test_every_answer_is_guarded(client):
    for answer in (client.get('/'), client.get('/nowhere'), ask(client, sentence=''), client.get('/api/info')):
        policy = answer.headers['content-security-policy']
        assert "default-src 'none'" in policy
        assert 'unsafe' not in policy
        assert answer.headers['x-content-type-options'] == 'nosniff'
        assert answer.headers['referrer-policy'] == 'no-referrer'
        assert 'access-control-allow-origin' not in answer.headers
        assert 'server' not in answer.headers


def test_the_page_has_no_inline_code_and_nothing_from_outside(client):
    page = client.get('/')
    assert page.headers['content-type'] == 'text/html; charset=utf-8'
    assert not re.search(r'\son\w+=|\sstyle=|<style|javascript:', page.text)
    assert not re.search(r'<script(?![^>]*\ssrc=)', page.text)
    links = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    assert len(links) > 3
    for link in links:
        assert link.startswith('/static/')
        assert client.get(link).status_code == 200


def test_no_path_of_the_server(client, archive, index):
    texts = [client.get('/').text, client.get('/api/info').text, ask(client, sentence='a', topk=TOPK).text]
    texts += [ask(client, f'export/{kind}', sentence='a').text for kind in ('geojson', 'csv')]
    texts += [ask(client, sentence='a', rerank='best').text, client.get('/api/images/x').text]
    for text in texts:
        assert 'secret place' not in text
        assert str(index.parent) not in text
        assert str(archive.parent.parent) not in text


@pytest.mark.parametrize(
    'path',
    ['/static/../requests.py', '/static/..%2frequests.py', '/static/%2e%2e/%2e%2e/app.py', '/static//etc/passwd',
     '/static/leaflet/../../app.py', '/static/leaflet/README.md', '/api/images/../../../etc/passwd',
     '/api/images/..%2f..%2fetc%2fpasswd', '/api/images/north/00000.jpg', '/api/images/%00', '/etc/passwd',
     '/openapi.json', '/docs', "/api/images/x' OR '1'='1"],
    ids=range(14),
)  # fmt: skip
def test_traversal(client, path):
    status, body = client.raw(path)
    assert status == 404
    assert len(body) < 100


def test_a_sentence_is_never_a_file(client, archive):
    """In Python a text that ends like the name of an image is one."""
    sentence = str(archive / 'wide.png')
    assert ask(client, sentence=sentence).status_code == 200
    assert ask(client, sentence='../../nowhere.jpg').status_code == 200


def test_an_index_that_names_other_files(model, index, tmp_path):
    """Somebody else's catalogue."""
    import sqlite3

    shutil.copytree(index, tmp_path / 'index')
    cv2.imwrite(str(tmp_path / 'private.png'), np.zeros((256, 256, 3), np.uint8))
    with sqlite3.connect(tmp_path / 'index/catalog.sqlite') as db:
        db.execute('UPDATE source SET path = ? WHERE path = ?', [bytes(tmp_path / 'private.png'), NASTY.encode()])
        db.execute("UPDATE source SET path = ? WHERE path = 'wide.png'", [b'../private.png'])
        db.execute("UPDATE source SET path = ? WHERE path = CAST('wide.png' AS BLOB)", [b'../private.png'])
    client = Client(make_app(lambda: Library(model, tmp_path / 'index'), lambda: Images(tmp_path / 'index')))
    hits = ask(client, sentence='a', topk=TOPK).json()['hits']
    private = [hit for hit in hits if hit['path'].endswith('private.png')]
    assert len({hit['path'] for hit in private}) == 2
    for hit in private:
        assert str(tmp_path) not in hit['path']
        assert 'not in its archive' in message(client.get(f'/api/images/{hit["tile_id"]}'), 404)


@pytest.mark.parametrize(
    'host', ['evil.example', '', '127.0.0.1.evil.example', 'localhost@evil', '[::2]:80', '0.0.0.0']
)
def test_wrong_host(client, host):
    for path in ('/', '/api/info'):
        assert 'does not answer to that name' in message(client.get(path, headers=dict(host=host)), 421)


@pytest.mark.parametrize('host', ['127.0.0.1:8000', 'localhost', 'LOCALHOST:1', '[::1]:8000'])
def test_own_host(client, host):
    assert client.get('/api/info', headers=dict(host=host)).status_code == 200


@pytest.mark.parametrize(
    'headers',
    [{'origin': 'http://evil.example'}, {'origin': 'null'}, {'origin': 'http://127.0.0.1:9'},
     {'sec-fetch-site': 'cross-site'}, {'sec-fetch-site': 'same-site'}],
    ids=['other', 'null', 'port', 'cross', 'same-site'],
)  # fmt: skip
def test_requests_of_other_sites(client, headers):
    query = dict(json=dict(sentence='a'), headers=headers)
    assert 'other sites' in message(client.post('/api/search', **query), 403)
    assert 'other sites' in message(client.get('/api/info', headers=headers), 403)
    assert client.get('/', headers=headers).status_code == 200  # a link to the page
    own = {'origin': 'http://127.0.0.1', 'sec-fetch-site': 'same-origin'}
    assert client.post('/api/search', json=dict(sentence='a'), headers=own).status_code == 200


def test_a_form_of_another_site(client):
    """It needs no leave of the browser, but is no json."""
    for kind in ('text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x'):
        answer = client.post('/api/search', content=b'{"sentence": "a"}', headers={'content-type': kind})
        assert answer.status_code == 422


@pytest.mark.parametrize('method', ['PUT', 'DELETE', 'PATCH', 'OPTIONS', 'TRACE', 'BREW'])
def test_wrong_methods(client, method):
    for path in ('/', '/api/search', '/api/info', '/static/app.js'):
        assert client.request(method, path).status_code == 405
    assert client.get('/api/search').status_code == 405


@pytest.mark.parametrize(
    ('query', 'problem'),
    [
        ({}, 'expected a sentence or an image'),
        (dict(sentence='a', image='b'), 'and not both'),
        (dict(sentence=' '), 'the sentence is empty'),
        (dict(sentence='a' * (SENTENCE + 1)), f'{SENTENCE + 1} characters'),
        (dict(sentence=['a']), 'sentence: '),
        (dict(sentence='?!'), 'there is no word in'),
        (dict(sentence='a', topk=0), 'topk is 0'),
        (dict(sentence='a', topk=TOPK + 1), f'expected 1 to {TOPK}'),
        (dict(sentence='a', topk=10**40), 'topk'),
        (dict(sentence='a', topk='many'), 'topk: '),
        (dict(sentence='a', rerank='best'), 'rerank is'),
        (dict(sentence='a', file='/etc'), 'file: '),
        (dict(sentence='a', where=[]), 'where: '),
        (dict(sentence='a', where=dict(colour='red')), 'colour'),
        (dict(sentence='a', where=dict(bbox=[0, 0, 999, 1])), 'bbox is'),
        (dict(sentence='a', where=dict(bbox=5)), 'bbox is 5'),
        (dict(sentence='a', where=dict(start='yesterday')), 'start is'),
        (dict(sentence='a', where=dict(start=5)), 'start is'),
        (dict(sentence='a', where=dict(platform=5)), 'platform is 5'),
        (dict(sentence='a', where=dict(platform=[None])), 'is not text'),
        (dict(sentence='a', where=dict(metadata=['a'])), 'metadata is'),
        (dict(sentence='a', where=dict(metadata=dict(a=None))), 'metadata is'),
        (dict(sentence='a', where=dict(metadata=dict(a=10**30))), 'metadata is'),
        (dict(sentence='a', where=dict(min_score='high')), 'min_score is'),
        (dict(sentence='a', where=dict(platform=['x'] * 3000)), 'longer than 4000'),
        (dict(image='no base64!'), 'not in base64'),
        (dict(image=base64_of(b'GIF89a' + bytes(99))), 'accepted are JPEG, PNG'),
        (dict(image=base64_of(b'%!PS-Adobe-3.0 EPSF-3.0\n')), 'accepted are JPEG, PNG'),
        (dict(image=base64_of(b'<svg onload="alert(1)"/>')), 'accepted are JPEG, PNG'),
        (dict(image=base64_of(b'\xff\xd8\xff\xe0' + bytes(99))), 'image'),
        (dict(image=base64_of(png(64, 64))), 'the PNG file cannot be decoded'),
        (dict(image=''), 'accepted are'),
    ],
)  # fmt: skip
def test_queries_that_are_none(client, query, problem):
    answer = ask(client, **query)
    assert 400 <= answer.status_code < 500
    assert problem in message(answer, answer.status_code)


@pytest.mark.parametrize(
    'body',
    [b'', b'{', b'[]', b'null', b'"a"', b'\xff\xfe\x00', b'{"sentence": "\xe9"}', b'{"sentence": "\\ud800"}',
     b'{"sentence": "a", "where": {"min_score": NaN}}', b'{"sentence": "a", "where": {"bbox": [NaN, 0, 1, Infinity]}}',
     b'{"sentence": "a", "where": {"metadata": {"\\ud800": "a"}}}',
     b'{"sentence": "a", "where": {"platform": "\\udfff"}}',
     b'{"sentence": "a", "topk": NaN}', b'{"sentence": "a", "topk": 1' + b'0' * 5000 + b'}',
     b'[' * 30000, b'{"where": ' * 5000,
     b'{"sentence": "a", "where": {"metadata": {"a": ' + b'[' * 600 + b']' * 600 + b'}}}'],
    ids=range(17),
)  # fmt: skip
def test_bodies_that_are_none(client, body):
    for path in ('/api/search', '/api/export/csv', '/api/heat'):
        answer = client.post(path, content=body, headers=JSON)
        assert 400 <= answer.status_code < 500, answer.text
        assert message(answer, answer.status_code)


@pytest.mark.parametrize(
    'where',
    [
        dict(platform="x' OR '1'='1"),
        dict(platform=['GF-0"); DROP TABLE tile; --']),
        dict(metadata={"season' OR 1=1 --": 'a'}),
        dict(metadata={'season': "' OR ''='"}),
        dict(metadata={'$.season': "<b>dry'"}),
        dict(metadata={'%': '%'}),
    ],
    ids=range(6),
)
def test_sql_in_filters(client, where):
    before = ask(client, sentence='a', topk=TOPK).json()['hits']
    assert ask(client, sentence='a', where=where).json()['hits'] == []
    assert ask(client, sentence='a', topk=TOPK).json()['hits'] == before != []


def test_sql_in_names_of_tiles(client):
    for name in ("' OR 1=1 --", '"; DROP TABLE tile; --', '%', '*'):
        assert 'no such tile' in message(client.post('/api/heat', json=dict(tile_id=name, sentence='a')), 404)


def test_script_in_a_sentence_stays_text(client):
    answer = ask(client, sentence='<script>alert(1)</script> ships')
    assert answer.headers['content-type'] == 'application/json'
    answer = ask(client, 'export/geojson', sentence='<script>alert(1)</script> ships')
    assert answer.headers['content-type'] == 'application/geo+json'
    assert answer.headers['content-disposition'].startswith('attachment')


def test_large_uploads_are_not_read(client):
    large = json.dumps(dict(image='AAAA' * (UPLOAD // 3 + 2))).encode()
    assert f'at most {UPLOAD}' in message(client.post('/api/search', content=large, headers=JSON), 413)
    larger = b' ' * (UPLOADS.size + 1)
    assert 'at most' in message(client.post('/api/search', content=larger, headers=JSON), 413)
    read = []

    async def chunks():  # without a length
        for _ in range(64):
            read.append(1)
            yield b' ' * (1 << 20)

    assert 'larger than' in message(client.post('/api/search', content=chunks(), headers=JSON), 413)
    assert len(read) < 32
    assert message(client.request('GET', '/api/info', content=b'body'), 413)


def bomb(kind):
    """Small files whose heads name more pixels than are decoded."""
    if kind == 'png':
        return png(60000, 60000, bytes(10**6))
    if kind == 'jpeg':
        content = bytearray(cv2.imencode('.jpg', np.zeros((8, 8, 3), np.uint8))[1].tobytes())
        at = content.index(b'\xff\xc0')
        content[at + 5 : at + 9] = struct.pack('>HH', 65000, 65000)
        return bytes(content)
    if kind == 'scans':
        return cv2.imencode('.jpg', np.zeros((8, 8, 3), np.uint8))[1].tobytes() + b'\xff\xda' * 100
    if kind == 'bmp':
        return b'BM' + struct.pack('<IHHIIiiHHIIiiII', 54, 0, 0, 54, 40, 90000, 90000, 1, 24, 0, 0, 0, 0, 0, 0)
    if kind == 'webp':  # VP8X of 16,383 x 16,383
        body = b'VP8X' + struct.pack('<I', 10) + bytes(4) + (16382).to_bytes(3, 'little') * 2
        return b'RIFF' + struct.pack('<I', 4 + len(body)) + b'WEBP' + body
    tags = [(256, 60000), (257, 60000), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 60000), (279, 8)]
    if kind == 'bands':
        tags = [(256, 5000), (257, 5000), (258, 8), (259, 1), (262, 1), (273, 8), (277, 60000), (278, 5000), (279, 8)]
    entries = b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag, value in tags)
    return b'II*\0' + struct.pack('<IH', 8, len(tags)) + entries + bytes(4)


@pytest.mark.parametrize('kind', ['png', 'jpeg', 'scans', 'bmp', 'webp', 'tiff', 'bands'])
def test_bombs(client, kind):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = ask(client, image=base64_of(bomb(kind)))
    said = message(answer, answer.status_code)
    assert answer.status_code in (413, 415, 422)
    assert kind in ('webp',) or str(PIXELS) in said or 'passes' in said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # kB


def test_200_requests_at_a_time(app, client):
    """Each is answered or told to come again, and the server goes on."""
    expected = ask(client, sentence='two ships', topk=5).json()['hits']
    tile = expected[0]['tile_id']

    async def flood():
        async with client.together() as together:
            asked = [together.post('/api/search', json=dict(sentence='two ships', topk=5)) for _ in range(100)]
            asked += [together.get(f'/api/images/{tile}') for _ in range(100)]
            return await asyncio.gather(*asked)

    answers = asyncio.run(flood())
    good = [answer for answer in answers if answer.status_code == 200]
    busy = [answer for answer in answers if answer.status_code == 503]
    assert len(good) + len(busy) == 200
    assert len(good) == QUESTIONS.requests + IMAGES.requests
    assert all(answer.headers['retry-after'] == '1' for answer in busy)
    assert all(answer.json()['hits'] == expected for answer in good[: QUESTIONS.requests])
    assert set(app.held.values()) == {0}
    assert ask(client, sentence='two ships', topk=5).json()['hits'] == expected


# a token


@pytest.fixture(scope='module')
def locked(model, index):
    return make_app(lambda: Library(model, index), lambda: Images(index), frozenset({'box'}), token='secret')


@pytest.mark.parametrize(
    'headers',
    [{}, {'authorization': 'Bearer'}, {'authorization': 'Bearer wrong'}, {'authorization': 'Basic dG9rZW4='},
     {'cookie': f'{COOKIE}=wrong'}, {'cookie': f'{COOKIE}='}, {'cookie': '=;;='}, {'cookie': b'\xff=\xfe'},
     {'authorization': b'Bearer \xff'}],
    ids=range(9),
)  # fmt: skip
def test_without_the_token(locked, headers):
    client = Client(locked)
    for path in ('info', 'images/x', 'nothing'):
        assert 'token' in message(client.get(f'/api/{path}', headers=headers), 401)
    for path in ('session', 'search', 'heat', 'export/csv'):
        assert 'token' in message(client.post(f'/api/{path}', json=dict(sentence='a'), headers=headers), 401)
    assert client.get('/').status_code == 200  # it says nothing of the index


def test_with_the_token(locked):
    client = Client(locked)
    bearer = {'authorization': 'Bearer secret'}
    assert client.get('/api/info', headers=bearer).status_code == 200
    assert client.get('/api/info').status_code == 401
    answer = client.post('/api/session', headers=bearer)
    assert answer.status_code == 204
    assert {'HttpOnly', 'SameSite=strict'} <= set(answer.headers['set-cookie'].split('; '))
    assert client.get('/api/info').status_code == 200  # by the cookie
    for host, status in {'box:80': 200, '10.1.2.3': 200, '[fd00::1]:1': 200, 'evil.example': 421}.items():
        assert client.get('/api/info', headers=bearer | dict(host=host)).status_code == status


# the command line


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--port', 'TAKEN'], r'cannot listen on 127\.0\.0\.1, port \d+: .*in use'),
        (['--port', '99999'], r'cannot listen on 127\.0\.0\.1, port 99999'),
        (['--port', '-1'], r'cannot listen on 127\.0\.0\.1, port -1'),
        (['--port', '0', '--model', 'nowhere.py'], 'nowhere.py'),
        (['--host', '..', '--port', '0'], r'cannot listen on \.\.'),
    ],
    ids=['taken', 'large', 'negative', 'model', 'host'],
)
def test_addresses_that_are_none(index, flags, message):
    with listen('127.0.0.1', 0) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit, match=message):
            main(['serve', str(index), *(port if flag == 'TAKEN' else flag for flag in flags)])


@pytest.mark.slow
@pytest.mark.parametrize('host', ['127.0.0.1', '0.0.0.0'])
def test_the_command(mini_config, model, index, tmp_path, host):
    """Start, answer, end by Ctrl+C."""
    httpx = pytest.importorskip('httpx', reason='the extra galr_mm[dev]')
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'weights.pth')
    flags = ['--model', str(mini_config), '--checkpoint', str(tmp_path / 'weights.pth'), '--host', host, '--port', '0']
    command = [sys.executable, 'tools/archive.py', 'serve', str(index), *flags]
    server = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        line = next(line for line in server.stdout if line.startswith('http'))
        port, token = re.match(r'http://[^:]+:(\d+)/(?:#(\S+))?', line).groups()
        assert (token is None) == (host == '127.0.0.1')
        address = f'http://127.0.0.1:{port}/api/info'
        assert httpx.get(address).status_code == (200 if token is None else 401)
        answer = httpx.get(address, headers={'authorization': f'Bearer {token}'})
        assert answer.json()['images'] == 8
        assert 'server' not in answer.headers
        assert httpx.get(address, headers=dict(host='evil.example')).status_code == 421
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
