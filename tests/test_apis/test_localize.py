"""A sentence and a scene in, a map out."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from galr_mm.apis import SceneLocalizer, encode_images, encode_texts, init_model
from galr_mm.imagery import Window, multiscale_windows
from galr_mm.structures import LocalizationMap, SceneEmbeddings
from tests.color_retriever import COLORS, ColorRetriever

SCALES = (32, 48)


@pytest.fixture(scope='module')
def scene():
    """Gray ground of 150 x 110 pixels with a red square and a green one."""
    rng = np.random.default_rng(0)
    array = np.full((110, 150, 3), COLORS['gray'], np.uint8)
    array[10:58, 20:68] = COLORS['red']
    array[60:108, 90:138] = COLORS['green']
    return (array + rng.integers(0, 30, array.shape)).astype(np.uint8)


@pytest.fixture
def model():
    return ColorRetriever().eval()


def slow_map(model, scene, sentence, scales):
    """The published loops, with each window encoded alone."""
    text = encode_texts(model, [sentence])[0]
    total, count = np.zeros(scene.shape[:2]), np.zeros(scene.shape[:2])
    for left, top, right, bottom in multiscale_windows(*scene.shape[:2], scales):
        vector = encode_images(model, [scene[top:bottom, left:right]])[0]
        total[top:bottom, left:right] += float(vector @ text)
        count[top:bottom, left:right] += 1
    return total / count


def test_the_map_is_the_mean_over_windows(model, scene):
    found = SceneLocalizer(model, SCALES)(scene, 'a red field')
    assert isinstance(found, LocalizationMap)
    assert found.sentence == 'a red field'
    expected = slow_map(model, scene, 'a red field', SCALES)
    assert found.similarity.shape == (110, 150)
    assert found.similarity.dtype == np.float32
    np.testing.assert_allclose(found.similarity, expected, atol=1e-6)
    scaled = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(found.normalized(), scaled, atol=1e-5)
    blurred = cv2.medianBlur(np.uint8(255 * found.normalized()), 31)
    np.testing.assert_allclose(found.normalized(31) * 255, blurred, atol=1.001)  # a value near a step of 8 bits
    y, x = np.unravel_index(found.similarity.argmax(), found.similarity.shape)
    assert 10 <= y < 58
    assert 20 <= x < 68


def test_the_real_model(mini_config, mini):
    torch.manual_seed(0)
    model = init_model(mini_config)
    path = mini / 'images/test_0000.jpg'
    array = cv2.imread(str(path))
    found = SceneLocalizer(model, scales=[128], batch_size=3)(path, ['two ships .', 'a car .'])
    for each in found:
        expected = slow_map(model, array, each.sentence, [128])
        np.testing.assert_allclose(each.similarity, expected, atol=1e-5)
    assert np.abs(found[0].similarity - found[1].similarity).max() > 1e-3


def test_a_file_an_array_and_embeddings_give_one_map(model, scene, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), scene)
    locate = SceneLocalizer(model, SCALES, batch_size=7)
    expected = SceneLocalizer(model, SCALES)(scene, 'a green field').similarity
    np.testing.assert_allclose(locate(tmp_path / 'a.png', 'a green field').similarity, expected, atol=1e-6)
    embeddings = locate.encode(tmp_path / 'a.png')
    assert len(embeddings.vectors) == len(multiscale_windows(110, 150, SCALES))
    calls = model.calls
    np.testing.assert_allclose(locate(embeddings, 'a green field').similarity, expected, atol=1e-6)
    assert model.calls == calls
    tifffile = pytest.importorskip('tifffile', reason='the extra galr_mm[detect]')
    tifffile.imwrite(tmp_path / 'a.tif', scene[..., ::-1], tile=(32, 32))
    np.testing.assert_allclose(locate(tmp_path / 'a.tif', 'a green field').similarity, expected, atol=1e-6)


def test_windows_are_encoded_once_whatever_the_sentences(model, scene):
    sentences = ['a red field', 'a green field', 'a gray field', 'a red and green field']
    locate = SceneLocalizer(model, SCALES, batch_size=1000)
    together = locate(scene, sentences)
    assert model.calls == 1
    assert [found.sentence for found in together] == sentences
    for found in together:
        np.testing.assert_allclose(found.similarity, locate(scene, found.sentence).similarity, atol=1e-6)


def test_a_scene_smaller_than_the_windows(model, scene):
    found = SceneLocalizer(model)(scene[:20, :30], 'a gray field')
    assert found.similarity.shape == (20, 30)
    assert found.similarity.min() == found.similarity.max() > 0.9
    assert not found.normalized().any()  # one value says nothing about where
    assert not found.normalized(3).any()


def test_windows_that_leave_gaps(model):
    """An index may lack windows, such as those without data."""
    vectors = encode_texts(model, ['red', 'green'])
    windows = [Window(0, 0, 10, 10), Window(5, 0, 15, 10)]
    found = SceneLocalizer(model)(SceneEmbeddings(10, 20, windows, vectors), 'a red field')
    assert np.isnan(found.similarity[:, 15:]).all()
    assert np.isfinite(found.similarity[:, :15]).all()
    assert not found.normalized()[:, 15:].any()
    assert found.normalized().max() == 1


def test_saving(model, scene, tmp_path):
    found = SceneLocalizer(model, SCALES)(scene, 'a red field')
    found.save(tmp_path / 'new/a.npy')
    np.testing.assert_array_equal(np.load(tmp_path / 'new/a.npy'), found.similarity)
    for median in (0, 31):
        found.save(tmp_path / 'a.png', median)
        saved = cv2.imread(str(tmp_path / 'a.png'), cv2.IMREAD_UNCHANGED)
        assert saved.dtype == np.uint8
        assert saved.shape == (110, 150)
        np.testing.assert_allclose(saved / 255, found.normalized(median), atol=1 / 255)
    with pytest.raises(ValueError, match=r"a\.jpg ends in '\.jpg', expected \.png"):
        found.save(tmp_path / 'a.jpg')
    with pytest.raises(ValueError, match='median is 4'):
        found.save(tmp_path / 'b.png', median=4)
    assert {path.name for path in tmp_path.iterdir()} == {'new', 'a.png'}


def test_bad_input(model, scene, tmp_path):
    locate = SceneLocalizer(model, SCALES)
    (tmp_path / 'broken.jpg').write_bytes(b'x')
    for bad, error, match in (
        (tmp_path / 'nowhere.jpg', OSError, r'nowhere\.jpg'),
        (tmp_path / 'broken.jpg', OSError, r'broken\.jpg'),
        (Image.fromarray(scene), TypeError, 'the scene is a Image, expected a path or a BGR array'),
        (scene.astype(float), ValueError, 'array of float64'),
        (scene[..., 0], ValueError, r'uint8 \(110, 150\)'),
        (scene[:0], ValueError, '150 x 0'),
        (SceneEmbeddings(9, 9, np.array([[0, 0, 9, 9]]), torch.ones(1, 5)), ValueError, '5 dimensions, .* of 3'),
        (SceneEmbeddings(9, 9, np.array([[0, 0, 9, 9]]), torch.full((1, 3), torch.nan)), ValueError, 'not finite'),
        (SceneEmbeddings(9, 9, np.array([[0, 0, 9, 10]]), torch.ones(1, 3)), ValueError, 'window 0'),
    ):
        with pytest.raises(error, match=match):
            locate(bad, 'a red field')
    with pytest.raises(ValueError, match='each of 1 windows'):
        SceneEmbeddings(9, 9, np.array([[0, 0, 9, 9]]), torch.ones(2, 3))
    with pytest.raises(ValueError, match='no captions'):
        locate(scene, [])
    with pytest.raises(ValueError, match='batch_size is 0'):
        SceneLocalizer(model, batch_size=0)
    with pytest.raises(ValueError, match="batch_size is 'x', expected a whole number"):
        SceneLocalizer(model, batch_size='x')
    with pytest.raises(ValueError, match=r'scales are \[0\]'):
        SceneLocalizer(model, scales=[0])
