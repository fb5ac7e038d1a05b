"""The config text inside an OpenMMLab checkpoint, read as data: nothing of it is executed."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from typing import Any

from mmengine.registry import MODELS
from mmengine.utils import get_object_from_string

from galr_mm.messages import shorten

PACKAGES = ('torch', 'torchvision', 'mmcv', 'mmengine', 'mmdet', 'mmpretrain', 'galr_mm')


def read_config_text(text: str, source: object) -> dict[str, Any]:
    """The variables of a config that ``Config.pretty_text`` wrote: ``name = value`` a line.

    A value is made of literals, ``dict(key=value)``, lists, tuples, sets and ``inf`` or ``nan``. Anything else (a call,
    an import, an expression) is refused, where mmengine's ``Config.fromstring`` would run it.

    Args:
        text: what the checkpoint holds as ``meta['cfg']``.
        source: named by errors.

    Raises:
        ValueError: when the text is not made of such lines; names the first that is not.

    Example:
        >>> read_config_text("model = dict(type='RTMDet', strides=[8, 16])", 'a.pth')
        {'model': {'type': 'RTMDet', 'strides': [8, 16]}}
        >>> read_config_text("model = open('file')", 'a.pth')
        Traceback (most recent call last):
        ValueError: the config inside a.pth is not plain data: line 1, "open('file')"; give config=FILE instead
    """
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ValueError(f'the config inside {source} is not plain data: {error}; give config=FILE instead') from error
    values: dict[str, Any] = {}
    for statement in body:
        try:
            if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
                raise _NotData(statement)
            values[statement.targets[0].id] = _value(statement.value)
        except _NotData as error:
            shown = ast.unparse(error.node)
            raise ValueError(
                f'the config inside {source} is not plain data: line {error.node.lineno}, "{shown[:80]}"; '
                'give config=FILE instead'
            ) from None
    return values


def check_types(config: object, source: object) -> None:
    """Refuse what a registry would import and call for a ``type`` though it is not registered, such as ``os.system``.

    A registry takes a dotted ``type`` that it does not know for the path of any object, and building calls that.
    Allowed are names without a dot, and classes of ``PACKAGES`` and of the packages whose registry is loaded.

    Args:
        config: what will be built.
        source: named by errors.

    Raises:
        ValueError: names the type.

    Example:
        >>> check_types(dict(type='RTMDet', backbone=dict(type='mmdet.CSPNeXt')), 'a.pth')
        >>> check_types(dict(type='os.system', command='ls'), 'a.pth')
        Traceback (most recent call last):
        ValueError: the config inside a.pth has type='os.system', which is not a class of a package of models; give \
config=FILE instead
    """
    packages = {*PACKAGES, *MODELS.root.children}
    for name in _types(config):
        if isinstance(name, str) and '.' in name and not _is_class_of(name, packages):
            raise ValueError(
                f'the config inside {source} has type={shorten(name)}, which is not a class of a package of models; '
                'give config=FILE instead'
            )


def _types(config: object) -> Iterator[object]:
    if isinstance(config, dict):
        if 'type' in config:
            yield config['type']
        for value in config.values():
            yield from _types(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _types(value)


def _is_class_of(name: str, packages: set[str]) -> bool:
    """Whether a dotted name is a class of these packages, or of a scope of theirs (None: it is no path)."""
    if name.split('.')[0] not in packages:
        return False
    found = get_object_from_string(name)
    return found is None or (inspect.isclass(found) and found.__module__.split('.')[0] in packages)


class _NotData(Exception):
    def __init__(self, node: ast.stmt | ast.expr) -> None:
        super().__init__()
        self.node = node


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name(id='inf' | 'nan'):
            return float(node.id)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = _value(operand)
            if isinstance(value, (int, float)):
                return -value
        case ast.List(elts=items):
            return [_value(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_value(item) for item in items)
        case ast.Set(elts=items):
            return {_key(item) for item in items}
        case ast.Dict(keys=keys, values=items) if None not in keys:
            return {_key(key): _value(item) for key, item in zip(keys, items, strict=True) if key is not None}
        case ast.Call(func=ast.Name(id='dict'), args=[], keywords=keywords):
            if all(keyword.arg is not None for keyword in keywords):
                return {str(keyword.arg): _value(keyword.value) for keyword in keywords}
    raise _NotData(node)


def _key(node: ast.expr) -> Any:
    """A value that can be a key or the member of a set."""
    value = _value(node)
    try:
        hash(value)
    except TypeError:
        raise _NotData(node) from None
    return value
