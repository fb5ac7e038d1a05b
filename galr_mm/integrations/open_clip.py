"""OpenCLIP: everything here that knows open_clip's own names and classes.

Models come by name: architecture, weights, tokenizer and preprocessing. A name is one of ``open_clip.list_models()``,
the path of a model's own JSON file (``my/clip.json``), ``local-dir:<folder>`` or
``hf-hub:<organization>/<repository>``.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.logging import print_log
from torch import Tensor

from galr_mm.integrations.hf_offline import fail_fast_offline
from galr_mm.integrations.installation import OptionalModule
from galr_mm.messages import reason
from galr_mm.utils.io import instead_of, read_json

if TYPE_CHECKING:
    from typing import TypeAlias

    import open_clip
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    OpenCLIPModel: TypeAlias = open_clip.CLIP | open_clip.CustomTextCLIP | open_clip.CoCa
    ImageTower: TypeAlias = VisionTransformer | ModifiedResNet | TimmModel
else:
    open_clip = OptionalModule('open_clip', extra='clip')


def brings_weights(model_name: str) -> bool:
    """Whether a name stands for a folder or a repository, which hold weights; all others ask for ``pretrained``."""
    return str(model_name).startswith(('local-dir:', 'hf-hub:'))


def load_clip(model_name: str, pretrained: str | None = None) -> OpenCLIPModel:
    """Build an open_clip model, with weights or, for ``pretrained=None`` and a plain name, random ones.

    Args:
        model_name: see the top of this module. The two with a colon bring their own weights.
        pretrained: a tag of ``open_clip.list_pretrained()`` or a file in OpenCLIP's form, such as those of RemoteCLIP
            and GeoRSCLIP.

    Raises:
        ImportError: when open_clip is not installed.
        FileNotFoundError: when a file or a model of the hub is not available; says what was tried.
        ValueError: when the name or the tag is unknown or the weights do not fit.
    """
    name, pretrained = _resolve(model_name), None if pretrained is None else str(pretrained)
    _check_pretrained(name, pretrained)
    try:
        with fail_fast_offline():
            model = open_clip.create_model(name, pretrained=pretrained, require_pretrained=brings_weights(name))
    except Exception as error:  # whatever a broken file makes torch, safetensors or pickle raise
        raise _explained(error, name, pretrained) from error
    if pretrained is None and not brings_weights(name):
        print_log(f'{model_name}: random weights (no pretrained=...)', 'current')
    return model


def load_tokenizer(model_name: str) -> Callable[[Sequence[str]], Tensor]:
    """The model's tokenizer: list of T captions -> int64 (T, context length).

    Raises:
        FileNotFoundError: when it is a tokenizer of the Hugging Face hub that is not available.
        ValueError: when the name is unknown.
    """
    name = _resolve(model_name)
    try:
        with fail_fast_offline():
            return open_clip.get_tokenizer(name)
    except (OSError, RuntimeError, ValueError) as error:
        raise _explained(error, name, None) from error


def cut_captions(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Captions that are longer than the context of a tokenizer from :func:`load_tokenizer`."""
    room = tokenizer.context_length
    read, there = (used_tokens(tokenizer(['', *texts], context_length=size)) for size in (room, room + 2))
    return [text for text, cut in zip(texts, (there > read)[1:].tolist(), strict=True) if cut]


def used_tokens(ids: Tensor) -> Tensor:
    """How many tokens of each row (T, L) are not filling; the first row is that of an empty caption."""
    return (ids != ids[0, -1]).sum(dim=1)


