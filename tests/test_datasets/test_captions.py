import json

import pytest

from galr_mm.cli.convert_captions import main
from galr_mm.datasets.captions import clean_split, draw_val, load_karpathy, number_records, read_precomp
from tests.helpers import run_tool

CONVERTER = 'tools/dataset_converters/convert_captions.py'


def write_lists(folder, split, names, captions):
    (folder / f'{split}_filename.txt').write_text('\n'.join(names) + '\n')
    (folder / f'{split}_caps.txt').write_text('\n'.join(captions) + '\n')


def record(name, split, *captions):
    return {'filename': name, 'split': split, 'sentences': [{'raw': c} for c in captions]}


def test_one_line_an_image_and_one_line_a_caption(tmp_path):
    write_lists(tmp_path, 'train', ['a.tif', 'b.tif'], ['a one', 'a two', '', 'b two'])
    write_lists(tmp_path, 'test', ['c.tif', 'c.tif', 'd.tif', 'd.tif'], ['c one', 'c two', 'd one', 'd two'])
    records = read_precomp(tmp_path)
    assert [(r['filename'], r['split'], [s['raw'] for s in r['sentences']]) for r in records] == [
        ('a.tif', 'train', ['a one', 'a two']),
        ('b.tif', 'train', ['', 'b two']),
        ('c.tif', 'test', ['c one', 'c two']),
        ('d.tif', 'test', ['d one', 'd two']),
    ]
    assert records[3]['sentids'] == [6, 7]


@pytest.mark.parametrize(
    ('names', 'captions', 'match'),
    [
        (['a', 'b'], ['1', '2', '3'], r'2 lines .* 3'),
        (['a', 'a'], ['1', '2', '3', '4'], 'more than once'),
    ],
)
def test_wrong_lengths(tmp_path, names, captions, match):
    write_lists(tmp_path, 'train', names, captions)
    with pytest.raises(ValueError, match=match) as error:
        read_precomp(tmp_path)
    assert 'train_caps.txt' in str(error.value)


def test_missing_half_of_a_pair(tmp_path):
    (tmp_path / 'train_filename.txt').write_text('a\n')
    with pytest.raises(FileNotFoundError, match='train_caps.txt'):
        read_precomp(tmp_path)


def test_list_that_was_cut(tmp_path):
    """One caption an image lost: still a multiple of the names, but not what the test list has."""
    write_lists(tmp_path, 'train', ['a', 'b'], ['1', '2', '3', '4'])
    write_lists(tmp_path, 'test', ['c'] * 3, ['1', '2', '3'])
    with pytest.raises(ValueError, match='2 in train, 3 in test'):
        read_precomp(tmp_path)


def test_encodings_and_blank_names(tmp_path):
    (tmp_path / 'train_filename.txt').write_bytes(b'\xef\xbb\xbfa.tif\r\n')
    (tmp_path / 'train_caps.txt').write_bytes('caf\u00e9\r\n'.encode())
    (found,) = read_precomp(tmp_path)
    assert (found['filename'], found['sentences'][0]['raw']) == ('a.tif', 'caf\u00e9')
    (tmp_path / 'train_caps.txt').write_bytes('caf\u00e9\n'.encode('latin-1'))
    with pytest.raises(ValueError, match='train_caps.txt is not UTF-8'):
        read_precomp(tmp_path)
    write_lists(tmp_path, 'train', ['a', '', 'c'], ['1', '2', '3'])
    with pytest.raises(ValueError, match='train_filename.txt line 2 is blank'):
        read_precomp(tmp_path)


def test_images_without_any_sentence_are_named():
    clean = clean_split([record('a', 'train', 'x'), record('b', 'train')], 'train', 'here.json')
    assert 'dropped: b' in clean.summary()


def test_blank_captions():
    records = [record('a', 'train', 'one', ' '), record('b', 'train', '', ' .'), record('c', 'test', 'x', '')]
    clean = clean_split(records, 'train', 'here.json')
    assert [r['filename'] for r in clean.records] == ['a']
    assert (clean.blank_captions, clean.dropped_images) == (3, ['b'])
    assert 'b' in clean.summary()
    assert clean_split(records, 'test', 'here.json').blank_captions == 1


def test_blank_image_in_test_is_an_error():
    with pytest.raises(ValueError, match=r'here.json: 1 test images .* c'):
        clean_split([record('c', 'test', '')], 'test', 'here.json')


def test_empty_split_is_an_error():
    with pytest.raises(ValueError, match="no image of split 'val'"):
        clean_split([record('a', 'train', 'x')], 'val', 'here.json')


def test_draw_is_seeded():
    def drawn(seed):
        records = [record(f'{i}', 'train', 'x') for i in range(50)]
        assert draw_val(records, 0.2, seed) == 10
        return [r['filename'] for r in records if r['split'] == 'val']

    assert drawn(0) == drawn(0) != drawn(1)
    with pytest.raises(ValueError, match='1.5'):
        draw_val([], 1.5, 0)
    with pytest.raises(ValueError, match='leaves train or val empty'):
        draw_val([record('a', 'train', 'x')], 0.2, 0)


