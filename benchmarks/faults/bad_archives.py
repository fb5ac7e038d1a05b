"""Indexes, tables and command lines of ``archive`` that are not what they should be."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.faults.making import Case, Maker
from benchmarks.faults.scenarios import Scenarios

TABLE = 'path,datetime,platform,gsd,west,south,east,north\n'


class BadArchives(Maker):
    """At each sub-command of ``archive``, files and words that nothing can be made of.

    Raises:
        RuntimeError: when an index of good files cannot be made.
    """

    def __init__(self, scenarios: Scenarios, folder: Path) -> None:
        super().__init__(scenarios, folder)
        self.images, self.index = self.place.data / 'images', folder / 'index'
        self.model: list[object] = ['--model', self.place.config, '--checkpoint', self.checkpoint]
        self.update: list[object] = ['index', self.images, '--index', self.index, *self.model]
        done = self.place.run('archive', *self.update)
        if done.code:
            raise RuntimeError(f'an index failed undisturbed:\n{done.text[-3000:]}')
        self.image = next(iter(sorted(self.images.iterdir())))

    def __iter__(self) -> Iterator[Case]:
        yield from self.indexes()
        yield from self.files()
        yield from self.options()
        yield from self.outputs()

    def searched(self, index: Path) -> list[object]:
        """A search that is right but for the index."""
        return ['search', index, 'a ship', *self.model]

    def right(self) -> dict[str, list[object]]:
        """A command line of each sub-command that is right."""
        scene = ['locate', self.image, 'a ship', '--out', self.out / 'map.png', *self.model]
        bank = ['bank', self.index, self.captions, *self.model]
        return dict(
            index=self.update, search=self.searched(self.index), check=['check', self.index], info=['info', self.index],
            export=['export', self.index, '--out', self.out / 'all.csv'], compact=['compact', self.index],
            fill=['fill', self.index, self.out / 'engine.db'], serve=['serve', self.index, '--port', 0, *self.model],
            locate=scene, bank=bank,
        )  # fmt: skip

    def indexes(self) -> Iterator[Case]:
        """Indexes that are not there, are something else, or are damaged; each command names them."""
        empty = self.folder / 'no_index'
        empty.mkdir(exist_ok=True)
        for tool, words in self.right().items():
            if tool in ('index', 'locate'):
                continue
            for kind, index in (('missing file', self.folder / 'nowhere'), ('folder of nothing', empty)):
                changed = [index if word == self.index else word for word in words]
                yield Case(kind, 'archive', changed, (index.name,))
        catalog = self.index / 'catalog.sqlite'
        for kind, path in self.broken('catalog.sqlite', catalog):
            if not path.is_file():
                continue
            damaged = shutil.copytree(self.index, self.folder / f'index_{kind.replace(" ", "_")}', dirs_exist_ok=True)
            for name in ('catalog.sqlite-wal', 'catalog.sqlite-shm'):
                (damaged / name).unlink(missing_ok=True)
            shutil.copy(path, damaged / 'catalog.sqlite')
            for words in (self.searched(damaged), ['check', damaged], ['info', damaged], [*self.update, damaged]):
                if words[0] == 'index':
                    words[words.index('--index') + 1] = words.pop()
                yield Case(f'{kind} for a catalogue', 'archive', words, (damaged.name,))
        for kind, length in (('empty', 0), ('truncated', 100)):
            damaged = shutil.copytree(self.index, self.folder / f'vectors_{kind}', dirs_exist_ok=True)
            shard = next((damaged / 'vectors').iterdir())
            shard.write_bytes(shard.read_bytes()[:length])
            for words in (self.searched(damaged), ['check', damaged]):
                yield Case(f'{kind} vectors', 'archive', words, (shard.name, damaged.name))

    def files(self) -> Iterator[Case]:
        """Tables, captions, banks, scenes, queries and weights."""
        good = self.right()
        table = self.write('table.csv', f'{TABLE}{self.image.name},2021-06-01,GF-2,0.8,1,2,3,4\n'.encode())
        for kind, path in self.broken('table.csv', table):
            yield Case(kind, 'archive', [*self.update, '--metadata', path], (path.name,))
        rows = {
            'no path': b'name,gsd\na.jpg,1\n', 'a date that is none': f'{TABLE}a.jpg,yesterday,,,,,,\n'.encode(),
            'a number that is none': f'{TABLE}a.jpg,,,fine,,,,\n'.encode(), 'half a place': b'path,west\na.jpg,3\n',
            'a place beyond the Earth': f'{TABLE}a.jpg,,,,1,2,3,400\n'.encode(),
            'a row twice': f'{TABLE}a.jpg,,,1,,,,\na.jpg,,,2,,,,\n'.encode(), 'a column twice': b'path,a,a\nx,1,2\n',
        }  # fmt: skip
        for kind, content in rows.items():
            path = self.write(f'{kind.replace(" ", "_")}.csv', content)
            yield Case(f'table with {kind}', 'archive', [*self.update, '--metadata', path], (path.name,))
        for kind, path in self.broken_json('bank_captions.json', self.captions):
            yield Case(kind, 'archive', ['bank', self.index, path, *self.model], (path.name,))
        for kind, path in self.broken('bank.npz', self.place.scores):
            yield Case(kind, 'archive', [*good['search'], '--rerank', 'mr', '--bank', path], (path.name,))
        for kind, path in self.broken('scene.png', self.image):
            yield Case(kind, 'archive', [path if word == self.image else word for word in good['locate']], (path.name,))
            yield Case(kind, 'archive', ['search', self.index, '--image', path, *self.model], (path.name,))
        for kind, path in self.broken('weights.pth', self.checkpoint):
            words = [path if word == self.checkpoint else word for word in good['search']]
            yield Case(kind, 'archive', words, (path.name,))
        nowhere = self.folder / 'no_images'
        nowhere.mkdir(exist_ok=True)
        for kind, path in (('missing file', self.folder / 'nowhere'), ('folder of nothing', nowhere)):
            words = ['index', path, '--index', self.folder / 'new', *self.model]
            yield Case(kind, 'archive', words, (path.name,))

    def options(self) -> Iterator[Case]:
        """Words that make no sense."""
        good = self.right()
        for tool, words in good.items():
            yield Case('unknown option', 'archive', [*words, '--nothing', 3], ('--nothing',))
            yield Case('too few words', 'archive', [tool], ('required',))
        yield Case('unknown command', 'archive', ['find'], ('find',))
        yield Case('too few words', 'archive', [], ('required',))
        yield Case('nothing to search for', 'archive', ['search', self.index, *self.model], ('search for',))
        yield Case('an empty sentence', 'archive', ['search', self.index, '', *self.model], ("''", 'empty'))
        yield Case('no bank', 'archive', [*good['search'], '--rerank', 'mr'], ('bank',))
        values: dict[str, dict[str, list[object]]] = {
            'index': {
                '--tile': [0, -1, 'x'], '--overlap': [-1, 'x'], '--min-valid': [2, -1, 'x'], '--batch-size': [0, 'x'],
                '--bands': ['x', '0,1,2', '1,2'], '--scale': ['x', '3', '5,5'], '--name-pattern': ['(', 'abc'],
                '--model': ['nothing'], '--device': ['nothing'],
            },
            'search': {
                '--topk': [0, -1, 'x'], '--min-score': ['x', 'nan'], '--merge': ['x'], '--rerank': ['x'],
                '--date': ['yesterday', '2021-13-01/', '2022/2021'], '--gsd': ['x', 'a/b', '3/1'],
                '--where': ['nothing'], '--engine': ['http://127.0.0.1:1', self.folder / 'nowhere.db'],
                '--model': ['nothing'], '--device': ['nothing'],
            },
            'check': {'--queries': [0, 'x'], '--engine': ['http://127.0.0.1:1']},
            'locate': {'--scales': [0, 'x'], '--median': [2, -1], '--model': ['nothing']},
            'bank': {'--split': ['dev'], '--max': [0, 'x'], '--img-root': ['/none']},
            'fill': {},
            'serve': {'--port': [-1, 99999, 'x'], '--host': ['256.1.1.1']},
        }  # fmt: skip
        for tool, by_option in values.items():
            for option, wrong in by_option.items():
                for value in wrong:
                    yield self.wrong_value('archive', good[tool], option, value)
        for box in (['1', '2', '3'], ['a', 'b', 'c', 'd'], ['0', '50', '1', '40'], ['0', '0', '1', '95']):
            yield Case('wrong value of an option', 'archive', [*good['search'], '--bbox', *box], ('bbox',))
        engine = ['fill', self.index, 'ftp://nowhere']
        yield Case('wrong value of an option', 'archive', engine, ('ftp://nowhere',))

    def outputs(self) -> Iterator[Case]:
        """Places where nothing can be written."""
        good, file = self.right(), self.write('a_file', b'')
        for tool in ('search', 'export'):
            words = [word for word in good[tool] if word not in ('--out', self.out / 'all.csv')]
            for name in ('x.txt', 'x'):
                yield Case('file of an unknown kind', 'archive', [*words, '--out', self.out / name], (name,))
            yield Case('output inside a file', 'archive', [*words, '--out', file / 'x.csv'], (str(file),))
        words = [word for word in good['locate'] if word not in ('--out', self.out / 'map.png')]
        yield Case('file of an unknown kind', 'archive', [*words, '--out', self.out / 'x.txt'], ('x.txt',))
        yield Case('output inside a file', 'archive', [*words, '--out', file / 'x.png'], (str(file),))
        words = ['index', self.images, '--index', file / 'index', *self.model]
        yield Case('output inside a file', 'archive', words, (str(file),))
        yield Case('file for a folder', 'archive', [*self.update[:3], file, *self.model], (str(file),))
