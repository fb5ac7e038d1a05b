import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import RandomFlip, Resize

from galr_mm.datasets.transforms import (
    LoadImageWithProposals,
    OpenCLIPPreprocess,
    PackRetrievalInputs,
    RandomCrop,
    RandomRotate,
)
from galr_mm.datasets.transforms.geometric import rotate_boxes
from galr_mm.structures import Detections


def image(boxes, shape=(120, 160)):
    """A black image whose boxes are painted, each in its own color."""
    img = np.zeros((*shape, 3), np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        img[y1:y2, x1:x2] = 80 * (number + 1)
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return dict(
        img=img,
        img_shape=shape,
        gt_bboxes=boxes,
        gt_bboxes_labels=np.arange(len(boxes)),
        proposal_scores=np.linspace(1, 0.5, len(boxes), dtype=np.float32),
    )


def painted(img, number):
    """Box of what is painted in the color of box ``number``."""
    ys, xs = np.nonzero(np.abs(img[..., 0].astype(int) - 80 * (number + 1)) < 30)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


BOXES = [(20, 30, 60, 50), (90, 60, 130, 110)]


@pytest.mark.parametrize(
    'transform',
    [
        Resize(scale=(240, 90), interpolation='nearest'),
        RandomFlip(prob=1.0, direction='horizontal'),
        RandomFlip(prob=1.0, direction='vertical'),
        RandomFlip(prob=1.0, direction='diagonal'),
        RandomRotate((90, 90)),
        RandomRotate((180, 180)),
        RandomCrop((118, 150)),
    ],
    ids=lambda t: repr(t)[:40],
)
def test_boxes_follow_the_image(transform):
    np.random.seed(0)
    result = transform(image(BOXES))
    for label, box in zip(result['gt_bboxes_labels'], result['gt_bboxes'], strict=True):
        np.testing.assert_allclose(box, painted(result['img'], label), atol=1.6)
    assert len(result['gt_bboxes']) == 2


@pytest.mark.parametrize('angle', [10, 37, 80])
def test_rotated_hull_holds_the_object(angle):
    result = RandomRotate((angle, angle))(image([(60, 50, 90, 70)]))
    box, inside = result['gt_bboxes'][0], painted(result['img'], 0)
    assert (box[:2] <= inside[:2] + 2).all()
    assert (box[2:] >= inside[2:] - 2).all()
    assert np.abs(box - inside).max() < 4


def test_rotation_by_nothing():
    boxes = np.array(BOXES, np.float32)
    np.testing.assert_allclose(rotate_boxes(boxes, 0.0, (120, 160)), boxes, atol=1e-4)


def test_objects_that_leave_are_dropped_together():
    result = image([(0, 0, 10, 10), (100, 80, 150, 115)])
    crop = RandomCrop(60)
    crop._draw_corner = lambda h, w: (60, 100)
    result = crop(result)
    assert result['gt_bboxes'].tolist() == [[0, 20, 50, 55]]
    assert result['gt_bboxes_labels'].tolist() == [1]
    assert result['proposal_scores'].tolist() == [0.5]
    assert result['img_shape'] == (60, 60)


def test_crop_pads_small_images():
    result = RandomCrop(200)(image(BOXES))
    assert result['img'].shape == (200, 200, 3)
    np.testing.assert_array_equal(result['gt_bboxes'], np.array(BOXES, np.float32))


@pytest.mark.parametrize('transform', [RandomRotate((0, 90)), RandomCrop(64), RandomFlip(prob=1.0)])
def test_images_without_boxes(transform):
    empty = transform(image([]))
    assert empty['gt_bboxes'].shape == (0, 4)
    plain = transform(dict(img=np.zeros((80, 80, 3), np.uint8), img_shape=(80, 80)))
    assert 'gt_bboxes' not in plain


def test_wrong_settings():
    with pytest.raises(ValueError, match='crop_size is 0'):
        RandomCrop(0)
    with pytest.raises(ValueError, match='angle_range'):
        RandomRotate((90, 0))


def test_load_scales_boxes_of_another_resolution(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((100, 200, 3), np.uint8))
    sample = dict(
        img_path=str(tmp_path / 'a.png'), detections=Detections([[1, 2, 3, 4]], [0.5], [7], image_size=(50, 50))
    )
    loaded = LoadImageWithProposals()(sample)
    assert loaded['gt_bboxes'].tolist() == [[4, 4, 12, 8]]
    assert (loaded['proposal_scores'].tolist(), loaded['gt_bboxes_labels'].tolist()) == ([0.5], [7])
    assert 'detections' not in loaded


@pytest.mark.parametrize('content', [b'', b'not an image'])
def test_unreadable_image_is_named(tmp_path, content):
    (tmp_path / 'bad.jpg').write_bytes(content)
    with pytest.raises(OSError, match=r'bad.jpg.*verify_dataset'):
        LoadImageWithProposals()(dict(img_path=str(tmp_path / 'bad.jpg')))


@pytest.mark.parametrize('scale', [None, (0.3, 0.8), (1.0, 1.0)])
@pytest.mark.parametrize('shape', [(480, 640), (640, 480), (300, 300)])
@pytest.mark.parametrize(('name', 'pretrained'), [('ViT-B-32', None), ('ViT-B-16-SigLIP', 'webli')])  # crop, squash
@pytest.mark.clip
def test_open_clip_moves_boxes(name, pretrained, shape, scale):
    """The painted rectangle is still in its box, after the crop at the center and after random ones."""
    torch.manual_seed(0)
    transform = OpenCLIPPreprocess(name, pretrained, scale=scale, min_visible=0.1)
    for x1, y1 in ((130, 120), (200, 160), (20, 30)):
        result = transform(image([(x1, y1, x1 + 60, y1 + 40)], shape))
        assert result['img'].shape == (224, 224, 3)
        assert result['img_shape'] == (224, 224)
        if len(result['gt_bboxes']):
            np.testing.assert_allclose(result['gt_bboxes'][0], painted(result['img'], 0), atol=2)
        else:
            assert result['img'].max() < 40
    if scale is not None:
        windows = {transform(image([(0, 0, 60, 40)], shape))['img'].tobytes() for _ in range(4)}
        assert len(windows) > 1 or scale == (1.0, 1.0)


@pytest.mark.parametrize('name', ['a.jpg', 'b.png'])
@pytest.mark.clip
def test_open_clip_loads(tmp_path, name):
    """Files as PIL reads them, 16-bit and arrays as LoadImageWithProposals does, boxes fitted, unreadable named."""
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 255, (8, 8, 3)), np.ones((40, 40, 1))).astype(np.uint8)
    cv2.imwrite(str(tmp_path / name), pixels)
    transform = OpenCLIPPreprocess('ViT-B-32')
    found = Detections([[40, 40, 80, 80]], [0.5], [0], image_size=(160, 160))
    result = transform(dict(img_path=str(tmp_path / name), detections=found))
    np.testing.assert_allclose(result['gt_bboxes'], [[56, 56, 112, 112]], atol=1e-3)
    array = transform(dict(img=cv2.imread(str(tmp_path / name))))
    assert np.abs(array['img'].astype(int) - result['img']).max() <= 2
    cv2.imwrite(str(tmp_path / '16bit.png'), pixels[..., 0].astype(np.uint16) * 256)
    assert abs(int(transform(dict(img_path=str(tmp_path / '16bit.png')))['img'].max()) - pixels[..., 0].max()) <= 5
    (tmp_path / 'bad.jpg').write_bytes(b'not an image')
    with pytest.raises(OSError, match='bad.jpg'):
        transform(dict(img_path=str(tmp_path / 'bad.jpg')))
    with pytest.raises(ValueError, match='scale is'):
        OpenCLIPPreprocess('ViT-B-32', scale=(0.5, 1.5))


def test_pack():
    sample = image(BOXES) | dict(text='two planes', text_id=3, caption_id=2, image_id=1, img_path='a.jpg')
    packed = PackRetrievalInputs()(sample)
    assert packed['inputs'].shape == (3, 120, 160)
    assert packed['inputs'].dtype == torch.uint8
    data = packed['data_samples']
    assert (data.text, data.image_id, data.img_shape) == ('two planes', 1, (120, 160))
    assert data.proposals.bboxes.shape == (2, 4)
    assert data.proposals.labels.tolist() == [0, 1]


def test_pack_takes_what_is_there():
    assert 'inputs' not in PackRetrievalInputs()(dict(text='a query'))
    gallery = PackRetrievalInputs()(dict(img=np.zeros((4, 4, 3), np.uint8)))
    assert 'text' not in gallery['data_samples']
    assert 'proposals' not in gallery['data_samples']