@pytest.mark.parametrize(
    ('content', 'match'),
    [
        ('not json', 'not a Karpathy-style json'),
        ('{}', "'images'"),
        ('{"images": null}', 'NoneType'),
        ('{"images": [{"filename": 5, "split": "train", "sentences": []}]}', 'filename 5'),
        ('{"images": [{"filename": "a.jpg", "split": "train"}]}', "no 'sentences'"),
        ('{"images": [{"filename": "a.jpg", "split": "dev", "sentences": []}]}', "'dev'"),
        ('{"images": [{"filename": "a.jpg", "split": "val", "sentences": ["x"]}]}', 'raw'),
        (
            r'{"images": [{"filename": "a.jpg", "split": "val", "sentences": [{"raw": "\ud800"}]}]}',
            'a.jpg.* half a character',
        ),
    ],
)
def test_malformed_json(tmp_path, content, match):
    path = tmp_path / 'captions.json'
    path.write_text(content)
    with pytest.raises(ValueError, match=match) as error:
        load_karpathy(path)
    assert str(path) in str(error.value)


def test_converter_corrects_file_types_and_draws_val(tmp_path):
    (tmp_path / 'images').mkdir()
    names = [f'{i}.tif' for i in range(10)]
    for name in [*names, 't.tif']:
        (tmp_path / 'images' / name.replace('.tif', '.jpg')).touch()
    write_lists(tmp_path, 'train', names, [*['plane'] * 9, ''])
    write_lists(tmp_path, 'test', ['t.tif'], ['ship'])
    out = tmp_path / 'dataset_x.json'
    done = run_tool(CONVERTER, tmp_path, '--images', tmp_path / 'images', '--out', out)
    assert '1 images without any caption dropped: 9.tif' in done.stdout
    content = json.loads(out.read_text())
    assert content['val'] == {'drawn_from': 'train', 'fraction': 0.2, 'seed': 0}
    splits = [r['split'] for r in content['images']]
    assert (splits.count('train'), splits.count('val'), splits.count('test')) == (7, 2, 1)
    assert all(r['filename'].endswith('.jpg') for r in content['images'])
    assert json.loads((tmp_path / 'vocabulary.json').read_text())['words'] == ['<pad>', '<unk>', 'plane']

    with pytest.raises(SystemExit, match='--overwrite'):
        main([str(tmp_path), '--out', str(out)])
    with pytest.raises(SystemExit, match='expected a new json'):
        main([str(out), '--out', str(out), '--overwrite'])
    (tmp_path / 'images/3.jpg').unlink()
    other = tmp_path / 'other/y.json'
    with pytest.raises(SystemExit, match=r'3\.tif'):
        main([str(tmp_path), '--images', str(tmp_path / 'images'), '--out', str(other)])
    assert not other.exists()


def test_released_rsitmd_lists(real_data, tmp_path):
    source = real_data('rsitmd/rsitmd_precomp/train_caps.txt').parent
    done = run_tool(CONVERTER, source, '--out', tmp_path / 'dataset_rsitmd.json')
    assert '20 blank captions dropped; 4 images without any caption dropped' in done.stdout
    images = load_karpathy(tmp_path / 'dataset_rsitmd.json')
    splits = [r['split'] for r in images]
    assert splits.count('test') == 452
    assert splits.count('train') + splits.count('val') == 4291 - 4
    assert splits.count('val') == round(0.2 * 4287)


def test_karpathy_and_lists_of_ucm_agree(real_data):
    lists = read_precomp(real_data('ucm/ucm_precomp/train_caps.txt').parent)
    published = load_karpathy(real_data('ucm/dataset_ucm.json'))
    key = {r['filename'].split('.')[0]: (r['split'], [s['raw'].strip() for s in r['sentences']]) for r in lists}
    assert len(lists) == len(published) == 2100
    for r in published:
        assert key[r['filename'].split('.')[0]] == (r['split'], [s['raw'].strip() for s in r['sentences']])


@pytest.mark.parametrize('ids', [[0, 1, 0], [4, 5, 4]])
def test_sentences_are_numbered_anew_where_their_ids_are_not_theirs(tmp_path, capsys, ids):
    records = [record('a', 'train', 'x', 'y'), record('b', 'train', 'z'), record('c', 'val', 'x')]
    for sentence, sentid in zip((s for r in records for s in r['sentences']), [*ids, 9], strict=True):
        sentence['sentid'] = sentid
    path = tmp_path / 'in.json'
    path.write_text(json.dumps(dict(images=records)))
    main([str(path), '--out', str(tmp_path / 'out.json')])
    assert 'sentences are numbered anew' in capsys.readouterr().out
    found = load_karpathy(tmp_path / 'out.json')
    assert [s['sentid'] for r in found for s in r['sentences']] == [0, 1, 2, 3]


def test_numbers_run_on():
    records = number_records([record('a', 'train', 'x', 'y'), record('b', 'train', 'z')])
    assert [s['sentid'] for r in records for s in r['sentences']] == [0, 1, 2]
    assert [r['imgid'] for r in records] == [0, 1]
