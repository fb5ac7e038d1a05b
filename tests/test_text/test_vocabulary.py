import json

import pytest

from galr_mm.text import Vocabulary
from tests.helpers import run_tool


def test_round_trip(tmp_path):
    vocabulary = Vocabulary.from_captions(['a plane', 'A ship .', 'a a'], min_count=2)
    assert vocabulary.words == ['<pad>', '<unk>', 'a']
    vocabulary.save(tmp_path / 'v.json')
    again = Vocabulary.load(tmp_path / 'v.json')
    assert again.fingerprint == vocabulary.fingerprint
    assert again.encode('a Plane!') == [2, 1]
    assert again.encode('') == again.encode('...') == [1]


def test_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match='build_vocabulary.py'):
        Vocabulary.load(tmp_path / 'v.json')


@pytest.mark.parametrize('content', ['[]', '{"words": ["a"]}', '{"words": ["<pad>", "<unk>", "a", "a"]}', 'x'])
def test_malformed(tmp_path, content):
    (tmp_path / 'v.json').write_text(content)
    with pytest.raises(ValueError, match='v.json is not a vocabulary'):
        Vocabulary.load(tmp_path / 'v.json')


def test_tool_reports_unknown_words(mini, tmp_path):
    content = json.loads((mini / 'dataset_mini.json').read_text())
    for record in content['images']:
        if record['split'] == 'test':
            record['sentences'][0]['raw'] = 'a zeppelin'
    (tmp_path / 'captions.json').write_text(json.dumps(content))
    done = run_tool('tools/dataset_converters/build_vocabulary.py', tmp_path / 'captions.json')
    line = next(line for line in done.stdout.splitlines() if line.startswith('test: '))
    assert line.split(' times: ')[1].startswith('zeppelin')  # the most frequent unknown word comes first
    assert 'plane' in ' '.join(Vocabulary.load(tmp_path / 'vocabulary.json').words)
