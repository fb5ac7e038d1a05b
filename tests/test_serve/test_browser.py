"""The page in a real browser: by keyboard and mouse, with images dropped, and nothing asked of other machines."""

import json
import shutil
import sqlite3
import threading
import time

import pytest

from galr_mm.serve import Images, Library, make_app
from galr_mm.serve.server import listen
from tests.test_serve.conftest import NASTY

pytestmark = [pytest.mark.serve, pytest.mark.slow]
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')
DROP = """({ name, content }) => {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], name));
    for (const kind of ['dragenter', 'dragover', 'drop']) {
        document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
    }
}"""


class Server:
    """An application on a free port of this machine, in a thread."""

    def __init__(self, app):
        import uvicorn

        self.socket = listen('127.0.0.1', 0)
        self.address = f'http://127.0.0.1:{self.socket.getsockname()[1]}'
        self.server = uvicorn.Server(uvicorn.Config(app, log_level='warning', ws='none'))
        self.thread = threading.Thread(target=self.server.run, kwargs=dict(sockets=[self.socket]))

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return self.address

    def __exit__(self, *exception):
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()


@pytest.fixture(scope='module')
def address(app):
    with Server(app) as address:
        yield address


@pytest.fixture(scope='module')
def browser():
    playwright = pytest.importorskip('playwright.sync_api', reason='the extra galr_mm[dev]')
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f'no browser: none of {", ".join(BROWSERS)}')
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=found, args=['--no-sandbox'])
        yield started
        started.close()


@pytest.fixture
def page(browser, address):
    """A page of its own; whatever goes wrong in it, or leaves the machine, fails the test."""
    context = browser.new_context(viewport=dict(width=1280, height=900), accept_downloads=True)
    problems = []
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on('pageerror', lambda error: problems.append(f'error: {error}'))
    page.on('console', lambda message: problems.append(message.text) if message.type == 'error' else None)
    page.on('request', lambda request: problems.append(request.url) if not is_own(request.url, address) else None)
    page.on('dialog', lambda dialog: problems.append(f'alert: {dialog.message}') or dialog.dismiss())
    page.goto(address)
    until(page, "document.querySelector('#about').textContent")
    page.problems = problems
    yield page
    context.close()
    assert problems == []


def is_own(url, address):
    return url.startswith((f'{address}/', 'blob:', 'data:'))


def until(page, expression):
    """Wait for a condition; what waits inside the page would need code from strings, which its policy forbids."""
    end = time.monotonic() + 60
    while not page.evaluate(expression):
        assert time.monotonic() < end, f'not within a minute: {expression}'
        time.sleep(0.02)


def says(page, selector, words):
    until(page, f'document.querySelector({json.dumps(selector)}).textContent.includes({json.dumps(words)})')


def search(page, sentence):
    page.fill('#sentence', sentence)
    page.press('#sentence', 'Enter')
    says(page, '#title', f'\u201c{sentence}\u201d')


def names(page):
    return page.locator('#hits .name').all_text_contents()


def test_a_sentence(page, searcher):
    assert page.title() == 'Archive'
    assert '8 images \u00b7 16 tiles' in page.inner_text('#about')
    search(page, 'two ships')
    (expected,) = searcher('two ships', topk=24)
    assert [float(score) for score in page.locator('#hits .score').all_text_contents()] == pytest.approx(
        [hit.score for hit in expected], abs=6e-4
    )
    assert f'{len(expected)} hits in' in page.inner_text('#status')
    until(page, "[...document.querySelectorAll('#hits img')].every((i) => i.complete && i.naturalWidth > 0)")
    assert page.locator('.pin').count() == 5
    assert page.locator('path.footprint').count() == 5


def test_names_are_text(page):
    search(page, '<img src=x onerror=alert(1)>')
    assert NASTY in names(page)
    assert page.locator('#hits .name img').count() == 0
    assert page.locator('#title img').count() == 0
    page.get_by_text(NASTY).click()
    assert NASTY in page.inner_text('#viewer-title')
    assert page.locator('#viewer-title img').count() == 0


def test_the_keyboard_alone(page):
    assert page.evaluate('document.activeElement.id') == 'sentence'
    page.keyboard.type('a ship')
    page.keyboard.press('Enter')
    page.wait_for_selector('#hits .card')
    for _ in range(20):
        page.keyboard.press('Tab')
        if page.evaluate("document.activeElement.classList.contains('card')"):
            break
    style = page.evaluate('getComputedStyle(document.activeElement).outlineStyle')
    assert style == 'solid'  # where one is, is seen
    first = page.evaluate("document.activeElement.querySelector('.name').textContent")
    page.keyboard.press('Enter')
    page.wait_for_selector('#viewer[open]')
    assert first in page.inner_text('#viewer-title')
    page.keyboard.press('ArrowRight')
    assert page.inner_text('#viewer-title').startswith('2. ')
    page.focus('#heat-sentence')
    page.keyboard.press('Enter')
    page.wait_for_selector('#stage canvas')
    page.keyboard.press('Escape')
    assert not page.evaluate("document.querySelector('#viewer').open")
    page.evaluate('document.activeElement.blur()')
    page.keyboard.press('/')
    assert page.evaluate('document.activeElement.id') == 'sentence'


def test_every_field_has_a_name(page):
    page.click('#filter-button')
    unnamed = page.evaluate("""() => [...document.querySelectorAll('input, select, button')]
        .filter((e) => !e.labels?.length && !e.textContent.trim() && !e.getAttribute('aria-label'))
        .map((e) => e.outerHTML)""")
    assert unnamed == []


