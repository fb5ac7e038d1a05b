"""What encode_images and encode_texts take, of models that were built in any way."""

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from galr_mm.apis import encode_images, encode_texts, get_model, init_model
from galr_mm.integrations.open_clip import load_clip
from galr_mm.registry import MODELS
from galr_mm.text import Vocabulary
from tests.helpers import TINY_CLIP

PIPELINE = [
    dict(type='galr_mm.LoadImageWithProposals'),
    dict(type='mmengine.Resize', scale=(32, 32)),
    dict(type='galr_mm.PackRetrievalInputs'),
]
PREPROCESSOR = dict(type='mmpretrain.MultiModalDataPreprocessor', mean=[0, 0, 0], std=[255, 255, 255], to_rgb=True)
SMALL = dict(
    type='galr_mm.DualEncoder',
    backbone=dict(type='mmpretrain.ResNet', depth=18),
    visual=dict(type='galr_mm.GlobalPool', embed_dim=8),
    text_encoder=dict(type='galr_mm.BiGRUEncoder', vocabulary=Vocabulary.from_captions(['a red river']), embed_dim=8),
)


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return MODELS.build(dict(SMALL, data_preprocessor=PREPROCESSOR))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Four images, one in a sub-folder, one that its EXIF data turns."""
    folder = tmp_path_factory.mktemp('images')
    (folder / 'sub').mkdir()
    random = np.random.default_rng(0)
    for name in ('a.png', 'b.jpg', 'c.png', 'sub/d.png'):
        image = Image.fromarray(random.integers(0, 255, (20, 30, 3), dtype=np.uint8))
        exif = image.getexif()
        exif[0x0112] = 6 if name == 'b.jpg' else 1
        image.save(folder / name, exif=exif)
    return folder


def opened(path):
    with Image.open(path) as image:
        image.load()
        return image


def test_images_of_any_kind(model, folder):
    paths = sorted(folder.rglob('*.*'), key=lambda path: path.relative_to(folder).as_posix())
    model.train()
    expected = encode_images(model, paths, pipeline=PIPELINE)
    assert model.training
    assert not expected.requires_grad
    torch.testing.assert_close(expected.norm(dim=1), torch.ones(4))
    arrays = [mmcv.imread(str(path)) for path in paths]
    same = arrays[0]
    for images, rows in (
        (folder, slice(None)),
        (str(folder), slice(None)),
        (map(str, paths), slice(None)),
        (np.array([str(path) for path in paths]), slice(None)),
        (arrays, slice(None)),
        ([opened(path) for path in paths], slice(None)),
        ([paths[0], arrays[1], opened(paths[2])], slice(3)),
        (paths[1], slice(1, 2)),
        (str(paths[1]), slice(1, 2)),
        (same, slice(1)),
        (same[None], slice(1)),
        (opened(paths[1]), slice(1, 2)),
    ):
        got = encode_images(model, images, batch_size=3, pipeline=PIPELINE)
        torch.testing.assert_close(got, expected[rows], atol=1e-5, rtol=0)


def test_the_mode_comes_back_after_an_error(model, folder, tmp_path):
    (tmp_path / 'broken.png').write_bytes(b'x')
    model.train()
    model.backbone.eval()
    with pytest.raises(OSError, match=r'broken\.png'):
        encode_images(model, tmp_path / 'broken.png', pipeline=PIPELINE)
    assert model.training
    assert not model.backbone.training


def test_progress(model, folder, capsys):
    encode_images(model, folder, batch_size=1, pipeline=PIPELINE, progress=True)
    assert '4/4' in capsys.readouterr().err
    encode_texts(model, ['a river'] * 3, progress=True)
    assert '3/3' in capsys.readouterr().err
    encode_images(model, folder, pipeline=PIPELINE)  # no terminal here
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ('images', 'error', 'message'),
    [
        ([], ValueError, 'no images'),
        ([3], TypeError, 'image 0 is 3, expected a file'),
        ([None], TypeError, 'image 0 is None'),
        ([torch.zeros(3, 4, 4)], TypeError, 'image 0 is tensor'),
        (np.zeros((4, 4), np.uint8), TypeError, 'image 0|array'),
        ([np.zeros((4, 4, 4), np.uint8)], ValueError, r'array of uint8 \(4, 4, 4\), expected BGR'),
        ([Image.new('I;16', (4, 4))], ValueError, r'image 0 is a PIL image of mode I;16'),
    ],
    ids=['none', 'number', 'None', 'tensor', 'gray', 'rgba', '16 bit'],
)
def test_other_things(model, images, error, message):
    with pytest.raises((error, ValueError), match=message) as raised:
        encode_images(model, images, pipeline=PIPELINE)
    assert len(str(raised.value)) < 2000


def test_what_a_model_without_a_config_lacks(model, folder):
    with pytest.raises(ValueError, match=r'the model has no config .*pipeline=\[dict\(type='):
        encode_images(model, folder)
    with pytest.raises(ValueError, match='no data preprocessor that makes images .*MultiModalDataPreprocessor'):
        encode_images(MODELS.build(SMALL), folder, pipeline=PIPELINE)


@pytest.mark.clip
def test_a_clip_knows_how_it_wants_its_images(folder):
    clip = MODELS.build(dict(type='galr_mm.OpenCLIPRetriever', model_name=TINY_CLIP))
    pipeline = [dict(type='galr_mm.OpenCLIPPreprocess', model_name=TINY_CLIP), PIPELINE[-1]]
    torch.testing.assert_close(encode_images(clip, folder), encode_images(clip, folder, pipeline=pipeline))


@pytest.mark.clip
def test_weights_of_a_clip_by_cfg_options(mini_config, tmp_path):
    torch.save(load_clip(TINY_CLIP).state_dict(), tmp_path / 'clip.pt')
    cfg = Config(dict(model=dict(type='galr_mm.OpenCLIPRetriever', model_name=TINY_CLIP)))
    one, two = (get_model(cfg, cfg_options={'model.pretrained': str(tmp_path / 'clip.pt')}) for _ in range(2))
    assert one.weights_from_files
    assert cfg.model.get('pretrained') is None
    torch.testing.assert_close(encode_texts(one, ['a river']), encode_texts(two, ['a river']))


def test_cfg_options(mini_config):
    model = init_model(mini_config, cfg_options={'model.fusion.mode': 'sum', 'test_dataloader.batch_size': 3})
    assert model.fusion.mode == 'sum'
    assert model.cfg.test_dataloader.batch_size == 3
    with pytest.raises(ValueError, match="cfg_options is 'x', expected a dict"):
        init_model(mini_config, cfg_options='x')


def test_texts(model):
    expected = model.eval().encode_text(['a red river', 'a river']).detach()
    model.train()
    for texts in (['a red river', 'a river'], ('a red river', 'a river'), np.array(['a red river', 'a river'])):
        torch.testing.assert_close(encode_texts(model, texts), expected)
    torch.testing.assert_close(encode_texts(model, iter(['a red river', 'a river']), batch_size=1), expected)
    assert model.training
    with pytest.raises(TypeError, match='caption 1 is nan, expected a string'):
        encode_texts(model, ['a river', float('nan')])


def test_unknown_words_are_named_once(monkeypatch):
    logged = []
    monkeypatch.setattr('galr_mm.models.text.tokenized.print_log', lambda text, *_: logged.append(text))
    model = MODELS.build(SMALL)
    encode_texts(model, ['a zeppelin over a river'])
    encode_texts(model, ['a zeppelin', 'a river'])
    encode_texts(model, ['a bridge'])
    assert ['zeppelin' in text for text in logged] == [True, False]
    assert logged[0].startswith('2 words are not in the vocabulary')
    assert 'bridge' in logged[1]


@pytest.mark.parametrize('name', ['empty', 'page', 'pointer', 'garbage', 'list'])
def test_broken_checkpoints_are_named(mini_config, tmp_path, name):
    path = tmp_path / f'{name}.pth'
    contents = dict(empty=b'', page=b'<html>', pointer=b'version https://git-lfs.github.com', garbage=b'x')
    torch.save([1], path) if name == 'list' else path.write_bytes(contents[name])
    with pytest.raises(ValueError, match=rf'{name}\.pth'):
        init_model(mini_config, path)


def test_weights_of_another_model_are_listed_in_short(mini_config, tmp_path):
    torch.save({f'layer{i}.weight': torch.zeros(1) for i in range(9999)}, tmp_path / 'a.pth')
    with pytest.raises(RuntimeError, match=r'a\.pth does not fit the model') as error:
        init_model(mini_config, tmp_path / 'a.pth')
    assert len(str(error.value)) < 2000


class Table(list):
    """What a data frame is to a loop: the names of its columns."""

    columns = ('caption',)


@pytest.mark.parametrize('given', [{'a river': 1}, Table(['caption'])], ids=['dict', 'table'])
@pytest.mark.parametrize('encode', [encode_texts, encode_images])
def test_keys_and_columns_are_not_what_is_meant(model, encode, given):
    with pytest.raises(TypeError, match='got a (dict|Table); pass its values or one column'):
        encode(model, given)


@pytest.mark.parametrize('given', [None, 5])
@pytest.mark.parametrize('encode', [encode_texts, encode_images])
def test_what_is_no_list(model, encode, given):
    with pytest.raises(TypeError, match=f'expected a list of (captions|images), got {given}'):
        encode(model, given)


@pytest.mark.parametrize('size', ['x', None, 2.5, True])
@pytest.mark.parametrize('encode', [encode_texts, encode_images])
def test_batch_sizes(model, encode, size):
    with pytest.raises(ValueError, match=f'batch_size is {size!r}, expected a whole number of 1 or more'):
        encode(model, ['a river'] if encode is encode_texts else [np.zeros((4, 4, 3), np.uint8)], batch_size=size)


@pytest.mark.parametrize('blank', ['', ' ', '!!!'])
def test_blank_captions_are_named(model, blank):
    with pytest.raises(ValueError, match=f"caption 1 is '{blank}', expected words"):
        encode_texts(model, ['a river', blank])
