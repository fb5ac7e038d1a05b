import os
import shutil

import mmcv
import numpy as np
import pytest
import torch

from galr_mm.apis import ArchiveIndexer, ArchiveSearcher, init_model
from galr_mm.serve import Images, Library, make_app

NASTY = '<img src=x onerror=alert(1)> "quoted\'.jpg'
NOT_UTF8 = os.fsdecode(b'caf\xe9 \n.jpg')


@pytest.fixture(scope='package')
def model(mini_config):
    """A GaLR with random weights, without a detector."""
    torch.manual_seed(0)
    return init_model(mini_config)


@pytest.fixture(scope='package')
def archive(mini, tmp_path_factory):
    """Images with nasty names, one of them large."""
    folder = tmp_path_factory.mktemp('serve') / 'secret place' / 'images'
    (folder / 'north').mkdir(parents=True)
    files = sorted((mini / 'images').glob('*'))[:8]
    for path in files[:5]:
        shutil.copy(path, folder / 'north')
    shutil.copy(files[5], folder / NASTY)
    shutil.copy(files[6], folder / NOT_UTF8)
    parts = [mmcv.imread(str(path)) for path in files[:4]]
    mmcv.imwrite(np.concatenate([np.concatenate(parts[:2], 1), np.concatenate(parts[2:], 1)]), str(folder / 'wide.png'))
    return folder


@pytest.fixture(scope='package')
def index(model, archive, tmp_path_factory):
    """Five images with a place, a time and fields; a bank of captions; the large one in tiles."""
    folder = tmp_path_factory.mktemp('serve_index')
    names = sorted(f'north/{path.name}' for path in (archive / 'north').iterdir())
    rows = [
        f'{name},2021-06-0{n + 1},GF-{n % 2},0.{n + 1},{n},10,{n + 1},11,"<b>dry\'"' for n, name in enumerate(names)
    ]
    table = folder / 'table.csv'
    table.write_text('\n'.join(['path,datetime,platform,gsd,west,south,east,north,season', *rows]))
    indexer = ArchiveIndexer(model, folder / 'index', tile=256, overlap=64)
    report = indexer.update(archive, table, show_progress=False)
    assert (report.added, report.tiles, len(report.skipped)) == (8, 7 + 9, 0)
    indexer.make_bank(['a ship', 'two airplanes', 'a red house', 'vehicles', 'no ship'])
    return folder / 'index'


@pytest.fixture(scope='package')
def searcher(model, index):
    return ArchiveSearcher(model, index)


@pytest.fixture(scope='package')
def app(model, index):
    return make_app(lambda: Library(model, index), lambda: Images(index))
