"""A gallery in memory: what is found is what the embeddings say."""

import mmcv
import pytest
import torch
from PIL import Image

from galr_mm.apis import RetrievalInferencer, encode_images, encode_texts, init_model

TEXTS = ['a red house', 'a blue pond', 'many trees', 'two roads']


@pytest.fixture(scope='module')
def model(mini_config):
    torch.manual_seed(0)
    return init_model(mini_config)


@pytest.fixture(scope='module')
def files(mini):
    return sorted((mini / 'images').glob('*'))[:6]


def test_images_by_sentences(model, files, tmp_path):
    find = RetrievalInferencer(model, files, batch_size=4)
    expected = encode_texts(model, TEXTS) @ encode_images(model, files).t()
    found = find(TEXTS, topk=3, show_dir=tmp_path)
    for row, matches in zip(expected, found, strict=True):
        scores, indices = row.topk(3)
        assert [match.index for match in matches] == indices.tolist()
        assert [match.item for match in matches] == [files[i] for i in indices]
        torch.testing.assert_close(torch.tensor([match.score for match in matches]), scores, atol=1e-5, rtol=0)
    page = (tmp_path / 'hits.html').read_text()
    assert page.count('<img') == 12
    assert found[0][0].item.name in page
    assert find(TEXTS[1], topk=100)[0] == find(TEXTS[1], topk=6)[0]  # clipped to the gallery
    assert find(TEXTS[1], topk=2)[0] == find(TEXTS[1], topk=5)[0][:2]


@pytest.mark.parametrize('kind', ['path', 'text', 'array', 'pil'])
def test_sentences_and_images_by_an_image(model, files, kind):
    path = files[2]
    query = dict(path=path, text=str(path), array=mmcv.imread(str(path)), pil=Image.open(path))[kind]
    describe = RetrievalInferencer(model, [*TEXTS, *files])
    ((first, *_),) = describe(query, topk=3)
    assert (first.index, first.item) == (len(TEXTS) + 2, path)
    assert first.score == pytest.approx(1, abs=1e-4)
    best = (encode_images(model, [path]) @ encode_texts(model, TEXTS).t())[0].argmax()
    assert RetrievalInferencer(model, TEXTS)(query, topk=1)[0][0].item == TEXTS[best]


def test_a_folder_and_equal_images(model, mini, files, tmp_path):
    for name in ('b.jpg', 'a.JPG'):
        (tmp_path / name).write_bytes(files[0].read_bytes())
    find = RetrievalInferencer(model, tmp_path)
    assert [path.name for path in find.gallery] == ['a.JPG', 'b.jpg']
    ((first, second),) = find('a red house')
    assert (first.index, second.index, first.score) == (0, 1, second.score)


def test_bad_input(model, files, tmp_path):
    with pytest.raises(ValueError, match='the gallery is empty'):
        RetrievalInferencer(model, [])
    with pytest.raises(ValueError, match='no images'):
        RetrievalInferencer(model, tmp_path)
    with pytest.raises(TypeError, match='query 1 is a int'):
        RetrievalInferencer(model, [files[0], 3])
    find = RetrievalInferencer(model, TEXTS)
    with pytest.raises(ValueError, match="topk is '5', expected a whole number"):
        find('a river', topk='5')
    with pytest.raises(ValueError, match='show_dir is for a gallery of image files'):
        find('a river', show_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match=r'nowhere\.jpg'):
        find('nowhere.jpg')
