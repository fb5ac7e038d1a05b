import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmpretrain.structures import DataSample

from galr_mm.evaluation import RecallAtK, RetrievalEvaluator, build_rerankers, multivariate_rerank
from galr_mm.registry import EVALUATOR
from galr_mm.structures import RerankedScores, RetrievalScores


def samples(images=6, texts=5, seed=0):
    torch.manual_seed(seed)
    out = []
    for i in range(images):
        sample = DataSample(metainfo=dict(image_id=i, img_path=f'{i}.jpg'))
        sample.image_feat = torch.nn.functional.normalize(torch.randn(8), dim=0)
        sample.text = [f'caption {i} {t}' for t in range(texts)]
        sample.text_id = sample.gt_text_id = list(range(i * texts, (i + 1) * texts))
        sample.gt_image_id = [i] * texts
        if texts:
            sample.text_feat = torch.nn.functional.normalize(torch.randn(texts, 8), dim=1)
        out.append(sample)
    return out


def evaluator(**options):
    return RetrievalEvaluator(metrics=[dict(type='galr_mm.RecallAtK')], **options)


def test_numbers_are_those_of_the_matrix():
    data = samples()
    ev = evaluator()
    ev.process(data[:4])
    ev.process(data[4:])
    image = torch.stack([s.image_feat for s in data])
    text = torch.cat([s.text_feat for s in data])
    expected = RecallAtK()(RetrievalScores.from_matrix(image @ text.t()).ranks)
    assert ev.evaluate(6) == expected


def test_order_and_padding_do_not_matter():
    data = samples()
    expected = evaluator()
    expected.process(data)
    shuffled = evaluator()
    shuffled.process([data[i] for i in (3, 0, 5, 1, 4, 2, 3, 0)])  # two come twice
    assert shuffled.evaluate(6) == expected.evaluate(6)


def test_missing_sample_is_an_error():
    ev = evaluator()
    ev.process(samples()[:5])
    with pytest.raises(RuntimeError, match='5 different images arrived, the data set holds 6'):
        ev.evaluate(6)


@pytest.mark.parametrize('key', [None, str.lower])
def test_captions_are_equal_where_the_text_encoder_says_so(key):
    data = samples()
    data[1].text[0], data[2].text[0] = data[0].text[0], data[0].text[0].upper()
    for other in (1, 2):
        data[other].text_feat[0] = data[0].text_feat[0] + 1e-3  # what another batch's rounding may do, enlarged
    if key is not None:
        for sample in data:
            sample.text_key = [key(text) for text in sample.text]
    ev = evaluator()
    ev.process(data[::-1])  # the first caption is that of the lowest id, not the first that came
    ev.evaluate(6)
    scores = ev.result.raw.i2t
    image = torch.stack([s.image_feat for s in data])
    torch.testing.assert_close(scores[:, 0], image @ data[0].text_feat[0])
    assert torch.equal(scores[:, 0], scores[:, 5])
    assert torch.equal(scores[:, 0], scores[:, 10]) == (key is not None)


def test_captions_that_are_not_strings_are_never_merged():
    data = samples()
    for sample in data:
        sample.text = [np.zeros(3) for _ in sample.text]
    ev = evaluator()
    ev.process(data)
    ev.evaluate(6)
    text = torch.cat([s.text_feat for s in data])
    torch.testing.assert_close(ev.result.raw.t2i, text @ torch.stack([s.image_feat for s in data]).t())


def test_keys_must_fit_the_captions():
    (sample, *_) = samples()
    sample.text_key = ['a']
    with pytest.raises(ValueError, match='5 captions, 5 text ids and 1 text keys'):
        evaluator().process([sample])


@pytest.mark.parametrize('feat', [None, torch.ones(3, 8), torch.ones(1, 8), torch.ones(8)])
def test_every_caption_has_a_feature(feat):
    data = samples(images=2, texts=2)
    del data[1].text_feat
    if feat is not None:
        data[1].text_feat = feat
    with pytest.raises(ValueError, match='image 1 has 2 captions, but text_feat'):
        evaluator().process(data)


def test_an_id_stands_for_one_caption():
    data = samples(images=2, texts=2)
    data[1].gt_text_id = [1, 2]
    ev = evaluator()
    ev.process(data)
    with pytest.raises(ValueError, match="text id 1 stands for two captions, 'caption 0 1' and 'caption 1 0'"):
        ev.evaluate(2)


def test_raw_and_reranked_side_by_side(tmp_path):
    ev = evaluator(out_file=str(tmp_path / 'out.npz'))
    ev.dataset_meta = dict(split='test', ann_file='x.json')
    ev.rerankers = build_rerankers(['mr', 'rr'], dict(mr=dict(k=4)))
    data = samples()
    ev.process(data)
    metrics = ev.evaluate(6)
    plain = evaluator()
    plain.process(data)
    raw = plain.evaluate(6)
    assert {k: v for k, v in metrics.items() if k in raw} == raw
    assert set(metrics) == set(raw) | {f'{p}/{k}' for p in ('mr', 'rr') for k in raw}
    report = ev.report(ev.result, metrics)
    for word in (
        "split 'test' of x.json",
        '6 images, 30 captions',
        'lower index',
        'chance',
        'MultivariateRerank(k=4)',
    ):
        assert word in report
    with np.load(tmp_path / 'out.npz') as saved:
        assert {'i2t', 't2i', 'mr/i2t', 'mr/t2i', 'rr/i2t', 'positives', 'image_ids', 'text_ids', 'texts'} <= set(saved)
        assert saved['i2t'].shape == saved['mr/i2t'].shape == (6, 30)
        np.testing.assert_array_equal(saved['mr/t2i'], multivariate_rerank(ev.result.raw.t2i, k=4))
        assert saved['image_paths'][2] == '2.jpg'


