import json

import mmcv
import numpy as np
import pytest
import torch
from PIL import Image

from galr_mm.detection import ProposalSet
from galr_mm.detection.detector import build_detector, detector_pipelines, find_in_tiles, find_objects
from galr_mm.detection.extraction import Settings, extract_proposals
from galr_mm.imagery import tiles
from galr_mm.utils.io import claimed
from tests.helpers import DETECTOR_CONFIG as CONFIG
from tests.helpers import ROOT, run_tool, torchrun

tifffile = pytest.importorskip('tifffile', reason='the extra galr_mm[detect]')
pytestmark = pytest.mark.detect


@pytest.mark.parametrize('height', [1, 99, 100, 101, 180, 181, 1000])
@pytest.mark.parametrize('overlap', [0, 20, 99])
def test_windows_cover_the_image_with_their_overlap(height, overlap):
    found = list(tiles.windows(height, 250, 100, overlap))
    seen = np.zeros((height, 250), int)
    for left, top, right, bottom in found:
        assert right - left == 100
        assert bottom - top == min(height, 100)
        seen[top:bottom, left:right] += 1
    assert seen.min() >= 1
    starts = sorted({window.top for window in found})
    assert all(b - a <= 100 - overlap for a, b in zip(starts, starts[1:], strict=False))


def image(kind, size=(130, 210)):
    rng = np.random.default_rng(0)
    shape = {'gray': size, 'alpha': (*size, 4)}.get(kind, (*size, 3))
    if kind == '16 bit':
        return rng.integers(0, 65535, shape, dtype=np.uint16)
    return rng.integers(0, 255, shape, dtype=np.uint8)


@pytest.mark.parametrize('kind', ['rgb', 'gray', 'alpha', '16 bit'])
@pytest.mark.parametrize('compression', [None, 'zlib', 'lzw'])
def test_a_tiled_tiff_reads_as_a_decoded_one(tmp_path, kind, compression):
    array = image(kind)
    path, plain = tmp_path / 'tiled.tif', tmp_path / 'plain.tif'
    tifffile.imwrite(path, array, tile=(64, 48), compression=compression)
    tifffile.imwrite(plain, array[..., :3] if kind == 'alpha' else array)  # OpenCV darkens by alpha, in TIFF only
    with tiles.open_image(path) as tiled, tiles.open_image(plain) as decoded:
        assert isinstance(tiled, tiles.TiledTiff)
        assert isinstance(decoded, tiles.DecodedImage)
        assert (tiled.height, tiled.width) == (decoded.height, decoded.width) == (130, 210)
        for window in tiles.windows(130, 210, 50, 10):
            np.testing.assert_allclose(tiled.read(window).astype(int), decoded.read(window), atol=kind == '16 bit')


@pytest.mark.parametrize('kind', ['palette', 'inverted', 'turned', 'cmyk'])
def test_a_tiff_whose_tiles_are_not_the_image_is_decoded_whole(tmp_path, kind):
    colors = np.random.default_rng(0).integers(0, 65535, (3, 256), np.uint16)
    options = {
        'palette': dict(photometric='palette', colormap=colors),
        'inverted': dict(photometric='miniswhite'),
        'turned': dict(photometric='rgb', extratags=[(274, 'H', 1, 6, True)]),
        'cmyk': dict(photometric='separated'),
    }[kind]
    array = image({'turned': 'rgb', 'cmyk': 'alpha'}.get(kind, 'gray'))
    tifffile.imwrite(tmp_path / 'a.tif', array, tile=(64, 48), **options)
    with tiles.open_image(tmp_path / 'a.tif') as opened:
        whole = opened.read(tiles.Window(0, 0, opened.width, opened.height))
    np.testing.assert_array_equal(whole, mmcv.imread(str(tmp_path / 'a.tif')))
    assert kind != 'turned' or (opened.height, opened.width) == (210, 130)


