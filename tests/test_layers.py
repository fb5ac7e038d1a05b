"""Imports of the package have one direction (CONTRIBUTING.md)."""

import ast

import pytest

from tests.helpers import ROOT

ROOMS = [
    {'registry', 'functional', 'integrations'},
    {'utils'},
    {'structures', 'text', 'imagery'},
    {'archive'},
    {'detection'},
    {'datasets'},
    {'models'},
    {'evaluation'},
    {'visualization'},
    {'engine'},
    {'apis', 'cli'},
]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
ALONE = {'functional': set(), 'archive': {'functional', 'utils', 'structures', 'imagery'}}  # rooms that import less


def imports(room):
    """Rooms that the modules of a room import when they are imported, with the module."""
    for path in sorted((ROOT / 'galr_mm' / room).rglob('*.py')) or [ROOT / f'galr_mm/{room}.py']:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                if name.startswith('galr_mm.'):
                    yield path.relative_to(ROOT).as_posix(), name.split('.')[1]


@pytest.mark.parametrize('room', ['archive', 'functional', 'imagery'])
def test_rooms_import_what_stands_before_them(room):
    for module, other in imports(room):
        assert other == room or LEVEL[other] < LEVEL[room], f'{module} imports {other}'
        assert other == room or other in ALONE.get(room, LEVEL), f'{module} imports {other}'


def test_the_guide_has_the_same_order():
    text = ' '.join((ROOT / 'CONTRIBUTING.md').read_text().split())
    order = ' -> '.join(', '.join(f'`{room}`' for room in rooms) for rooms in map(sorted, ROOMS))
    said = text.split('A package imports only what stands before it: ')[1].split('. A new')[0]
    assert [set(part.split(', ')) for part in said.split(' -> ')] == [set(p.split(', ')) for p in order.split(' -> ')]
