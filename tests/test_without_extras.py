"""What says which extra to install, where one is really missing (make test-no-extras); nothing is faked."""

import importlib.util
import subprocess
import sys

import cv2
import numpy as np
import pytest

from galr_mm.registry import MODELS, TRANSFORMS
from tests.helpers import DETECTOR_CONFIG, ROOT, TINY_CLIP, run_tool


def lacking(module):
    """Mark a test that runs only where a module is not installed."""
    return pytest.mark.skipif(importlib.util.find_spec(module) is not None, reason=f'{module} is installed')


@lacking('open_clip')
@pytest.mark.parametrize('name', ['OpenCLIPRetriever', 'OpenCLIPBackbone', 'OpenCLIPTextEncoder'])
def test_clip_models(name):
    with pytest.raises(ImportError, match=r'open_clip is not installed.*galr_mm\[clip\]'):
        MODELS.build(dict(type=f'galr_mm.{name}', model_name=TINY_CLIP))


@lacking('open_clip')
def test_clip_preprocessing():
    with pytest.raises(ImportError, match=r'open_clip is not installed.*galr_mm\[clip\]'):
        TRANSFORMS.build(dict(type='galr_mm.OpenCLIPPreprocess', model_name='ViT-B-32'))


@lacking('transformers')
def test_text_models(tmp_path):
    with pytest.raises(ImportError, match=r'transformers is not installed.*galr_mm\[text\]'):
        MODELS.build(dict(type='galr_mm.HuggingFaceTextEncoder', name_or_path=str(tmp_path)))


@lacking('mmdet')
def test_detector_of_a_model(tmp_path):
    (tmp_path / 'a.pth').touch()
    with pytest.raises(ImportError, match=r'mmdet is not installed.*galr_mm\[detect\]'):
        MODELS.build(dict(type='galr_mm.ProposalGenerator', checkpoint=tmp_path / 'a.pth'))


@lacking('mmdet')
def test_extraction_of_proposals(mini, tmp_path):
    (tmp_path / 'a.pth').touch()
    arguments = [DETECTOR_CONFIG, tmp_path / 'a.pth', mini / 'images', '--out', tmp_path / 'p.json']
    done = run_tool('tools/extract_proposals.py', *arguments, check=False)
    assert done.returncode == 1
    assert 'galr_mm[detect]' in done.stderr
    assert 'Traceback' not in done.stderr


@lacking('tifffile')
def test_a_tiff_is_decoded_whole(tmp_path):
    from galr_mm.imagery.tiles import Window, open_image

    array = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'a.tif'), array)
    with open_image(tmp_path / 'a.tif') as opened:
        np.testing.assert_array_equal(opened.read(Window(0, 0, 30, 20)), array)


@lacking('fastapi')
def test_the_page():
    from galr_mm.serve import serve

    with pytest.raises(ImportError, match=r'fastapi is not installed.*galr_mm\[serve\]'):
        serve(None, 'index')


@lacking('mmdet')
def test_every_module_of_the_package_imports():
    files = sorted((ROOT / 'galr_mm').rglob('*.py'))
    names = [path.relative_to(ROOT).with_suffix('').as_posix().replace('/', '.') for path in files]
    code = 'import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)'
    names = [name.removesuffix('.__init__') for name in names]
    done = subprocess.run([sys.executable, '-c', code, *names], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