def test_a_codec_that_is_not_here(tmp_path):
    """tifffile decodes LZW only with imagecodecs, OpenCV without."""
    array = image('rgb')
    tifffile.imwrite(tmp_path / 'a.tif', array, tile=(64, 48), compression='lzw')
    code = """
import sys
sys.modules['imagecodecs'] = None  # its import fails, as where it is not installed
import numpy as np
from galr_mm.imagery import tiles
with tiles.open_image('a.tif') as opened:
    assert isinstance(opened, tiles.DecodedImage), opened
    np.save('a.npy', opened.read(tiles.Window(0, 0, 210, 130)))
"""
    run_tool('-c', code, cwd=tmp_path, env={'PYTHONPATH': str(ROOT)})
    np.testing.assert_array_equal(np.load(tmp_path / 'a.npy'), array[..., ::-1])


def test_only_tiles_under_the_window_are_decoded(tmp_path, monkeypatch):
    path = tmp_path / 'large.tif'
    tifffile.imwrite(path, image('rgb', (640, 640)), tile=(64, 64))
    seen = []

    def noting(data, number, **options):
        seen.append(number)
        return decode(data, number, **options)

    with tiles.open_image(path) as opened:
        decode = opened.page.decode
        monkeypatch.setattr(opened.page, 'decode', noting)
        opened.read(tiles.Window(64, 0, 192, 64))
    assert seen == [1, 2]


@pytest.fixture(scope='module')
def folder(tmp_path_factory, mini):
    """A large scene of mini images, whose cells are the tiles, among small, odd and broken images."""
    folder = tmp_path_factory.mktemp('scenes')
    cells = [mmcv.imread(str(mini / f'images/train_000{n}.jpg')) for n in range(4)]
    scene = np.concatenate([np.concatenate(cells[:2], axis=1), np.concatenate(cells[2:], axis=1)])
    Image.fromarray(scene[..., ::-1]).save(folder / 'scene.png')
    tifffile.imwrite(folder / 'scene.tif', scene[..., ::-1], tile=(128, 128))
    for kind in ('gray', 'alpha', '16 bit'):
        tifffile.imwrite(folder / f'{kind}.tif', image(kind, (64, 64)))
    Image.fromarray(cells[0][..., ::-1]).save(folder / 'cell.png')
    (folder / 'broken.png').write_bytes((folder / 'scene.png').read_bytes()[:2000])
    (folder / 'empty.jpg').write_bytes(b'')
    return folder


SETTINGS = Settings(score_thr=0.3, max_per_image=400, tile=256, overlap=0, merge_iou=1.0)


def test_tiles_find_what_single_images_show(folder, detector):
    model, steps = build_detector(CONFIG, detector)
    for_files, for_arrays = detector_pipelines(steps)
    whole = find_in_tiles(model, for_arrays, folder / 'scene.png', *SETTINGS[2:], batch_size=3)
    single = find_objects(model, [for_files(dict(img_path=str(folder / 'cell.png'), img_id=0))])[0]
    assert whole[3] == (512, 512)
    inside = (whole[0][:, 2:] <= 256).all(1) & (whole[0][:, :2] < 250).all(1)
    expected = single[0][(single[0][:, 2:] <= 256).all(1) & (single[0][:, :2] < 250).all(1)]
    assert len(expected) > 5
    nearest = (whole[0][inside][:, None] - expected[None]).abs().amax(-1).amin(0)
    assert nearest.max() < 1  # a batch of another size rounds otherwise


