"""A model, a folder of images, an index: hits are those of the embeddings, with objects, filters and re-ranking."""

import json
import shutil
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from galr_mm.apis import ArchiveIndexer, ArchiveSearcher, encode_images, encode_texts, init_model
from galr_mm.apis.archive_model import ArchiveModel, fingerprint
from galr_mm.archive import ArchiveIndex, Hit, Where, check_index, fill_engine, open_writer
from galr_mm.archive.bank import Bank, CandidateReranker
from galr_mm.cli.archive import line_of, main
from galr_mm.functional import CSLS, BankReranker, DualSoftmax, QueryBankNorm, QueryBankReranker
from galr_mm.imagery import Window
from tests.helpers import DETECTOR_CONFIG, TINY_CLIP

SENTENCES = ['an airplane on the left', 'two ships', 'a vehicle in the middle']


def tiny_clip(config):
    """A CLIP with random weights."""
    cfg = Config.fromfile(config)
    cfg.model = dict(type='galr_mm.OpenCLIPRetriever', model_name=TINY_CLIP)
    cfg.data_preprocessor = None
    steps = [dict(type='galr_mm.OpenCLIPPreprocess', model_name=TINY_CLIP), dict(type='galr_mm.PackRetrievalInputs')]
    cfg.test_dataloader.dataset.pipeline = steps
    return cfg


@pytest.fixture(scope='module')
def model(mini_config):
    """A GaLR with random weights, without a detector."""
    torch.manual_seed(0)
    return init_model(mini_config)


@pytest.fixture(scope='module')
def archive(mini, tmp_path_factory):
    """A dozen images, one of them large and one broken."""
    folder = tmp_path_factory.mktemp('archive') / 'images'
    folder.mkdir()
    files = sorted((mini / 'images').glob('*'))[:10]
    for path in files:
        shutil.copy(path, folder)
    parts = [mmcv.imread(str(path)) for path in files[:4]]
    height = min(len(part) for part in parts)
    mmcv.imwrite(np.concatenate([part[:height] for part in parts], axis=1), str(folder / 'wide.png'))
    (folder / 'broken.jpg').write_bytes(b'no image')
    return folder


@pytest.fixture(scope='module')
def index(model, archive, tmp_path_factory):
    path = tmp_path_factory.mktemp('index') / 'index'
    report = ArchiveIndexer(model, path).update(archive, show_progress=False)
    assert [name for name, _ in report.skipped] == ['broken.jpg']
    assert report.added == 11
    return path


@pytest.fixture(scope='module')
def searcher(model, index):
    return ArchiveSearcher(model, index)


def good_files(archive):
    return sorted(path for path in archive.iterdir() if path.name != 'broken.jpg')


def test_hits_are_those_of_the_embeddings(model, archive, searcher):
    files = good_files(archive)
    scores = encode_texts(model, SENTENCES) @ encode_images(model, files).t()
    found = searcher(SENTENCES, topk=4)
    for row, hits in zip(scores, found, strict=True):
        values, order = row.topk(4)
        assert [hit.path for hit in hits] == [str(files[i]) for i in order]
        np.testing.assert_allclose([hit.score for hit in hits], values, atol=1e-5)
        assert all(hit.is_whole and hit.rerank_score is None and not hit.boxes for hit in hits)
    assert len(searcher('two ships', topk=100)[0]) == 11


@pytest.mark.parametrize('kind', ['path', 'text', 'array', 'pil'])
def test_an_image_finds_itself(archive, searcher, kind):
    path = good_files(archive)[3]
    image = dict(
        path=path, text=str(path), array=mmcv.imread(str(path)), pil=Image.open(path) if kind == 'pil' else None
    )[kind]
    ((hit, *_),) = searcher(image, topk=2)
    assert hit.path == str(path)
    assert hit.score == pytest.approx(1, abs=1e-3)


