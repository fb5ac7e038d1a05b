"""The docs: generated pages hold what is registered, links fit, and the tutorials run as they stand."""

import csv
import doctest
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from galr_mm.utils.config import read_config_file

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = ROOT / 'docs/tutorials'


@pytest.fixture
def hooks(monkeypatch):
    for name in ('mkdocs', 'griffe', 'latex2mathml'):
        pytest.importorskip(name, reason='the extra galr_mm[docs]')
    monkeypatch.syspath_prepend(ROOT / 'docs/_site')
    return importlib.import_module('hooks')


def blocks(page, language):
    return re.findall(rf'^```{language}\n(.*?)^```', (TUTORIALS / page).read_text(), re.DOTALL | re.MULTILINE)


def files_of(page):
    """The code blocks that begin with a file name."""
    named = (re.match(r'# (\w+\.py)\n', block) for block in blocks(page, 'python'))
    return {match[1]: match.string for match in named if match}


@pytest.fixture
def workplace(tmp_path):
    """A folder like the checkout, where tutorials may write."""
    for name in ('configs', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name)

    def run(command):
        env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': f'{ROOT}{os.pathsep}{tmp_path}'}
        command = re.sub(r'^python ', f'{sys.executable} ', command, flags=re.MULTILINE)
        done = subprocess.run(['bash', '-ec', command], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    return tmp_path, run


@pytest.mark.slow
def test_own_data(workplace):
    folder, run = workplace
    rng = np.random.default_rng(0)
    (folder / 'data/mine/images').mkdir(parents=True)
    rows = []
    for split, count in dict(train=20, val=5, test=5).items():
        for i in range(count):
            name = f'{split}_{i}.jpg'
            cv2.imwrite(str(folder / 'data/mine/images' / name), rng.integers(0, 255, (64, 64, 3), np.uint8))
            rows += [(name, split, f'a field with {word} trees') for word in ('many', 'few')]
    with open(folder / 'data/mine/captions.csv', 'w', newline='') as file:
        csv.writer(file).writerows([('filename', 'split', 'caption'), *rows])
    for name, text in files_of('own_data.md').items():
        (folder / name).write_text(text.replace('max_epochs = 12', 'max_epochs = 1').replace('= 100', '= 16'))
    out = run('\n'.join(blocks('own_data.md', 'bash')))
    assert 'chance' in out
    assert 'mr' in out
    assert len([line for line in out.splitlines() if line.startswith('data/mine/images/')]) == 3
    assert (folder / 'scores.npz').is_file()
    assert list((folder / 'sheets').glob('*.png'))


@pytest.mark.parametrize(
    ('page', 'expected'), [('README.md', (128, 32, 12)), ('docs/tutorials/own_data.md', (128, 100, 12))]
)
def test_the_config_of_ones_own_data(workplace, page, expected):
    """Its lines of size, batch and epochs do what they say."""
    folder, _ = workplace
    (text,) = re.findall(r'^```python\n(# mine.py\n.*?)^```', (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    (folder / 'mine.py').write_text(text)
    cfg = read_config_file(folder / 'mine.py')
    pipeline = cfg.test_dataloader.dataset.pipeline
    assert (pipeline[1].scale[0], cfg.train_dataloader.batch_size, cfg.train_cfg.max_epochs) == expected
    assert cfg.test_dataloader.dataset.ann_file == 'captions.json'


@pytest.mark.slow
def test_own_module(workplace, mini_config):
    folder, run = workplace
    files = files_of('own_module.md')
    for name, text in files.items():
        (folder / name).write_text(text)
    assert set(files) == {'my_loss.py', 'my_config.py', 'test_my_loss.py'}
    run('python test_my_loss.py')
    # the same config on data that is there, trained for an epoch
    config = re.sub(r'(?m)^_base_ = .*$', f"_base_ = '{mini_config}'", files['my_config.py'])
    (folder / 'my_config.py').write_text(config)
    run('python tools/train.py my_config.py --no-validate --cfg-options train_cfg.max_epochs=1')
    assert (folder / 'work_dirs/my_config/epoch_1.pth').is_file()


def test_rerank_matrix():
    result = doctest.testfile(str(TUTORIALS / 'rerank_matrix.md'), module_relative=False)
    assert result.attempted > 5
    assert not result.failed


def test_every_registered_type_and_argument_is_described(hooks):
    page = hooks.types_page()
    undescribed = []
    for _, _, types in hooks.registered():
        for name, kind in types.items():
            assert f'### galr_mm.{name} ' in page
            assert hooks.summary_of(kind), name
            undescribed += [f'{name}.{row[0]}' for row in hooks.arguments(kind) if not row[3]]
    assert not undescribed


def test_every_public_module_has_a_page(hooks):
    pages = [hooks.page_of(module) for module in hooks.module_files()]
    assert 'reference/galr_mm/models/fusion/midf.md' in pages
    assert 'reference/galr_mm/functional/index.md' in pages

    def flat(nav):
        for item in nav:
            yield from (
                flat(*item.values())
                if isinstance(item, dict) and isinstance([*item.values()][0], list)
                else (item.values() if isinstance(item, dict) else [item])
            )

    assert sorted(flat(hooks.reference_nav(hooks.module_files()))) == sorted(pages)


def test_every_table_of_the_results_is_made_from_runs():
    page = (ROOT / 'docs/results.md').read_text()
    typed = re.sub(r'<!-- table:.*?<!-- end -->', '', page, flags=re.DOTALL)
    assert re.search(r'^\|', page, re.MULTILINE)
    assert not re.search(r'^\|', typed, re.MULTILINE)


@pytest.mark.parametrize(
    'page', sorted(ROOT.glob('*.md')) + sorted(ROOT.glob('[bdp]*/**/*.md')), ids=lambda p: str(p.relative_to(ROOT))
)
def test_links_lead_somewhere_without_the_site(page):
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.DOTALL | re.MULTILINE)
    lost = []
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        path, _, anchor = target.partition('#')
        if '://' in path or path.startswith('mailto:'):
            continue
        file = page.parent / path if path else page
        if not file.exists() or (anchor and file.suffix == '.md' and anchor not in anchors(file)):
            lost.append(target)
    assert lost == []


def anchors(page):
    """Anchors of the headings of a page, as GitHub and mkdocs name them."""
    heads = re.findall(r'^#+ +(.+?)(?: *\{[^}]*\})?$', page.read_text(), re.MULTILINE)
    return {
        re.sub(r'\s+', '-', re.sub(r'[^\w\s-]', '', re.sub(r'\[(.*?)\]\(.*?\)', r'\1', head)).strip().lower())
        for head in heads
    }


def test_links_that_leave_the_docs(hooks):
    origin, page = Path('docs/rerank.md'), 'rerank.md'

    def rewritten(text):
        return hooks.rewrite_links(text, origin, page)

    assert rewritten('[b](../benchmarks/README.md#why)') == '[b](benchmarks.md#why)'
    assert rewritten('[m](../galr_mm/models/fusion/midf.py)') == '[m](reference/galr_mm/models/fusion/midf.md)'
    assert rewritten('[p](../galr_mm/models/__init__.py)') == '[p](reference/galr_mm/models/index.md)'
    assert rewritten('[t](../galr_mm/registry.py)') == '[t](reference/types.md)'
    assert rewritten('[a license](../LICENSE)') == '`a license`'
    assert rewritten('[x](https://example.org) [y](results.md) [z](#cost)') == (
        '[x](https://example.org) [y](results.md) [z](#cost)'
    )
    assert rewritten('[gone](../gone.md)') == '[gone](../gone.md)'
    assert rewritten('```python\nf[0](../LICENSE)\n```\n') == '```python\nf[0](../LICENSE)\n```\n'


def test_formulas_become_mathml(hooks):
    griffe_rst = importlib.import_module('griffe_rst')
    assert doctest.testmod(griffe_rst).failed == 0
    text = griffe_rst.to_markdown(
        'As :func:`~galr_mm.x`, :math:`v_g`:\n\n.. math::\n    a &= b \\\\\n    c &= d\n\nAfter.\n'
    )
    assert text.startswith('As `galr_mm.x`, <span><math')
    assert text.count('<mtr>') == 2
    assert text.endswith('After.\n')