def test_overlapping_tiles_are_merged_within_each_class(folder, detector):
    model, steps = build_detector(CONFIG, detector)
    _, for_arrays = detector_pipelines(steps)
    boxes, scores, labels, _ = find_in_tiles(model, for_arrays, folder / 'scene.png', 256, 128, 0.5, 4)
    raw = find_in_tiles(model, for_arrays, folder / 'scene.png', 256, 128, 1.0, 4)
    assert len(scores) < len(raw[1])
    low, high = (
        torch.maximum(boxes[:, None, :2], boxes[None, :, :2]),
        torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:]),
    )
    overlap = (high - low).clamp(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    iou = overlap / (area[:, None] + area - overlap)
    same = (labels[:, None] == labels) & ~torch.eye(len(labels), dtype=torch.bool)
    assert iou[same].max() <= 0.5 + 1e-6


def test_a_folder_of_all_kinds(folder, detector, tmp_path):
    out = tmp_path / 'p.json'
    content = extract_proposals(CONFIG, detector, folder, out, settings=SETTINGS, num_workers=0)
    assert sorted(content['info']['unreadable']) == ['broken.png', 'empty.jpg']
    sizes = {image['file_name']: (image['height'], image['width']) for image in content['images']}
    assert sizes['scene.tif'] == sizes['scene.png'] == (512, 512)
    assert sizes['gray.tif'] == (64, 64)
    found = ProposalSet(out)
    for name in ('scene.png', 'scene.tif'):
        assert (found.get(name).bboxes > 256).any()
    np.testing.assert_allclose(found.get('scene.png').bboxes, found.get('scene.tif').bboxes)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(tile=100, overlap=100), 'overlap is 100'),
        (dict(tile=0), 'tile of 0'),
        (dict(score_thr=2), 'score_thr is 2'),
        (dict(max_per_image=0), 'max_per_image 0'),
        (dict(merge_iou=0), 'merge_iou 0'),
    ],
)
def test_bad_settings(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        extract_proposals(CONFIG, 'x.pth', tmp_path, tmp_path / 'p.json', settings=Settings(**settings))


@pytest.mark.distributed
def test_two_processes_find_the_same(folder, detector, tmp_path, mini):
    one, two = tmp_path / 'one.json', tmp_path / 'two.json'
    options = ['--score-thr', '0.3', '--num-workers', '0', '--tile', '256']
    run_tool('tools/extract_proposals.py', CONFIG, detector, mini / 'images', '--out', one, *options)
    tool = ['tools/extract_proposals.py', CONFIG, detector, mini / 'images', '--out', two, *options]
    torchrun(*tool, '--launcher', 'pytorch')
    one, two = (json.loads(path.read_text()) for path in (one, two))
    assert [i['file_name'] for i in one['images']] == [i['file_name'] for i in two['images']]
    a, b = ProposalSet(tmp_path / 'one.json'), ProposalSet(tmp_path / 'two.json')
    for image in one['images']:
        np.testing.assert_allclose(a.get(image['file_name']).scores, b.get(image['file_name']).scores, atol=1e-3)
    assert not list(tmp_path.glob('*.partial*'))


def test_what_other_processes_left_is_gone_on_with(detector, mini, tmp_path):
    out = tmp_path / 'p.json'
    settings = Settings(score_thr=0.3)
    whole = extract_proposals(CONFIG, detector, mini / 'images', tmp_path / 'w.json', settings=settings, num_workers=0)
    header = {key: whole['info'][key] for key in ('detector', *Settings._fields, 'classes')}
    header['images'] = str((mini / 'images').resolve())
    lines = [
        json.dumps({'file_name': f'train_000{n}.jpg', 'height': 256, 'width': 256, 'objects': [[1, 2, 3, 4, 0.9, n]]})
        for n in range(4)
    ]
    (tmp_path / 'p.json.partial.jsonl').write_text('\n'.join([json.dumps(header), lines[0], '']))
    (tmp_path / 'p.json.partial-1.jsonl').write_text('\n'.join([json.dumps(header), *lines[1:3], lines[3][:10]]))
    extract_proposals(CONFIG, detector, mini / 'images', out, settings=settings, num_workers=0)
    found = ProposalSet(out)
    for n in range(3):
        assert found.get(f'train_000{n}.jpg').labels.tolist() == [n]
    assert len(found.get('train_0003.jpg').labels) != 1
    assert not list(tmp_path.glob('*.partial*'))


@pytest.mark.parametrize('left', ['.partial.jsonl', '.partial-1.jsonl'])
@pytest.mark.parametrize(('key', 'value'), [('images', '/elsewhere'), ('score_thr', 0.6)])
def test_runs_do_not_mix(detector, mini, tmp_path, left, key, value):
    """Neither with an unfinished run on other images of the same names, nor with what one process left of it."""
    record = {'file_name': 'train_0000.jpg', 'height': 9, 'width': 9, 'objects': []}
    (tmp_path / f'p.json{left}').write_text(json.dumps({key: value}) + '\n' + json.dumps(record) + '\n')
    with pytest.raises(FileExistsError, match=rf'p.json{left} was begun with another .*{key}.*delete it'):
        extract_proposals(CONFIG, detector, mini / 'images', tmp_path / 'p.json', num_workers=0)
    assert (tmp_path / f'p.json{left}').exists()


def test_one_run_at_a_time(detector, mini, tmp_path):
    with claimed(tmp_path / 'p.json'), pytest.raises(BlockingIOError, match='another run is writing'):
        extract_proposals(CONFIG, detector, mini / 'images', tmp_path / 'p.json', num_workers=0)
    assert not list(tmp_path.iterdir())


def test_objects_do_not_depend_on_what_else_is_in_the_batch(detector, mini):
    """Without padding in the pipeline, images of several sizes would be padded to the largest of their batch."""
    model, steps = build_detector(CONFIG, detector)
    _, for_arrays = detector_pipelines([step for step in steps if 'Pad' not in step['type']])
    image = mmcv.imread(str(mini / 'images/test_0000.jpg'))
    batch = [for_arrays(dict(img=image[:height], img_id=0)) for height in (256, 120, 256, 200)]
    together = find_objects(model, batch)
    for item, objects in zip(batch, together, strict=True):
        for alone, found in zip(find_objects(model, [item])[0], objects, strict=True):
            np.testing.assert_allclose(np.asarray(alone), np.asarray(found), atol=1e-3)
    assert [shape for *_, shape in together] == [(256, 256), (120, 256), (256, 256), (200, 256)]


RESULTS = [
    dict(image_id=7, category_id=3, bbox=[1, 2, 10, 20], score=0.5),
    dict(image_id=7, category_id=1, bbox=[5, 5, 3, 3], score=0.9),
    dict(image_id=7, category_id=1, bbox=[5, 5, 3, 3], score=0.05),
]
IMAGES = dict(
    images=[dict(id=7, file_name='a.jpg', width=50, height=40), dict(id=9, file_name='b.jpg', width=50, height=40)],
    categories=[dict(id=1, name='ship'), dict(id=3, name='plane')],
)


def convert(tmp_path, results, images, *flags, check=True):
    (tmp_path / 'r.json').write_text(json.dumps(results))
    (tmp_path / 'i.json').write_text(json.dumps(images))
    tool = 'tools/dataset_converters/coco_results.py'
    return run_tool(tool, tmp_path / 'r.json', tmp_path / 'i.json', '--out', tmp_path / 'p.json', *flags, check=check)


def test_results_of_another_framework(tmp_path):
    convert(tmp_path, RESULTS, IMAGES)
    found = ProposalSet(tmp_path / 'p.json')
    assert found.get('a.jpg').labels.tolist() == [0, 1]
    np.testing.assert_allclose(found.get('a.jpg').bboxes, [[5, 5, 8, 8], [1, 2, 11, 22]])
    assert len(found.get('b.jpg').labels) == 0
    assert found.classes == ('ship', 'plane')


@pytest.mark.parametrize(
    ('results', 'images', 'message'),
    [
        ([dict(RESULTS[0], image_id=8)], IMAGES, 'image_id 8'),
        ([dict(RESULTS[0], category_id=2)], IMAGES, 'category_id 2'),
        ([dict(image_id=7)], IMAGES, 'has no category_id, bbox, score'),
        ({}, IMAGES, 'expected a list'),
        (RESULTS, dict(images=IMAGES['images']), 'images and categories'),
    ],
)
def test_bad_results(tmp_path, results, images, message):
    done = convert(tmp_path, results, images, check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert 'Traceback' not in done.stderr
    assert not (tmp_path / 'p.json').exists()


@pytest.mark.parametrize('flags', [('--max-per-image', '-1'), ('--max-per-image', '0'), ('--score-thr', 'nan')])
def test_bad_numbers(tmp_path, flags):
    done = convert(tmp_path, RESULTS, IMAGES, *flags, check=False)
    assert flags[1] in done.stderr
    assert not (tmp_path / 'p.json').exists()