def test_an_image_is_dropped(page, archive):
    import base64

    path = sorted((archive / 'north').iterdir())[1]
    page.evaluate(DROP, dict(name=path.name, content=base64.b64encode(path.read_bytes()).decode()))
    page.wait_for_selector('#hits .card')
    assert names(page)[0] == f'north/{path.name}'
    assert page.locator('#hits .score').first.inner_text() in ('1.000', '0.999')
    assert page.is_hidden('#order')  # the bank has no images
    assert page.is_hidden('#drop')
    page.evaluate(DROP, dict(name='notes.txt', content=base64.b64encode(b'no image').decode()))
    page.wait_for_selector('#problem:not([hidden])')
    assert 'not an image' in page.inner_text('#problem')
    page.problems[:] = [problem for problem in page.problems if '415' not in problem]
    page.click('#remove')
    search(page, 'ships')
    assert page.is_visible('#order')


def test_nothing_is_found(page):
    page.click('#filter-button')
    page.fill('#min-score', '0.9999')
    page.fill('#sentence', 'two ships')
    page.press('#sentence', 'Enter')
    says(page, '#empty-title', 'Nothing was found')
    assert page.is_hidden('#results')
    assert 'Of 16 images or parts that pass the filters, none is' in page.inner_text('#empty-text')
    page.click('#clear')
    page.fill('#start', '2021-06-01')
    page.fill('#end', '2021-06-01')
    page.check('input[value="GF-1"]')
    page.press('#sentence', 'Enter')
    says(page, '#empty-text', 'No image passes the filters')
    assert page.inner_text('#filter-button') == 'Filters (3)'
    page.click('#clear')
    page.fill('#coarsest', '0.2')
    page.press('#sentence', 'Enter')
    until(page, "document.querySelectorAll('#hits .card').length === 2")
    assert page.get_attribute('#finest', 'placeholder') == '0.1'


def test_filters_of_the_map(page):
    search(page, 'ships')
    page.click('#use-view')
    until(page, "document.querySelectorAll('#hits .card').length === 5")
    page.fill('#west', '')
    page.press('#sentence', 'Enter')
    page.wait_for_selector('#problem:not([hidden])')
    assert 'west, south, east and north are needed' in page.inner_text('#problem')
    page.fill('#west', '200')
    page.press('#sentence', 'Enter')
    says(page, '#problem', 'cannot be used')


def test_files_and_re_ranking(page):
    search(page, 'two ships')
    with page.expect_download() as download:
        page.click('[data-export=geojson]')
    features = json.loads(download.value.path().read_text())['features']
    assert [feature['properties']['path'] for feature in features] == names(page)
    assert download.value.suggested_filename == 'hits.geojson'
    page.select_option('#rerank', 'mr')
    until(page, "document.querySelector('#progress').hidden")
    page.locator('#hits .card').first.click()
    assert 'Re-ranked' in page.inner_text('#facts')


def test_objects_of_a_low_score_are_not_shown(browser, model, index, tmp_path):
    copied = shutil.copytree(index, tmp_path / 'index')
    boxes = [[10, 10, 60, 60, 0.9, 'ship'], [70, 10, 90, 60, 0.31, 'ship'], [1, 2, 9, 9, 0.29, 'car']]
    with sqlite3.connect(copied / 'catalog.sqlite') as catalog:
        catalog.execute('UPDATE tile SET boxes = ?', [json.dumps(boxes)])
    with Server(make_app(lambda: Library(model, copied), lambda: Images(copied))) as address:
        page = browser.new_page()
        page.goto(address)
        search(page, 'ships')
        assert page.locator('#hits .card').first.locator('rect.object').count() == 2
        page.locator('#hits .card').first.click()
        assert page.locator('#stage rect.object').count() == 2
        assert page.locator('#stage .object-name').all_text_contents() == ['ship 0.90', 'ship 0.31']
        assert '2 ship' in page.inner_text('#facts')
        page.close()


def test_asked_before_the_server_has_said_what_it_holds(browser, address):
    page, held = browser.new_page(), []
    page.route('**/api/info', lambda route: held.append(route))
    page.goto(address)
    page.fill('#sentence', 'ships')
    page.press('#sentence', 'Enter')
    assert page.inner_text('#problem') == ''
    held[0].continue_()
    says(page, '#title', '\u201cships\u201d')
    assert page.locator('#hits .card').count() > 0
    page.close()


def test_a_heat_map(page):
    search(page, 'ships')
    page.locator('.card', has_text='wide.png').first.click()
    page.click('#heat-button')
    page.wait_for_selector('#stage canvas')
    assert '9 windows' in page.inner_text('#heat-status')
    assert float(page.inner_text('#heat-low')) < float(page.inner_text('#heat-high'))
    colors = page.evaluate("""() => {
        const canvas = document.querySelector('#stage canvas');
        const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return new Set(new Uint32Array(data.buffer)).size;
    }""")
    assert colors >= 9
    page.click('#heat-off')
    assert page.locator('#stage canvas').count() == 0


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_narrow(page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(dict(width=400, height=800))
    search(page, 'ships')
    assert page.evaluate('document.documentElement.scrollWidth') <= 400
    page.locator('.card').first.click()
    assert page.evaluate("document.querySelector('#viewer').scrollWidth") <= 400


def test_the_token_does_not_stay_in_the_address(browser, model, index):
    app = make_app(lambda: Library(model, index), lambda: Images(index), token='a token')
    with Server(app) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector('#locked[open]')
        page.fill('#token', 'wrong')
        page.press('#token', 'Enter')
        says(page, '#locked-text', 'not the token')
        page.goto('about:blank')
        page.goto(f'{address}/#a%20token')
        until(page, "document.querySelector('#about').textContent")
        assert page.url == f'{address}/'
        assert page.evaluate('document.cookie') == ''  # scripts do not see it
        search(page, 'ships')
        until(page, "document.querySelector('#hits img').naturalWidth > 0")
        context.close()
