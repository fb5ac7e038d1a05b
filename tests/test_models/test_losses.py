import pytest
import torch

from galr_mm.models import ContrastiveLoss, TripletLoss
from galr_mm.models.losses import duplicate_pairs, triplet_loss


def features(count=6, dim=8):
    torch.manual_seed(0)
    return [torch.nn.functional.normalize(torch.randn(count, dim), dim=-1).requires_grad_() for _ in range(2)]


def slow_triplet(s, margin, hardest, ignore):
    total = 0.0
    for own in range(len(s)):
        for of in ('row', 'column'):
            costs = [0.0]
            for other in range(len(s)):
                i, j = (own, other) if of == 'row' else (other, own)
                if own != other and not ignore[i][j]:
                    costs.append(max(0.0, margin + s[i][j] - s[own][own]))
            total += max(costs) if hardest else sum(costs)
    return total


@pytest.mark.parametrize('negatives', ['all', 'hardest'])
@pytest.mark.parametrize('masked', [True, False])
def test_triplet_against_loops(negatives, masked):
    image, text = features()
    s = image @ text.t()
    ignore = torch.rand(6, 6) < 0.3 if masked else torch.zeros(6, 6).bool()
    value = triplet_loss(s, 0.2, negatives, ignore if masked else None)
    assert value.item() == pytest.approx(
        slow_triplet(s.tolist(), 0.2, negatives == 'hardest', ignore.tolist()), rel=1e-5
    )


def test_duplicate_pairs():
    mask = duplicate_pairs(torch.tensor([0, 0, 1, 2]), torch.tensor([5, 6, 7, 5]))
    assert mask.nonzero().tolist() == [[0, 1], [0, 3], [1, 0], [3, 0]]


@pytest.mark.parametrize('loss', [TripletLoss(), ContrastiveLoss()], ids=lambda m: type(m).__name__)
def test_masked_pairs_do_not_count(loss):
    image, text = features()
    distinct = torch.arange(6)
    same = distinct.clone()
    same[1] = 0  # images 0 and 1 are one image
    name = next(iter(loss(image, text, distinct, distinct)))
    masked, full = loss(image, text, same, distinct)[name], loss(image, text, distinct, distinct)[name]
    assert masked < full
    loss.mask_duplicates = False
    assert loss(image, text, same, distinct)[name] == full
    masked.backward()
    assert image.grad.isfinite().all()


def test_contrastive_is_cross_entropy():
    image, text = features()
    loss = ContrastiveLoss(temperature=0.1)
    ids = torch.arange(6)
    logits = image @ text.t() / 0.1
    expected = (torch.nn.functional.cross_entropy(logits, ids) + torch.nn.functional.cross_entropy(logits.t(), ids)) / 2
    out = loss(image, text, ids, ids)
    torch.testing.assert_close(out['loss_contrastive'], expected)
    assert out['temperature'].item() == pytest.approx(0.1)
    assert not out['temperature'].requires_grad
    out['loss_contrastive'].backward()
    assert loss.log_scale.grad is not None


def test_one_pair():
    image, text = features(1)
    ids = torch.zeros(1).long()
    assert TripletLoss()(image, text, ids, ids)['loss_triplet'] == 0
    assert ContrastiveLoss()(image, text, ids, ids)['loss_contrastive'] == 0


def test_wrong_negatives():
    with pytest.raises(ValueError, match="'some'"):
        TripletLoss(negatives='some')
