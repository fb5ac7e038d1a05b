"""Bad input to the converters: one line that says why, and nothing half-written."""

import json

import pytest
import torch

from galr_mm.cli import build_vocabulary, convert_detections, convert_released_galr, make_mini_dataset

IMAGE = dict(id=1, file_name='a.jpg', width=10, height=10)
RESULT = dict(image_id=1, category_id=1, bbox=[0, 0, 5, 5], score=0.5)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').touch()
    (tmp_path / 'folder').mkdir()
    for name, content in dict(
        results=[RESULT],
        images=dict(images=[IMAGE], categories=[dict(id=1, name='x')]),
        captions=dict(images=[dict(filename='a.jpg', split='train', sentences=[dict(raw='a river')])]),
    ).items():
        (tmp_path / f'{name}.json').write_text(json.dumps(content))
    (tmp_path / 'garbage.pth').write_bytes(b'garbage')
    for name, weights in dict(
        good={'mvsa.LF_conv.weight': torch.zeros(1)},
        empty={},
        number={'mvsa.LF_conv.weight': 3},
        key={1: torch.zeros(1)},
    ).items():
        torch.save({'model': weights}, tmp_path / f'{name}.pth')
    return tmp_path


@pytest.mark.parametrize(
    ('tool', 'arguments', 'message'),
    [
        (convert_detections, 'results.json images.json --out file/x.json', '--out: cannot write file/x.json'),
        (convert_detections, 'results.json images.json --overwrite --out folder', '--out: cannot write folder'),
        (convert_released_galr, 'garbage.pth x.pth', 'garbage.pth cannot be read: UnpicklingError'),
        (convert_released_galr, 'file x.pth', 'file cannot be read: it is empty'),
        (convert_released_galr, 'empty.pth x.pth', 'empty.pth: the state dict is empty'),
        (convert_released_galr, 'number.pth x.pth', "'mvsa.LF_conv.weight' holds a int, expected tensors by name"),
        (convert_released_galr, 'key.pth x.pth', '1 holds a Tensor, expected tensors by name'),
        (convert_released_galr, 'good.pth file/x.pth', 'cannot write file/x.pth'),
        (convert_released_galr, 'good.pth folder', 'cannot write folder'),
        (build_vocabulary, 'captions.json --out x.json --min-count 0', 'min_count is 0, expected 1 or more'),
        (make_mini_dataset, '--out file', '--out: cannot write into file'),
    ],
)
def test_bad_input(files, tool, arguments, message):
    before = sorted(files.rglob('*'))
    with pytest.raises(SystemExit) as error:
        tool.main(arguments.split())
    assert message in str(error.value)
    assert '\n' not in str(error.value)
    assert sorted(files.rglob('*')) == before
