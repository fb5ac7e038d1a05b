import pytest
import torch
from mmengine.structures import InstanceData

from galr_mm.models.graph.drea import (
    DREA,
    adjacency,
    box_similarity,
    denoise,
    enhance,
    find_duplicates,
    node_features,
    normalize,
    pad_proposals,
    pairwise_iou,
    salience,
)
from galr_mm.registry import MODELS


def instances(rows):
    """Rows of x1, y1, x2, y2, score, label."""
    rows = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return InstanceData(bboxes=rows[:, :4], scores=rows[:, 4], labels=rows[:, 5].long())


def random_rows(seed, count=12, classes=4, side=200.0):
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=g) * side * 0.8
    size = 4 + torch.rand(count, 2, generator=g) * side * 0.15
    score = torch.rand(count, 1, generator=g)
    label = torch.randint(classes, (count, 1), generator=g).float()
    return torch.cat([corner, corner + size, score, label], dim=1)


def drea(**options):
    return MODELS.build(dict(type='galr_mm.DREA', num_classes=4, num_nodes=8) | options)


SHAPE = (200, 200)


def slow_graph(rows, num_classes, num_nodes, iou_thr=0.5, tau=0.95, sigma=0.2):
    """A plain reading of the documentation, object by object."""
    rows = sorted(rows.tolist(), key=lambda r: (-r[4], r[5], r[:4]))
    objects = [([v / 200 for v in r[:4]], r[4], int(r[5])) for r in rows]

    def iou(a, b):
        w = max(0, min(a[2], b[2]) - max(a[0], b[0]))
        h = max(0, min(a[3], b[3]) - max(a[1], b[1]))
        area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
        return w * h / area

    def alike(a, b):
        import math

        wa, ha, wb, hb = a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]
        dx, dy = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
        return math.exp(-dx * dx / (wa * wb) - dy * dy / (ha * hb) - math.log(wa / wb) ** 2 - math.log(ha / hb) ** 2)

    groups = []
    for box, score, label in objects:
        for group in groups:
            kept = group[0]
            if kept[2] == label and (iou(kept[0], box) > iou_thr or alike(kept[0], box) > tau):
                group.append((box, score, label))
                break
        else:
            groups.append([(box, score, label)])
    groups = groups[:num_nodes]
    x = torch.zeros(num_nodes, num_classes + 5)
    centers, gains = [], []
    for i, group in enumerate(groups):
        total = sum(score for _, score, _ in group)
        box = [sum(b[k] * s for b, s, _ in group) / total for k in range(4)]
        x[i, group[0][2]] = 1
        x[i, num_classes] = group[0][1]
        cx, cy, w, h = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]
        x[i, num_classes + 1 :] = torch.tensor([cx, cy, w, h])
        centers.append((cx, cy))
        gains.append(group[0][1] * w * h)
    gains = [1 + g / max(gains) for g in gains]
    adj = torch.zeros(num_nodes, num_nodes)
    for i, a in enumerate(centers):
        for j, b in enumerate(centers):
            distance = (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2
            adj[i, j] = gains[i] * gains[j] * torch.exp(torch.tensor(-distance / (2 * sigma**2)))
    degree = adj.sum(1).clamp(min=1e-12)
    adj = adj / degree.sqrt()[:, None] / degree.sqrt()[None, :]
    return x, adj, len(groups)


@pytest.mark.parametrize('seed', range(6))
def test_against_a_plain_reading(seed):
    rows = random_rows(seed, count=10, classes=2)
    rows = torch.cat([rows, rows[:4] + torch.tensor([2.0, 1, 2, 1, 0, 0])])  # near copies
    rows[10:, 4] *= 0.9
    graph = drea()([instances(rows.tolist())], [SHAPE])
    x, adj, count = slow_graph(rows, 4, 8)
    assert int(graph.mask.sum()) == count
    torch.testing.assert_close(graph.x[0], x)
    torch.testing.assert_close(graph.adj[0], adj)


def test_order_of_objects_does_not_matter():
    rows = random_rows(0)
    rows[:6, 4] = 0.5  # equal scores too
    one = drea()([instances(rows.tolist())], [SHAPE])
    other = drea()([instances(rows[torch.randperm(len(rows))].tolist())], [SHAPE])
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)


def test_batch_gives_what_single_images_give():
    rows = [random_rows(seed, count).tolist() for seed, count in ((0, 3), (1, 0), (2, 30))]
    together = drea()([instances(r) for r in rows], [SHAPE] * 3)
    for i, r in enumerate(rows):
        alone = drea()([instances(r)], [SHAPE])
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[i], b[0])


