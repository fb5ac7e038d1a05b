import math

import pytest
import torch

from galr_mm.models import ContrastiveLoss, TripletLoss
from galr_mm.models.losses import duplicate_pairs, triplet_loss
from tests.helpers import run_tool


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
    grads = torch.autograd.grad(expected, [image, text])
    out['loss_contrastive'].backward()
    torch.testing.assert_close([image.grad, text.grad], [*grads])
    assert loss.log_scale.grad is not None


def test_one_pair():
    image, text = features(1)
    ids = torch.zeros(1).long()
    assert TripletLoss()(image, text, ids, ids)['loss_triplet'] == 0
    assert ContrastiveLoss()(image, text, ids, ids)['loss_contrastive'] == 0


# rows of images, (image id, ids of its captions): one image twice, words shared by images and within one image
BATCHES = {
    'one each': [(0, [0]), (1, [1]), (2, [0]), (0, [3])],
    'an image twice': [(0, [0, 1]), (1, [2]), (0, [3, 4, 5])],
    'shared words': [(0, [0, 1, 2]), (1, [1]), (2, [3, 3]), (3, [4, 2])],
    'one image': [(7, [0, 1])],
    'all positives': [(0, [5, 6]), (1, [6, 5])],
}


def tensors(rows):
    images = torch.tensor([image for image, _ in rows])
    captions = torch.tensor([caption for _, ids in rows for caption in ids])
    owner = torch.tensor([row for row, (_, ids) in enumerate(rows) for _ in ids])
    return images, captions, owner


def slow_terms(rows, s, masked):
    """For each caption: its own score, scores of images and scores of captions that stand against it."""
    captions = [(row, caption) for row, (_, ids) in enumerate(rows) for caption in ids]

    def negative(row, other):  # image of one row, position of a caption
        of, caption = captions[other]
        if of == row:
            return False
        return not masked or (rows[of][0] != rows[row][0] and caption not in rows[row][1])

    for position, (own, _) in enumerate(captions):
        against_images = [s[row][position] for row in range(len(rows)) if negative(row, position)]
        against_captions = [s[own][other] for other in range(len(captions)) if negative(own, other)]
        yield s[own][position], against_images, against_captions


@pytest.mark.parametrize('masked', [True, False])
@pytest.mark.parametrize('rows', BATCHES.values(), ids=BATCHES)
def test_several_captions_against_loops(rows, masked):
    images, captions, owner = tensors(rows)
    torch.manual_seed(0)
    image = torch.nn.functional.normalize(torch.randn(len(images), 4).double(), dim=-1).requires_grad_()
    text = torch.nn.functional.normalize(torch.randn(len(captions), 4).double(), dim=-1).requires_grad_()
    s = (image @ text.t()).tolist()
    terms = list(slow_terms(rows, s, masked))

    loss = ContrastiveLoss(temperature=0.2, mask_duplicates=masked).double()
    scale, expected = loss.log_scale.exp().item(), 0.0
    for own, *against in terms:
        for others in against:
            expected -= math.log(math.exp(scale * own) / sum(math.exp(scale * x) for x in [own, *others]))
    expected /= 2 * len(terms)
    value = loss(image, text, images, captions, owner)['loss_contrastive']
    assert value.item() == pytest.approx(expected, abs=1e-9)
    value.backward()
    assert all(tensor.grad.isfinite().all() for tensor in (image, text, loss.log_scale))

    for negatives, keep in (('all', sum), ('hardest', lambda costs: max(costs, default=0.0))):
        expected = sum(keep([max(0.0, 0.3 + x - own) for x in others]) for own, *against in terms for others in against)
        value = TripletLoss(0.3, negatives, masked)(image, text, images, captions, owner)['loss_triplet']
        assert value.item() == pytest.approx(expected, abs=1e-9)
        value.backward()
        assert image.grad.isfinite().all()


@pytest.mark.distributed
def test_two_processes_train_as_one(tmp_path):
    """Two processes that gather their features make the step that one makes with both batches."""
    run_tool('tests/pool_step.py', tmp_path / 'one.pth')
    run_tool('tests/pool_step.py', tmp_path / 'two.pth', processes=2)
    one, two = torch.load(tmp_path / 'one.pth'), torch.load(tmp_path / 'two.pth')
    apart, together = two.pop('apart'), one.pop('apart')
    assert not torch.allclose(apart['layer.weight'], together['layer.weight'], rtol=1e-3)
    assert not torch.equal(one['masked']['layer.weight'], one['not masked']['layer.weight'])
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-9, atol=1e-12, msg=lambda m, name=name: f'{name}: {m}')
    torch.testing.assert_close(one['micro batches'], one['masked'], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(one['masked'], together)  # a pool of one process is its batch


def test_captions_need_their_images():
    image, text = features()
    for loss in (ContrastiveLoss(), TripletLoss()):
        with pytest.raises(ValueError, match='6 captions of 5 images need an owner'):
            loss(image[:5], text, torch.arange(5), torch.arange(6))
        with pytest.raises(ValueError, match='owner has 5 rows for 6 captions'):
            loss(image, text, torch.arange(6), torch.arange(6), torch.arange(5))
        loss.mask_duplicates = False
        with pytest.raises(ValueError, match='need an owner'):
            loss(image[:5], text, torch.arange(5), torch.arange(6))


@pytest.mark.parametrize(
    ('loss', 'option', 'expected'),
    [
        (ContrastiveLoss, 'temperature', 'a finite number above 0'),
        (ContrastiveLoss, 'max_scale', '1 or more'),
        (TripletLoss, 'margin', 'a finite number of 0 or more'),
    ],
)
@pytest.mark.parametrize('value', [0, -0.1, math.nan, math.inf])
def test_numbers_that_give_no_loss(loss, option, expected, value):
    if (option, value) in {('margin', 0), ('max_scale', math.inf)}:  # they do
        loss(**{option: value})
        return
    with pytest.raises(ValueError, match=f'{option} is {value}, expected {expected}'):
        loss(**{option: value})


@pytest.mark.parametrize('loss', [ContrastiveLoss, TripletLoss])
def test_a_word_is_no_switch(loss):
    with pytest.raises(ValueError, match="gather is 'no', expected True or False"):
        loss(gather='no')


def test_a_margin_that_is_no_number():
    with pytest.raises(ValueError, match="margin is 'x', expected a finite number"):
        TripletLoss(margin='x')


def test_wrong_negatives():
    with pytest.raises(ValueError, match="'some'"):
        TripletLoss(negatives='some')
