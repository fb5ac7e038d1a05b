import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample

from galr_mm.evaluation import RecallAtK, RetrievalEvaluator, build_rerankers
from galr_mm.structures import RetrievalScores


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
    expected = RecallAtK()(RetrievalScores.from_matrix(image @ text.t()))
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


def test_equal_captions_tie_exactly():
    data = samples()
    data[1].text[0] = data[0].text[0]
    data[1].text_feat[0] = data[0].text_feat[0] + 1e-7  # what another batch's rounding may do
    ev = evaluator()
    ev.process(data)
    ev.evaluate(6)
    scores = ev.scores[''].i2t
    assert torch.equal(scores[:, 0], scores[:, 5])


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
    report = ev.report(metrics)
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
        np.testing.assert_array_equal(saved['mr/t2i'], ev.scores['mr'].t2i)
        assert saved['image_paths'][2] == '2.jpg'


def test_different_numbers_of_captions():
    data = samples()
    data[0].text, data[0].gt_text_id, data[0].text_feat = data[0].text[:2], [0, 1], data[0].text_feat[:2]
    data[3].text, data[3].gt_text_id, data[3].text_feat = [], [], None  # a gallery image without text
    ev = evaluator()
    ev.process(data)
    ev.evaluate(6)
    assert ev.scores[''].positives.sum(1).tolist() == [2, 5, 5, 0, 5, 5]


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


def test_scores_check_their_shapes():
    with pytest.raises(ValueError, match=r'\(2, 3\), \(2, 3\)'):
        RetrievalScores(torch.rand(2, 3), torch.rand(2, 3), torch.ones(2, 3).bool())
    with pytest.raises(ValueError, match='2 images with 5 captions each need 10 columns, got 9'):
        RetrievalScores.from_matrix(torch.rand(2, 9))
