"""Imports of the package have one direction, the one that CONTRIBUTING.md gives."""

import ast
import re

import pytest

from tests.helpers import ROOT

ORDER = re.search(r'what stands before it: (.*?)\. A new', (ROOT / 'CONTRIBUTING.md').read_text(), re.DOTALL)[1]
ROOMS = list(dict.fromkeys(re.findall(r'`(\w+)`', ORDER)))
# rooms that import less
ALONE = {
    'functional': {'messages'},
    'archive': {'messages', 'functional', 'utils', 'integrations', 'structures', 'imagery'},
}


def imports(room):
    """Rooms that the modules of a room import, with the module."""
    for path in sorted((ROOT / 'galr_mm' / room).rglob('*.py')) or [ROOT / f'galr_mm/{room}.py']:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                if name.startswith('galr_mm.'):
                    yield path.relative_to(ROOT).as_posix(), name.split('.')[1]


def test_every_room_has_its_place():
    folders = {path.parent.name for path in (ROOT / 'galr_mm').glob('*/__init__.py')}
    assert folders <= set(ROOMS)


@pytest.mark.parametrize('room', ROOMS)
def test_rooms_import_what_stands_before_them(room):
    allowed = ALONE.get(room, {'version', *ROOMS[: ROOMS.index(room)]})
    found = {f'{module} imports {other}' for module, other in imports(room) if other not in {room, *allowed}}
    assert not found