def test_a_score_threshold():
    rows = [[10, 10, 50, 50, 0.9, 1], [60, 10, 90, 50, 0.3, 1], [10, 60, 50, 90, 0.29, 2]]
    assert drea()([instances(rows)], [SHAPE]).mask.sum() == 3
    graph = drea(score_thr=0.3)([instances(rows), instances([[0, 0, 9, 9, 0.1, 0]])], [SHAPE, SHAPE])
    assert graph.mask.sum(1).tolist() == [2, 0]
    for ours, without in zip(graph, drea()([instances(rows[:2]), instances([])], [SHAPE, SHAPE]), strict=True):
        torch.testing.assert_close(ours, without)


def test_duplicates_merge_and_are_counted():
    rows = [[10, 10, 50, 50, 0.9, 1], [12, 10, 52, 50, 0.6, 1], [10, 10, 50, 50, 0.8, 2]]
    objects = pad_proposals([instances(rows)], [SHAPE])
    merged = denoise(objects, find_duplicates(objects))
    assert merged.mask.tolist() == [[True, True, False]]
    assert merged.num_merged.tolist() == [[2, 1, 0]]
    assert merged.labels.tolist() == [[1, 2, 0]]
    torch.testing.assert_close(merged.scores[0, :2], torch.tensor([0.9, 0.8]))
    torch.testing.assert_close(merged.boxes[0, 0, 0], torch.tensor((10 * 0.9 + 12 * 0.6) / 1.5 / 200))


def test_neighbors_stay_apart():
    """A car park: equal class, equal size, side by side."""
    rows = [[10 + 12 * i, 100, 20 + 12 * i, 120, 0.9, 1] for i in range(8)]
    assert int(drea()([instances(rows)], [SHAPE]).mask.sum()) == 8
    assert int(drea(similarity='cosine')([instances(rows)], [SHAPE]).mask.sum()) < 8  # why it is not the default
    assert int(drea(merge=False)([instances(rows + rows)], [SHAPE]).mask.sum()) == 8


def test_scale_does_not_matter():
    rows = random_rows(3)
    big = rows.clone()
    big[:, :4] *= 3
    one, other = drea()([instances(rows.tolist())], [SHAPE]), drea()([instances(big.tolist())], [(600, 600)])
    torch.testing.assert_close(one.x, other.x)
    torch.testing.assert_close(one.adj, other.adj)


@pytest.mark.parametrize('adj', ['distance', 'iou'])
@pytest.mark.parametrize('enhancement', ['area', 'count', None])
def test_adjacency_is_sound(adj, enhancement):
    module = drea(adj=adj, enhancement=enhancement)
    graph = module([instances(random_rows(s, n).tolist()) for s, n in ((0, 0), (1, 1), (2, 5), (3, 40))], [SHAPE] * 4)
    assert graph.mask.sum(1).tolist()[:2] == [0, 1]
    torch.testing.assert_close(graph.adj, graph.adj.transpose(1, 2))
    diagonal = graph.adj.diagonal(dim1=1, dim2=2)
    assert (diagonal[graph.mask] > 0).all()
    real = graph.mask[:, :, None] & graph.mask[:, None, :]
    assert (graph.adj[~real] == 0).all()
    assert (graph.x[~graph.mask] == 0).all()
    assert graph.adj.isfinite().all()


def test_enhancement_strengthens_the_salient():
    objects = pad_proposals([instances([[0, 0, 100, 100, 0.9, 0], [150, 150, 160, 160, 0.9, 1]])], [SHAPE])
    adj, weight = adjacency(objects), salience(objects)
    assert weight[0, 0] == 1 > weight[0, 1] > 0
    assert enhance(adj, weight)[0, 0, 0] == 4
    off, on = normalize(adj), normalize(enhance(adj, weight))
    assert not torch.allclose(off, on)


def test_what_is_not_an_object_is_dropped():
    nan = float('nan')
    rows = [
        [10, 10, 50, 50, 0.9, 1],
        [nan, 0, 5, 5, 0.9, 1],
        [5, 5, 5, 9, 0.9, 1],  # empty
        [50, 50, 10, 10, 0.9, 1],  # inverted
        [300, 300, 400, 400, 0.9, 1],  # outside
        [0, 0, 5, 5, nan, 1],
        [-20, -20, 20, 20, 0.0, 1],  # clipped, score 0: real
    ]
    module = drea()
    graph = module([instances(rows)], [SHAPE])
    assert int(graph.mask.sum()) == 2
    torch.testing.assert_close(graph.x[0, 1], torch.tensor([0, 1, 0, 0, 0, 0.05, 0.05, 0.1, 0.1]))
    assert graph.adj.isfinite().all()


