"""OpenCLIP models by name: architecture, weights, tokenizer and preprocessing.

A name is one of ``open_clip.list_models()``, the path of a model's own JSON file (``my/clip.json``),
``local-dir:<folder>`` or ``hf-hub:<organization>/<repository>``.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from galr_mm.integrations.hf_offline import fail_fast_offline
from galr_mm.integrations.installation import require_module


def load_clip(model_name: str, pretrained: str | None = None) -> nn.Module:
    """Build an open_clip model, with weights or, for ``pretrained=None`` and a plain name, random ones.

    Args:
        model_name: see the top of this module. The two with a colon bring their own weights.
        pretrained: a tag of ``open_clip.list_pretrained()`` or a file in OpenCLIP's form, such as those of RemoteCLIP
            and GeoRSCLIP.

    Raises:
        ImportError: when open_clip is not installed.
        FileNotFoundError: when a file or a model of the hub is not to be had; says what was tried.
        ValueError: when the name or the tag is unknown or the weights do not fit.
    """
    require_module('open_clip', 'clip')
    import open_clip

    name, pretrained = _resolve(model_name), None if pretrained is None else str(pretrained)
    _check_pretrained(name, pretrained)
    try:
        with fail_fast_offline():
            model = open_clip.create_model(name, pretrained=pretrained, require_pretrained=':' in name)
    except Exception as error:  # whatever a broken file makes torch, safetensors or pickle raise
        raise _explained(error, str(model_name), pretrained) from error
    if pretrained is None and ':' not in name:
        print_log(f'{model_name}: random weights (no pretrained=...)', 'current')
    return model


def load_tokenizer(model_name: str) -> Callable[[Sequence[str]], Tensor]:
    """The model's tokenizer: list of T captions -> int64 (T, context length).

    Raises:
        FileNotFoundError: when it is a tokenizer of the Hugging Face hub that is not to be had.
        ValueError: when the name is unknown.
    """
    require_module('open_clip', 'clip')
    import open_clip

    try:
        with fail_fast_offline():
            return open_clip.get_tokenizer(_resolve(model_name))
    except (OSError, RuntimeError, ValueError) as error:
        raise _explained(error, str(model_name), None) from error


def load_preprocess(model_name: str, pretrained: str | None = None) -> dict[str, Any]:
    """How the model wants its images, without building it.

    Returns:
        ``size`` (number, or height and width), ``mean`` and ``std`` (RGB, of images from 0 to 1), ``interpolation``,
        ``resize_mode``, ``fill_color``, as in open_clip's ``PreprocessCfg``.

    Raises:
        FileNotFoundError: when a folder or a model of the hub is not to be had.
        ValueError: when the name is unknown.
    """
    require_module('open_clip', 'clip')
    import open_clip
    from open_clip.factory import get_model_config
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    name, pretrained = _resolve(model_name), None if pretrained is None else str(pretrained)
    _check_pretrained(name, pretrained)
    cfg = merge_preprocess_dict(PreprocessCfg(), open_clip.get_pretrained_cfg(name, pretrained) if pretrained else {})
    try:
        with fail_fast_offline():
            own = _config_of(name)
            model_cfg = own.get('model_cfg') or get_model_config(name)
            cfg['size'] = model_cfg['vision_cfg'].get('image_size', cfg['size'])
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise _explained(error, str(model_name), pretrained) from error
    return merge_preprocess_dict(cfg, own.get('preprocess_cfg', {}))


def _config_of(name: str) -> dict:
    """The json that stands beside the weights, of a folder or a repository; empty for a plain name."""
    if name.startswith('local-dir:'):
        return json.loads((Path(name.partition(':')[2]) / 'open_clip_config.json').read_text(encoding='utf-8'))
    if name.startswith('hf-hub:'):
        from open_clip.pretrained import download_pretrained_from_hf

        path = download_pretrained_from_hf(name.partition(':')[2], filename='open_clip_config.json')
        return json.loads(Path(path).read_text(encoding='utf-8'))
    return {}


def _resolve(model_name: str) -> str:
    """The name as open_clip takes it; a JSON file is made known to it."""
    import open_clip

    model_name = str(model_name)
    if model_name.startswith(('hf-hub:', 'local-dir:')):
        return model_name
    if model_name.endswith('.json'):
        return _add_model_file(Path(model_name))
    name = model_name.replace('/', '-')
    known = open_clip.list_models()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        raise ValueError(
            f'open_clip has no model {model_name!r}{"; close are " + ", ".join(close) if close else ""} '
            f'({len(known)} in open_clip.list_models()). A model of your own: the path of its .json file'
        )
    return name


def _add_model_file(path: Path) -> str:
    import open_clip
    from open_clip.factory import get_model_config

    if not path.is_file():
        raise FileNotFoundError(f'no model file at {path}')
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path} is not json: {error}') from error
    missing = [key for key in ('embed_dim', 'vision_cfg', 'text_cfg') if key not in content]
    if missing:
        raise ValueError(f'{path} is no model of open_clip: {", ".join(missing)} missing')
    known = get_model_config(path.stem)
    if known is None:
        open_clip.add_model_config(path.resolve())
    elif known != content:
        raise ValueError(f'{path}: open_clip has another model called {path.stem!r} already; rename the file')
    return path.stem


def _check_pretrained(name: str, pretrained: str | None) -> None:
    import open_clip
    from open_clip.factory import get_model_config

    if pretrained is None:
        return
    if ':' in name:
        raise ValueError(f'{name} brings its own weights, so pretrained={pretrained!r} has no place; leave it out')
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained.lower() in (tag.lower() for tag in tags):
        wanted = bool(open_clip.get_pretrained_cfg(name, pretrained).get('quick_gelu', False))
        other = f'{name}-quickgelu' if wanted else name.removesuffix('-quickgelu')
        # open_clip only warns; where it has no such other model, its own notes on the weights are at fault
        if wanted != bool(get_model_config(name).get('quick_gelu', False)) and other in set(open_clip.list_models()) - {
            name
        }:
            raise ValueError(
                f'the weights {pretrained!r} are for {"QuickGELU" if wanted else "GELU"}, and {name} has the other '
                f'activation; use model_name={other!r}'
            )
        return
    if os.path.isfile(pretrained):
        return
    if os.sep in pretrained or Path(pretrained).suffix:
        raise FileNotFoundError(f'no weights at {pretrained}')
    raise ValueError(
        f'pretrained is {pretrained!r}, expected a file or a tag of {name}: {", ".join(tags) or "there are none"}'
    )


def _explained(error: Exception, model_name: str, pretrained: str | None) -> Exception:
    """The error to raise: what was tried, and how to get what is missing."""
    text = f'{type(error).__name__}: {" ".join(str(error).split())}'
    what = f'open_clip model {model_name!r}' + (f' with pretrained={pretrained!r}' if pretrained else '')
    needs = _needs(model_name, None)
    # of the hub only when it is the hub's own kind of error: a file is wrong in its own ways
    if pretrained is not None and os.path.isfile(pretrained) and not (needs and isinstance(error, OSError)):
        return ValueError(f'{pretrained} does not fit {what}{_kind_of_file(pretrained)}: {text[:500]}')
    if model_name.startswith('local-dir:'):
        kind = FileNotFoundError if isinstance(error, OSError) else ValueError
        return kind(f'{what}: {text[:500]}. The folder holds open_clip_config.json and the weights')
    needs = _needs(model_name, pretrained)
    if not needs:
        return ValueError(f'{what} cannot be built: {text[:500]}')
    from huggingface_hub import constants

    return FileNotFoundError(
        f'{what} needs {needs}, which is neither in the cache {constants.HF_HUB_CACHE} (set '
        f'HF_HOME for another) nor to be downloaded: {text[:300]}. On a machine with a network run `huggingface-cli '
        'download <repository>` and copy the cache; or give pretrained the path of a file, or use local-dir:<folder>'
    )


def _needs(model_name: str, pretrained: str | None) -> str:
    """Which repositories of the hub a model asks for; nothing where it asks for none."""
    import open_clip
    from open_clip.factory import get_model_config

    if model_name.startswith('hf-hub:'):
        return model_name.partition(':')[2]
    if model_name.startswith('local-dir:'):
        return ''
    name = _resolve(model_name)
    needs = []
    source = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else {}
    if source:
        needs.append(f'weights of {(source.get("hf_hub") or source.get("url")).rstrip("/")}')
    text = get_model_config(name)['text_cfg']
    needs += [f'{text[key]} ({key})' for key in ('hf_model_name', 'hf_tokenizer_name') if text.get(key)]
    return ' and '.join(needs)


def _kind_of_file(path: str) -> str:
    """What a file of weights is instead, where that is easy to see."""
    with open(path, 'rb') as file:
        start = file.read(64)
    if start.startswith(b'version https://git-lfs'):
        return ' (it is a pointer of git-lfs, not the weights: git lfs pull)'
    if start.lstrip()[:5].lower() in (b'<!doc', b'<html'):
        return ' (it is a web page, not the weights)'
    return '' if start else ' (it is empty)'