def load_preprocess(model_name: str, pretrained: str | None = None) -> dict[str, Any]:
    """How the model wants its images, without building it.

    Returns:
        ``size`` (side, or height and width), ``mean`` and ``std`` (RGB, of images from 0 to 1), ``interpolation``,
        ``resize_mode``, ``fill_color``, as in open_clip's ``PreprocessCfg``.

    Raises:
        FileNotFoundError: when a folder or a model of the hub is not available.
        ValueError: when the name is unknown.
    """
    name, pretrained = _resolve(model_name), None if pretrained is None else str(pretrained)
    _check_pretrained(name, pretrained)
    merge = open_clip.transform.merge_preprocess_dict
    of_tag = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else {}
    cfg = merge(open_clip.transform.PreprocessCfg(), of_tag)
    try:
        with fail_fast_offline() if ':' in name else nullcontext():  # plain names are open_clip's own
            own = _config_of(name)
            model_cfg = own.get('model_cfg') or open_clip.get_model_config(name)
            cfg['size'] = model_cfg['vision_cfg'].get('image_size', cfg['size'])
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise _explained(error, name, pretrained) from error
    return merge(cfg, own.get('preprocess_cfg', {}))


def resize_steps(preprocess: dict[str, Any]) -> tuple[list[Any], tuple[int, int]]:
    """The steps of open_clip's ``preprocess_val`` before the tensor, PIL -> PIL, and height and width of the result.

    They are a resize, and mostly a crop or padding around the center.

    Args:
        preprocess: from :func:`load_preprocess`.
    """
    cfg = open_clip.transform.PreprocessCfg(**preprocess)
    *steps, _, _, _ = open_clip.transform.image_transform_v2(cfg, is_train=False).transforms
    return steps, tuple(cfg.input_size[1:])


def count_maps(tower: ImageTower) -> int:
    """How many maps an image tower can give: blocks of a transformer, stages of a convolutional net."""
    if isinstance(tower, open_clip.transformer.VisionTransformer):
        return len(tower.transformer.resblocks)
    if isinstance(tower, open_clip.modified_resnet.ModifiedResNet):
        return 5  # the stem and four stages
    # a model of timm; only its transformers have more blocks than entries in feature_info
    return len(tower.trunk.blocks) if hasattr(tower.trunk, 'blocks') else len(tower.trunk.feature_info)


def encode_with_maps(tower: ImageTower, images: Tensor, indices: Sequence[int]) -> tuple[list[Tensor], Tensor]:
    """Maps (B, C_i, H_i, W_i) of the blocks ``indices``, and the embedding (B, D), not normalized."""
    if not indices:
        out = tower(images)
        return [], out[0] if isinstance(out, tuple) else out  # CoCa gives tokens as well
    # a ResNet of open_clip would stop after the last block asked for, before its pooling, so all are
    whole = isinstance(tower, open_clip.modified_resnet.ModifiedResNet)
    asked = list(range(count_maps(tower)) if whole else indices)
    out = tower.forward_intermediates(images, indices=asked)
    maps = dict(zip(asked, out['image_intermediates'], strict=True))
    return [maps[i] for i in indices], out['image_features']


def lock_image_tower(tower: ImageTower, unlocked_groups: int) -> None:
    """Freeze an image tower but for its last layer groups.

    Raises:
        ValueError: when it can be locked as a whole only.
    """
    if unlocked_groups and isinstance(tower, open_clip.modified_resnet.ModifiedResNet):
        raise ValueError(
            f'unlocked_groups is {unlocked_groups}, but a {type(tower).__name__} is locked as a whole or not at all'
        )
    tower.lock(unlocked_groups=unlocked_groups, freeze_bn_stats=True)


def lock_text_tower(clip: OpenCLIPModel, unlocked_layers: int) -> None:
    """Freeze the text tower of an open_clip model but for its last layers."""
    if isinstance(clip, open_clip.CoCa):  # it has no lock_text_tower
        clip.text.lock(unlocked_layers)
    else:
        clip.lock_text_tower(unlocked_layers)


def keep_text_tower(clip: OpenCLIPModel) -> OpenCLIPModel:
    """Take off a model what has no part in encoding text: image tower, CoCa's captioning, scale (the loss has it)."""
    clip.visual = clip.text_decoder = clip.logit_scale = clip.logit_bias = None
    return clip


def _config_of(name: str) -> dict:
    """The json that stands beside the weights, of a folder or a repository; empty for a plain name."""
    if name.startswith('local-dir:'):
        return read_json(Path(name.partition(':')[2]) / 'open_clip_config.json')
    if name.startswith('hf-hub:'):
        path = open_clip.pretrained.download_pretrained_from_hf(
            name.partition(':')[2], filename='open_clip_config.json'
        )
        return read_json(path)
    return {}