def test_nothing_but_empty_boxes():
    graph = drea()([instances([[5, 5, 5, 5, 0.9, 1]]), instances([])], [SHAPE, SHAPE])
    assert not graph.mask.any()
    assert graph.adj.shape == (2, 8, 8)


def test_the_best_are_kept():
    rows = random_rows(5, 40)
    graph = drea(merge=False)([instances(rows.tolist())], [SHAPE])
    torch.testing.assert_close(graph.x[0, :, 4], rows[:, 4].sort(descending=True).values[:8])


@pytest.mark.parametrize('label', [4, -1])
def test_labels_out_of_range(label):
    with pytest.raises(ValueError, match=f'label {label}, but DREA was built for num_classes=4'):
        drea()([instances([[0, 0, 9, 9, 0.5, label]])], [SHAPE])


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(adj='l2'), "'l2'"),
        (dict(enhancement=True), 'True'),
        (dict(num_nodes=0), 'num_nodes'),
        (dict(similarity='x'), "'x'"),
        (dict(iou_thr=1.6), 'iou_thr is 1.6, tau is 0.95, expected 0 to 1'),
        (dict(tau=95), 'tau is 95, expected 0 to 1 and -1 to 1'),
        (dict(score_thr=30), 'score_thr is 30, expected 0 <= score_thr < 1'),
    ],
)
def test_wrong_options(options, match):
    with pytest.raises(ValueError, match=match):
        drea(**options)


def test_lists_of_different_length():
    with pytest.raises(ValueError, match='1 images'):
        drea()([instances([])], [SHAPE, SHAPE])


def test_gradients_reach_learned_boxes():
    boxes = torch.tensor([[10.0, 10, 50, 50], [60, 60, 120, 110]], requires_grad=True)
    proposals = InstanceData(bboxes=boxes, scores=torch.tensor([0.9, 0.8]), labels=torch.tensor([0, 1]))
    graph = drea()([proposals], [SHAPE])
    (graph.x.sum() + graph.adj.square().sum()).backward()
    assert boxes.grad.abs().sum() > 0


def test_similarities_of_equal_boxes():
    boxes = torch.rand(2, 5, 4).sort(-1).values[..., [0, 1, 2, 3]]
    torch.testing.assert_close(box_similarity(boxes).diagonal(dim1=1, dim2=2), torch.ones(2, 5))
    torch.testing.assert_close(pairwise_iou(boxes).diagonal(dim1=1, dim2=2), torch.ones(2, 5))


def test_node_features_have_the_documented_order():
    objects = pad_proposals([instances([[20, 40, 60, 100, 0.7, 2]])], [(200, 100)])
    expected = torch.tensor([0, 0, 1, 0, 0.7, 0.4, 0.35, 0.4, 0.3])
    torch.testing.assert_close(node_features(objects, 4)[0, 0], expected)


def test_repr():
    assert 'num_classes=4, num_nodes=8' in repr(DREA(4, 8))


def test_no_images_at_all():
    graph = DREA(num_classes=3, num_nodes=4)([], [])
    assert (graph.x.shape, graph.adj.shape, graph.mask.shape) == ((0, 4, 8), (0, 4, 4), (0, 4))
    with pytest.raises(ValueError, match='0 images with proposals, but 1 image sizes'):
        DREA(num_classes=3)([], [(4, 4)])


def test_whole_pixels_beside_half_precision_scores():
    boxes = torch.tensor([[11001, 5, 11004, 9], [11005, 5, 11008, 9]])
    found = InstanceData(bboxes=boxes, scores=torch.tensor([0.5, 0.25]).half(), labels=torch.tensor([0, 0]))
    objects = DREA(num_classes=1).objects([found], [(12000, 12000)])
    torch.testing.assert_close(objects.boxes[0] * 12000, boxes.float(), atol=1e-2, rtol=0)


def test_the_graph_carries_the_boxes_of_its_nodes():
    graph = drea()([instances(random_rows(2).tolist()), instances([])], [SHAPE, SHAPE])
    center, size = graph.x[..., -4:-2], graph.x[..., -2:]
    torch.testing.assert_close(graph.boxes, torch.cat([center - size / 2, center + size / 2], dim=-1))
    assert graph.boxes[0].any()
    assert not graph.boxes[~graph.mask].any()