def test_different_numbers_of_captions():
    data = samples()
    data[0].text, data[0].gt_text_id, data[0].text_feat = data[0].text[:2], [0, 1], data[0].text_feat[:2]
    data[3].text, data[3].gt_text_id, data[3].text_feat = [], [], None  # a gallery image without text
    ev = evaluator()
    ev.process(data)
    ev.evaluate(6)
    assert ev.result.positives.sum(1).tolist() == [2, 5, 5, 0, 5, 5]


def test_only_images_or_only_text():
    ev = evaluator()
    ev.process(samples(texts=0))
    with pytest.raises(ValueError, match='6 images and 0 captions'):
        ev.evaluate(6)
    data = samples()
    for s in data:
        del s.image_feat
    ev.process(data)
    with pytest.raises(ValueError, match='0 images and 30 captions'):
        ev.evaluate(6)
    with pytest.raises(ValueError, match='image_id'):
        ev.process([DataSample(text='x')])


def test_a_re_ranker_of_ones_own():
    def flip(scores):
        return RetrievalScores(-scores.i2t, -scores.t2i, scores.positives)

    ev = evaluator()
    ev.rerankers = {'flip': flip, **build_rerankers('mr')}
    ev.process(samples())
    metrics = ev.evaluate(6)
    result = ev.result
    assert isinstance(result.scores['mr'], RerankedScores)  # no matrix
    expected = RecallAtK()(RetrievalScores(-result.raw.i2t, -result.raw.t2i, result.positives).ranks)
    assert {name: metrics[f'flip/{name}'] for name in expected} == expected


def test_a_re_ranker_that_gives_something_else():
    ev = evaluator()
    ev.rerankers = {'mine': lambda scores: scores.i2t}
    ev.process(samples())
    with pytest.raises(TypeError, match='gave a Tensor, expected RetrievalScores'):
        ev.evaluate(6)


def test_the_result():
    data = samples()
    ev = evaluator()
    ev.rerankers = build_rerankers(['mr', 'product'], dict(mr=dict(k=2), product=dict(tail='zero')))
    ev.process(data[::-1])
    ev.evaluate(6)
    result = ev.result
    assert (result.image_ids, result.text_ids) == (list(range(6)), list(range(30)))
    assert (result.image_paths[4], result.texts[7]) == ('4.jpg', 'caption 1 2')
    for prefix in ('', 'mr', 'product'):
        full = result.scores[prefix].matrices()
        for direction in ('i2t', 't2i'):
            assert torch.equal(result.ranks[prefix][direction], full.ranks[direction])
            scores, index = getattr(full, direction).sort(dim=1, descending=True, stable=True)
            for got, want in zip(result.top(direction, [5, 0, 3], 4, prefix), (index, scores), strict=True):
                assert torch.equal(got, want[[5, 0, 3], :4])


def test_recall_under_the_plain_evaluator():
    data = samples()
    ours = evaluator()
    ours.process(data)
    plain = EVALUATOR.build(dict(type='mmengine.Evaluator', metrics=dict(type='galr_mm.RecallAtK')))
    assert type(plain) is Evaluator
    shuffled = [data[i] for i in (3, 0, 5, 1, 4, 2, 3, 0)]
    plain.process(shuffled[:5])
    plain.process(shuffled[5:])
    expected = ours.evaluate(6)
    assert plain.evaluate(6) == expected
    plain.process(data)  # nothing is left of the first evaluation
    assert plain.evaluate(6) == expected
    with pytest.raises(ValueError, match="mode='predict'"):
        plain.process([DataSample(text='x')])


def test_recall_at_k():
    scores = RetrievalScores.from_matrix(torch.eye(4).repeat_interleave(5, dim=1))
    result = RecallAtK()(scores.ranks)
    assert list(result) == ['i2t/R@1', 'i2t/R@5', 'i2t/R@10', 't2i/R@1', 't2i/R@5', 't2i/R@10', 'mR']
    assert set(result.values()) == {100.0}
    for topk in ((0,), (), (1.5,), 5):
        with pytest.raises(ValueError, match='topk'):
            RecallAtK(topk=topk)


def test_scores_check_their_shapes():
    with pytest.raises(ValueError, match=r'\(2, 3\), \(2, 3\)'):
        RetrievalScores(torch.rand(2, 3), torch.rand(2, 3), torch.ones(2, 3).bool())
    with pytest.raises(ValueError, match='2 images with 5 captions each need 10 columns, got 9'):
        RetrievalScores.from_matrix(torch.rand(2, 9))


@pytest.mark.parametrize('kind', [torch.tensor, np.array, tuple], ids=['tensor', 'array', 'tuple'])
def test_ids_of_other_types(kind):
    data, expected, ev = samples(), evaluator(), evaluator()
    expected.process(samples())
    for sample in data:
        sample.text_id, sample.gt_image_id = kind(sample.text_id), kind(sample.gt_image_id)
        sample.gt_text_id = kind(sample.gt_text_id)
    ev.process(data)
    assert ev.evaluate(6) == expected.evaluate(6)
    assert ev.result.text_ids == expected.result.text_ids
    one, alone = samples(texts=1), evaluator()
    for sample in one:
        sample.text, sample.gt_text_id = sample.text[0], torch.tensor(sample.gt_text_id[0])
    alone.process(one)
    alone.evaluate(6)
    assert alone.result.text_ids == [0, 1, 2, 3, 4, 5]