def _resolve(model_name: str) -> str:
    """The name as open_clip takes it; a JSON file is made known to it."""
    model_name = str(model_name)
    if brings_weights(model_name):
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
    if not path.is_file():
        raise FileNotFoundError(f'no model file at {path}')
    content = read_json(path)
    keys = ('embed_dim', 'vision_cfg', 'text_cfg')
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(f'{path} is not a model of open_clip: {", ".join(missing)} missing')
    known = open_clip.get_model_config(path.stem)
    if known is None:
        open_clip.add_model_config(path.resolve())
    elif known != content:
        raise ValueError(f'{path}: open_clip has another model called {path.stem!r} already; rename the file')
    return path.stem


def _check_pretrained(name: str, pretrained: str | None) -> None:
    if pretrained is None:
        return
    if brings_weights(name):
        raise ValueError(f'{name} brings its own weights, so pretrained={pretrained!r} has no place; leave it out')
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained.lower() in (tag.lower() for tag in tags):
        _check_activation(name, pretrained)
    elif os.path.isfile(pretrained):
        return
    elif os.sep in pretrained or Path(pretrained).suffix:
        raise FileNotFoundError(f'no weights at {pretrained}')
    else:
        known = ', '.join(tags) or 'there are none'
        raise ValueError(f'pretrained is {pretrained!r}, expected a file or a tag of {name}: {known}')


def _check_activation(name: str, tag: str) -> None:
    """Refuse weights that were trained with the other activation, about which open_clip only warns."""
    wanted = bool(open_clip.get_pretrained_cfg(name, tag).get('quick_gelu', False))
    if wanted == bool(open_clip.get_model_config(name).get('quick_gelu', False)):
        return
    other = f'{name}-quickgelu' if wanted else name.removesuffix('-quickgelu')
    # where open_clip has no such other model, its own notes on the weights are at fault
    if other != name and other in open_clip.list_models():
        raise ValueError(
            f'the weights {tag!r} are for {"QuickGELU" if wanted else "GELU"}, and {name} has the other activation; '
            f'use model_name={other!r}'
        )


def _explained(error: Exception, name: str, pretrained: str | None) -> Exception:
    """The error to raise: what was tried, and how to get what is missing."""
    detail = reason(error)
    what = f'open_clip model {name!r}' + (f' with pretrained={pretrained!r}' if pretrained else '')
    is_file = pretrained is not None and os.path.isfile(pretrained)
    needed = _hub_repositories(name, None if is_file else pretrained)
    # beside a file only a text model may come from the hub, whose errors are OSErrors
    if needed and not (is_file and not isinstance(error, OSError)):
        return FileNotFoundError(
            f'{what} needs {" and ".join(needed)} of the Hugging Face hub, which is neither in the cache (HF_HOME) nor '
            f'can be downloaded: {detail}. On a machine with a network run `huggingface-cli download <repository>` and '
            'copy the cache; or give pretrained the path of a file, or use local-dir:<folder>'
        )
    if is_file:
        instead = instead_of(str(pretrained))
        return ValueError(f'{pretrained} does not fit {what}: {f"it is {instead}" if instead else detail}')
    hint = '. The folder holds open_clip_config.json and the weights' if brings_weights(name) else ''
    kind = FileNotFoundError if isinstance(error, OSError) else ValueError
    return kind(f'{what} cannot be built: {detail}{hint}')


def _hub_repositories(name: str, tag: str | None) -> list[str]:
    """What a model asks of the hub: its weights, and the text model or tokenizer that its architecture names."""
    if brings_weights(name):
        kind, _, repository = name.partition(':')
        return [repository] if kind == 'hf-hub' else []
    weights = open_clip.get_pretrained_cfg(name, tag) if tag else {}
    text = open_clip.get_model_config(name)['text_cfg']
    needed = [weights.get('hf_hub') or weights.get('url'), text.get('hf_model_name'), text.get('hf_tokenizer_name')]
    return [repository.rstrip('/') for repository in needed if repository]
