"""Weights from files and links: what is read, and what a file that is none is called."""

import functools
import http.server
import threading

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file

from galr_mm.integrations.checkpoints import read_weights

WEIGHTS = {'layer.weight': torch.arange(4.0)}


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder and its address."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    folder = tmp_path / 'served'
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f'http://127.0.0.1:{server.server_address[1]}'
        server.shutdown()


def write(path, kind):
    if kind == 'safetensors':
        save_file(WEIGHTS, path)
    else:
        torch.save(
            {
                'whole': {'state_dict': WEIGHTS},
                'bare': WEIGHTS,
                'wrapped': {'module.layer.weight': WEIGHTS['layer.weight']},
            }[kind],
            path,
        )
    return path


@pytest.mark.parametrize('kind', ['safetensors', 'whole', 'bare', 'wrapped'])
@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors', 'a.bin'])
def test_what_is_read(tmp_path, kind, name):
    weights = read_weights(write(tmp_path / name, kind))
    assert list(weights) == ['layer.weight']
    assert torch.equal(weights['layer.weight'], WEIGHTS['layer.weight'])


def test_mmengine_reads_safetensors_too(tmp_path):
    """As `init_cfg` of any part, and so as load_from."""
    write(tmp_path / 'a.safetensors', 'safetensors')

    class Part(BaseModule):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.layer = torch.nn.Module()
            self.layer.weight = torch.nn.Parameter(torch.zeros(4))

    part = Part(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'a.safetensors')))
    part.init_weights()
    assert torch.equal(part.layer.weight, WEIGHTS['layer.weight'])


def broken(path, kind):
    if kind == 'cut zip':
        torch.save({'a': torch.zeros(9999)}, path)
        path.write_bytes(path.read_bytes()[:-3000])
    elif kind == 'cut safetensors':
        save_file({'a': torch.zeros(9999)}, path)
        path.write_bytes(path.read_bytes()[:-3000])
    elif kind == 'list':
        torch.save([1] * 100_000, path)
    elif kind == 'numbers':
        torch.save({'a': 1}, path)
    else:
        path.write_bytes(
            dict(empty=b'', page=b'\n<html>x', pointer=b'version https://git-lfs...', garbage=b'x' * 99)[kind]
        )
    return path


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('empty', 'it is empty'),
        ('page', 'it is a web page'),
        ('pointer', 'it is a pointer of git-lfs'),
        ('cut zip', 'it is a zip archive that was cut off'),
        ('cut safetensors', 'cannot be read: SafetensorError'),
        ('garbage', 'cannot be read: UnpicklingError'),
        ('list', 'is not a checkpoint'),
        ('numbers', 'holds no weights'),
    ],
)
@pytest.mark.parametrize('name', ['weights.pth', 'weights.safetensors'])
def test_what_is_none(tmp_path, kind, message, name):
    with pytest.raises(ValueError, match=message) as error:
        read_weights(broken(tmp_path / name, kind))
    assert name in str(error.value)
    assert len(str(error.value)) < 1000


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no checkpoint at nowhere\.pth'):
        read_weights('nowhere.pth')
    for name in ('best_mR_epoch_8.pth', 'model.safetensors', 'notes.txt'):
        (tmp_path / name).touch()
    has = r'has best_mR_epoch_8\.pth, model\.safetensors$'
    with pytest.raises(FileNotFoundError, match=rf'no checkpoint at {tmp_path}, which is a folder; {tmp_path} {has}'):
        read_weights(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf'no checkpoint at .*best_\*\.pth; {tmp_path} {has}'):
        read_weights(tmp_path / 'best_*.pth')


@pytest.mark.parametrize('kind', ['safetensors', 'whole'])
def test_links(served, kind):
    folder, address = served
    write(folder / 'a.pth', kind)
    assert torch.equal(read_weights(f'{address}/a.pth')['layer.weight'], WEIGHTS['layer.weight'])
    (folder / 'a.pth').unlink()
    assert list(read_weights(f'{address}/a.pth')) == ['layer.weight']  # kept


def test_broken_links(served):
    folder, address = served
    with pytest.raises(OSError, match=r'/b\.pth cannot be downloaded: HTTPError: HTTP Error 404'):
        CheckpointLoader.load_checkpoint(f'{address}/b.pth')
    (folder / 'b.pth').write_text('<html>')
    with pytest.raises(ValueError, match=r'b\.pth cannot be read: it is a web page'):
        read_weights(f'{address}/b.pth')
    write(folder / 'b.pth', 'bare')
    assert read_weights(f'{address}/b.pth')  # downloaded again