def test_sentences_and_images_together(archive, searcher):
    path = good_files(archive)[2]
    mixed = searcher(['two ships', path, 'a vehicle'], topk=3)
    alone = [*searcher('two ships', topk=3), *searcher(path, topk=3), *searcher('a vehicle', topk=3)]
    assert [[hit.path for hit in hits] for hits in mixed] == [[hit.path for hit in hits] for hits in alone]


@pytest.mark.parametrize(
    ('query', 'error', 'message'),
    [
        (' ', ValueError, "query 0 is ' ', expected a sentence or an image"),
        (3, TypeError, 'query 0 is a int, expected a sentence'),
        ('nowhere.jpg', FileNotFoundError, r'no image at nowhere\.jpg'),
        (np.zeros((3, 3)), ValueError, r'array of float64 \(3, 3\)'),
    ],
    ids=['empty', 'number', 'missing', 'array'],
)
def test_queries_that_are_none(searcher, query, error, message):
    with pytest.raises(error, match=message):
        searcher(query)


def test_settings_that_make_no_sense(searcher):
    with pytest.raises(ValueError, match='topk is 0'):
        searcher('a ship', topk=0)
    with pytest.raises(ValueError, match="rerank is 'best', expected one of mr, rr, dsl, qbnorm, csls"):
        searcher('a ship', rerank='best')
    with pytest.raises(ValueError, match='unexpected keyword'):
        searcher('a ship', rerank=dict(type='mr', weight=(1, 1, 1)))
    with pytest.raises(ValueError, match='k is 0'):
        searcher('a ship', rerank=dict(type='mr', k=0))
    with pytest.raises(ValueError, match='bbox is'):
        searcher('a ship', where=dict(bbox=(1, 2)))
    for topk in (None, '5', 1.5):
        with pytest.raises(ValueError, match=f'topk is {topk!r}, expected a whole number of 1 or more'):
            searcher('a ship', topk=topk)
    for options, message in ((dict(rerank=5), 'rerank is 5, expected'), (dict(where=5), 'where is 5, expected')):
        with pytest.raises(TypeError, match=message):
            searcher('a ship', **options)
    assert searcher([]) == []


def test_filters_and_a_cut_off(model, archive, index, tmp_path):
    shutil.copytree(index, tmp_path / 'index')
    names = [path.name for path in good_files(archive)]
    rows = ''.join(f'{name},2021-06-{n + 1:02d},{n},0,{n + 1},1\n' for n, name in enumerate(names))
    (tmp_path / 'table.csv').write_text(f'path,datetime,west,south,east,north\n{rows}')
    ArchiveIndexer(model, tmp_path / 'index').update(archive, tmp_path / 'table.csv', show_progress=False)
    search = ArchiveSearcher(model, tmp_path / 'index')
    whole = search('two ships', topk=20)[0]
    some = search('two ships', topk=20, where=Where(start='2021-06-03', end='2021-06-06'))[0]
    assert [hit for hit in whole if '2021-06-03' <= hit.time[:10] <= '2021-06-06'] == some
    assert len(some) == 4
    assert [h.path.split('/')[-1] for h in search('a', where=dict(bbox=(4.5, 0, 4.6, 1)))[0]] == [names[4]]
    assert whole[0].footprint['type'] == 'Polygon'
    bound = whole[5].score
    assert search('two ships', topk=20, where=dict(min_score=bound))[0] == whole[:6]
    assert search('two ships', where=dict(min_score=1.1)) == [[]]


def test_tiles_of_large_images(model, archive, tmp_path):
    side = mmcv.imread(str(archive / 'wide.png')).shape[0]
    indexer = ArchiveIndexer(model, tmp_path / 'index', tile=side, overlap=side // 4)
    report = indexer.update(archive, show_progress=False)
    assert report.tiles > 12
    query = mmcv.imread(str(archive / 'wide.png'))[:, :side]
    hit = ArchiveSearcher(model, tmp_path / 'index')(np.ascontiguousarray(query), topk=1)[0][0]
    assert hit.score == pytest.approx(1, abs=1e-4)
    if hit.path.endswith('wide.png'):  # the first image is there as a file of its own too
        assert hit.window == (0, 0, side, side)


def test_a_sheet_of_hits(searcher, tmp_path):
    searcher(['two <ships> & "more"', 'a vehicle'], topk=3, show_dir=tmp_path)
    page = (tmp_path / 'hits.html').read_text()
    assert page.count('data:image/jpeg;base64') == 6
    assert 'two &lt;ships&gt; &amp; &quot;more&quot;' in page


# other models


def test_another_model_is_refused(mini_config, index, archive, model):
    torch.manual_seed(1)
    other = init_model(mini_config)
    with pytest.raises(ValueError, match='of another model: GaLR of small.py.*fingerprint.* this one is GaLR of small'):
        ArchiveSearcher(other, index)
    with pytest.raises(ValueError, match='of another model'):
        ArchiveIndexer(other, index).update(archive, show_progress=False)
    with pytest.raises(ValueError, match='of another model'):
        ArchiveIndexer(other, index).make_bank(['a ship'])
    with pytest.raises(ValueError, match='made with cut whole images, got 64 pixels, overlap 0'):
        ArchiveIndexer(model, index, tile=64).update(archive, show_progress=False)


def identity(model):
    return ArchiveModel(model).id.fingerprint


def test_what_the_fingerprint_depends_on(mini_config, model):
    def with_config(change):
        cfg = Config.fromfile(mini_config)
        change(cfg)
        return fingerprint(model, cfg)

    expected = identity(model)
    assert with_config(lambda cfg: None) == expected
    assert with_config(lambda cfg: cfg.model.text_encoder.update(vocabulary='/elsewhere/v.json')) == expected
    assert with_config(lambda cfg: cfg.test_dataloader.dataset.update(data_root='/elsewhere/')) == expected
    assert with_config(lambda cfg: cfg.model.loss.update(gather=True)) == expected
    assert with_config(lambda cfg: cfg.test_dataloader.dataset.pipeline[1].update(scale=(96, 96))) != expected
    assert with_config(lambda cfg: cfg.model.update(precision='amp_bf16')) != expected
    assert with_config(lambda cfg: cfg.data_preprocessor.update(to_rgb=False)) != expected
    for part in (model.local.gcn, model.text_encoder):
        weight = next(part.parameters())
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.view(-1)[0] += 1e-3
            assert identity(model) != expected
            weight.copy_(kept)
    assert identity(model) == expected


@pytest.mark.text
def test_the_fingerprint_holds_a_frozen_text_model(mini_config, minilm):
    """Its weights are in no state dict."""
    cfg = Config.fromfile(mini_config)
    cfg.model.text_encoder = dict(type='galr_mm.HuggingFaceTextEncoder', name_or_path=minilm)
    torch.manual_seed(0)
    built = init_model(cfg)
    before = identity(built)
    with torch.no_grad():
        next(built.text_encoder.model.parameters())[0, 0] += 1
    assert identity(built) != before


@pytest.mark.clip
def test_a_clip(mini_config, archive, tmp_path):
    built = init_model(tiny_clip(mini_config))
    ArchiveIndexer(built, tmp_path / 'index').update(archive, show_progress=False)
    files = good_files(archive)
    scores = (encode_texts(built, SENTENCES[:1]) @ encode_images(built, files).t())[0]
    hits = ArchiveSearcher(built, tmp_path / 'index')(SENTENCES[0], topk=11)[0]
    np.testing.assert_allclose([hit.score for hit in hits], scores.sort(descending=True).values, atol=1e-5)


@pytest.mark.detect
def test_hits_of_a_model_with_a_detector_have_boxes(mini_config, detector, archive, tmp_path):
    cfg = Config.fromfile(mini_config)
    cfg.model.local.detector = dict(
        type='galr_mm.ProposalGenerator',
        checkpoint=str(detector),
        config=str(DETECTOR_CONFIG),
        score_thr=0.3,
        max_per_image=5,
    )
    torch.manual_seed(0)
    built = init_model(cfg)
    before = identity(built)
    files = [Path(shutil.copy(path, tmp_path)) for path in good_files(archive)[:3]]
    shutil.copy(archive / 'broken.jpg', tmp_path)
    report = ArchiveIndexer(built, tmp_path / 'index').update(tmp_path, batch_size=4, show_progress=False)
    assert [name for name, _ in report.skipped] == ['broken.jpg']
    hits = ArchiveSearcher(built, tmp_path / 'index')('two ships', topk=20)[0]
    assert len(hits) == 3
    expected = dict(zip(map(str, files), built.local.detector(files), strict=True))
    assert sum(len(hit.boxes) for hit in hits)
    for hit in hits:
        found = expected[hit.path]
        assert len(hit.boxes) == len(found)
        np.testing.assert_allclose([box[:4] for box in hit.boxes], found.boxes.reshape(-1, 4)[: len(found)], atol=0.02)
        assert {box.label for box in hit.boxes} <= set(built.local.detector.classes)
    cfg.model.local.detector.score_thr = 0.4
    assert fingerprint(built, cfg) != before


def test_models_without_weights(mini_config, index, monkeypatch):
    with pytest.raises(ValueError, match='no weights are published'):
        ArchiveSearcher(str(mini_config), index)
    with pytest.raises(ValueError, match='galr_mm has no model'):
        ArchiveSearcher('galr_mars', index)
    monkeypatch.setattr('galr_mm.apis.archive_model.pretrained_models', list)
    with pytest.raises(ValueError, match='no model comes with this installation'):
        ArchiveSearcher(None, index)
    with pytest.raises(FileNotFoundError, match='no archive index at .*nowhere'):
        ArchiveSearcher(None, index / 'nowhere')


# re-ranking


@pytest.mark.parametrize('method', ['mr', 'rr', 'dsl', 'qbnorm', 'csls'])
def test_candidates_alone_give_what_the_whole_gallery_gives(method):
    """Of each re-ranker on the same vectors."""
    torch.manual_seed(0)
    normalize = torch.nn.functional.normalize
    bank, gallery, queries = (normalize(torch.randn(n, 16), dim=1) for n in (60, 400, 12))
    gallery[100] = gallery[7]  # a tie
    fixed = dict(weights=(0, 0, 1), significance='off')
    corrections = dict(dsl=DualSoftmax(), qbnorm=QueryBankNorm(), csls=CSLS())
    for query in [*queries, bank[3]]:
        scores = gallery @ query
        rows = scores.sort(descending=True, stable=True).indices[:30].sort().values
        order, new = CandidateReranker(method)(bank.numpy(), query.numpy(), gallery[rows].numpy())
        if method in corrections:
            whole = BankReranker(bank, gallery, corrections[method], 400)(query)
            kept = torch.isin(whole.indices, rows)
            expected, values = whole.indices[kept], whole.scores[kept]
        else:
            reranker = QueryBankReranker(bank, gallery, k=30, **(fixed if method == 'rr' else {}))
            expected, values = reranker(query)
        assert rows[order].tolist() == expected.tolist()
        np.testing.assert_allclose(new, values, atol=1e-5)


@pytest.mark.parametrize('method', ['mr', 'rr', 'dsl', 'qbnorm', 'csls'])
@pytest.mark.parametrize('dim', [16, 257])
def test_equal_vectors_come_by_their_row(method, dim):
    """Products of equal vectors may differ in the last bit, by where they stand."""
    rng = np.random.default_rng(0)
    bank, gallery = (rng.standard_normal((n, dim)).astype(np.float32) for n in (61, 7))
    rows = np.concatenate([np.arange(7), np.zeros(12, int), np.full(11, 3)])
    rng.shuffle(rows)
    vectors = gallery[rows] / np.linalg.norm(gallery[rows], axis=1, keepdims=True)
    for query in bank[:5]:
        order, scores = CandidateReranker(method)(bank, query, vectors)
        assert (np.diff(scores) <= 0).all()
        for number in (0, 3):
            assert (np.diff(order[rows[order] == number]) > 0).all()
            if method in ('dsl', 'qbnorm', 'csls'):
                assert len(set(scores[rows[order] == number])) == 1


def test_search_with_mr(model, archive, index, tmp_path):
    shutil.copytree(index, tmp_path / 'index')
    indexer = ArchiveIndexer(model, tmp_path / 'index')
    files = good_files(archive)
    search = ArchiveSearcher(model, tmp_path / 'index')
    with pytest.raises(
        FileNotFoundError, match=r'no query bank at .*bank\.npz; .*archive\.py bank INDEX CAPTIONS\.json'
    ):
        search('a ship', rerank='mr')
    captions = ['a ship', 'three ships', 'an airplane', 'a red vehicle', 'storage tanks', 'a ship on the left']
    indexer.make_bank(captions)
    bank, gallery = encode_texts(model, captions), encode_images(model, files)
    for sentence in SENTENCES:
        query = encode_texts(model, [sentence])[0]
        expected = QueryBankReranker(bank, gallery, k=8)(query)
        (hits,) = search(sentence, topk=8, rerank=dict(type='mr', k=8))
        assert [hit.path for hit in hits] == [str(files[i]) for i in expected.indices]
        np.testing.assert_allclose([hit.rerank_score for hit in hits], expected.scores, atol=1e-4)
        (raw,) = search(sentence, topk=11)
        (more,) = search(sentence, topk=11, rerank=dict(type='mr', k=8))
        assert more[:8] == hits
        assert more[8:] == raw[8:]
        assert search(sentence, topk=3, rerank=dict(type='mr', k=8))[0] == hits[:3]
    with pytest.raises(ValueError, match='holds no images to re-rank by'):
        search(files[0], rerank='mr')
    indexer.make_bank(captions, files[:5])
    search = ArchiveSearcher(model, tmp_path / 'index')
    assert search(files[0], rerank='qbnorm')[0][0].rerank_score is not None
    Bank(bank.numpy(), bank.numpy()[:0]).save(tmp_path / 'other.npz', 'b' * 64)
    with pytest.raises(ValueError, match='query bank of another model'):
        ArchiveSearcher(model, tmp_path / 'index', bank=tmp_path / 'other.npz')('a', rerank='mr')
    Bank(bank.numpy()[:, :3], bank.numpy()[:0, :3]).save(tmp_path / 'narrow.npz', indexer.model.id.fingerprint)
    with pytest.raises(ValueError, match=r'narrow\.npz is not a query bank of this model: text is float32 \(\d+, 3\)'):
        ArchiveSearcher(model, tmp_path / 'index', bank=tmp_path / 'narrow.npz')('a', rerank='mr')
    (tmp_path / 'text.npz').write_text('no bank')
    with pytest.raises(ValueError, match=r'text\.npz is not a query bank'):
        ArchiveSearcher(model, tmp_path / 'index', bank=tmp_path / 'text.npz')('a', rerank='mr')


@pytest.mark.milvus
@pytest.mark.parametrize('method', ['mr', 'csls'])
def test_search_through_an_engine(model, archive, index, tmp_path, method):
    """Sentences and images, re-ranking, filters: as without one."""
    shutil.copytree(index, tmp_path / 'index')
    indexer, address = ArchiveIndexer(model, tmp_path / 'index'), str(tmp_path / 'engine.db')
    indexer.make_bank(['a ship', 'three ships', 'an airplane', 'a red vehicle', 'storage tanks', 'two cars'])
    with pytest.raises(OSError, match='no engine at'):
        ArchiveSearcher(model, tmp_path / 'index', engine=address)
    with open_writer(tmp_path / 'index') as writer:
        fill_engine(writer, address)
    plain, search = (ArchiveSearcher(model, tmp_path / 'index', engine=engine) for engine in (None, address))
    image = good_files(archive)[2]
    assert search([*SENTENCES, image], topk=4) == plain([*SENTENCES, image], topk=4)
    options = dict(topk=9, rerank=dict(type=method, k=6), where=dict(min_score=-0.5))
    assert search(SENTENCES, **options) == plain(SENTENCES, **options)
    shutil.copy(image, tmp_path / 'one.png')
    indexer.update(tmp_path, show_progress=False)
    with pytest.raises(OSError, match='does not hold the present state'):
        search('two ships')
    search.engine.close()
    careful = ArchiveSearcher(model, tmp_path / 'index', engine=address, or_exact=True)
    assert careful('two ships') == plain('two ships')
    careful.engine.close()


# the command line


@pytest.fixture(scope='module')
def cli(mini_config, model, archive, tmp_path_factory):
    """Flags of the model, and an index that the command made."""
    folder = tmp_path_factory.mktemp('cli')
    torch.save({'state_dict': model.state_dict()}, folder / 'weights.pth')
    flags = ['--model', str(mini_config), '--checkpoint', str(folder / 'weights.pth')]
    main(['index', str(archive), '--index', str(folder / 'index'), *flags])
    return folder, flags


def test_the_command_line(cli, archive, capsys, searcher):
    folder, flags = cli
    index, outputs = str(folder / 'index'), [folder / f'hits.{kind}' for kind in ('geojson', 'csv', 'html')]
    main(['index', str(archive), '--index', index, *flags])
    said = capsys.readouterr().out
    assert '11 kept, 0 added; 0 tiles encoded, 1 skipped' in said
    assert "skipped 'broken.jpg'" in said
    main(['search', index, 'two ships', 'a vehicle', *flags, '--topk', '4', '--out', *map(str, outputs)])
    said = capsys.readouterr().out
    expected = searcher(['two ships', 'a vehicle'], topk=4)
    lines = [line.split() for line in said.splitlines() if line.startswith('   ')]
    assert [line[2] for line in lines] == [hit.path for hits in expected for hit in hits]
    features = json.loads(outputs[0].read_text())['features']
    assert [feature['properties']['path'] for feature in features] == [line[2] for line in lines]
    assert len(outputs[1].read_text().splitlines()) == 9
    main(['search', index, '--image', str(good_files(archive)[1]), *flags, '--topk', '1'])
    assert good_files(archive)[1].name in capsys.readouterr().out.splitlines()[1]
    main(['search', index, *flags, '--topk', '1', 'two ships', 'a vehicle'])
    assert capsys.readouterr().out.count(': 1 hits') == 2
    main(['search', index, 'two ships', *flags, '--min-score', '1'])
    assert 'two ships: nothing was found' in capsys.readouterr().out
    main(['check', index])
    assert '11 tiles, 11 searches compared, recall 1.0000' in capsys.readouterr().out
    main(['info', index, '--skipped'])
    said = capsys.readouterr().out
    assert 'files        11 searched, 1 unreadable, 0 gone' in said
    assert "unreadable 'broken.jpg'" in said
    main(['export', index, '--out', str(folder / 'all.csv')])
    assert '11 tiles written' in capsys.readouterr().out
    main(['compact', index])
    assert '0 vectors dropped' in capsys.readouterr().out


def test_the_command_line_makes_a_bank(cli, mini, capsys):
    folder, flags = cli
    index, captions = str(folder / 'index'), str(mini / 'dataset_mini.json')
    main(['bank', index, captions, *flags, '--max', '9', '--img-root', str(mini / 'images')])
    assert '9 captions, 9 images' in capsys.readouterr().out
    main(['search', index, 'two ships', *flags, '--rerank', 'mr', '--topk', '3'])
    assert 'two ships: 3 hits' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('command', 'message'),
    [
        ('index nowhere --index INDEX', 'no archive folder at nowhere'),
        ('index ARCHIVE --index ARCHIVE', 'not an archive index and not empty'),
        ('index ARCHIVE --index INDEX --tile 5 --overlap 5', 'overlap is 5 and tile 5'),
        ('index ARCHIVE --index INDEX --batch-size 0', 'batch_size is 0'),
        ('index ARCHIVE --index INDEX --metadata nowhere.csv', 'no metadata table at nowhere.csv'),
        ('search INDEX', 'nothing to search for'),
        ('search INDEX --platform GF-2 ship', 'nothing to search for; give a sentence, before options'),
        ('search nowhere ship', 'no archive index at nowhere'),
        (
            'search INDEX ship --out hits.txt',
            '--out is hits.txt, expected a file name that ends in .geojson, .csv, .html',
        ),
        ('search INDEX ship --bbox 0 0 999 1', 'bbox is'),
        ('search INDEX ship --date 2021-06-01', "--date is '2021-06-01', not A/B"),
        ('search INDEX ship --where season', "--where: 'season' is not KEY=VALUE"),
        ('search INDEX ship --gsd 5/1', 'gsd is from 5 to 1'),
        ('search INDEX ship --bank nowhere.npz', '--bank is nowhere.npz, which re-ranks: say how with --rerank'),
        ('search INDEX ship --or-exact', '--or-exact is for where an engine fails: name it with --engine'),
        ('search INDEX ship --topk 0', 'topk is 0'),
        ('search INDEX ship --rerank mr --bank nowhere.npz', 'no query bank at nowhere.npz'),
        ('search INDEX --image nowhere.jpg', 'no image at nowhere.jpg'),
        ('search INDEX ship --checkpoint nowhere.pth', 'no checkpoint at nowhere.pth'),
        ('search INDEX ship --model galr_mars', "galr_mm has no model 'galr_mars'"),
        ('check INDEX --queries 0', '--queries is 0, expected a whole number of 1 or more'),
        ('check INDEX --queries -5', '--queries is -5, expected a whole number of 1 or more'),
        ('check nowhere', 'no archive index at nowhere'),
        ('info nowhere', 'no archive index at nowhere'),
        ('compact nowhere', 'no archive index at nowhere'),
        ('export INDEX --out ARCHIVE', 'expected a file name that ends in'),
        ('bank INDEX nowhere.json', 'no caption file at nowhere.json'),
        ('bank INDEX nowhere.json --max -1', '--max is -1, expected a whole number of 1 or more'),
        ('bank INDEX CAPTIONS --img-root ARCHIVE', 'are not in'),
    ],
)
def test_errors_are_one_line(cli, archive, mini, command, message):
    folder, flags = cli
    names = dict(ARCHIVE=str(archive), INDEX=str(folder / 'index'), CAPTIONS=str(mini / 'dataset_mini.json'))
    words = [names.get(word, word) for word in command.split()]
    given = [
        flag for name, flag in zip(flags[::2], flags[1::2], strict=True) if name not in words for flag in (name, flag)
    ]
    with pytest.raises(SystemExit) as caught:
        main([*words, *(given if words[0] in ('index', 'search', 'bank') else [])])
    text = str(caught.value)
    assert message in text
    assert '\n' not in text
    assert len(text) <= 2000


def test_a_hit_is_one_line():
    assert line_of(Hit('a\nb.png', 0.5, 'a', Window(0, 0, 2, 2), (2, 2))) == r'0.5000  a\nb.png'


def test_a_broken_index_fails_the_check(cli, tmp_path, capsys):
    shutil.copytree(cli[0] / 'index', tmp_path / 'index')
    with (tmp_path / 'index/vectors/00000.f32').open('r+b') as file:
        file.write(b'\0' * 64)
    with pytest.raises(SystemExit, match='1 problems'):
        main(['check', str(tmp_path / 'index')])
    assert '1 vectors are not finite or not of unit length' in capsys.readouterr().out
    with ArchiveIndex(cli[0] / 'index') as opened:
        assert not check_index(opened).problems
