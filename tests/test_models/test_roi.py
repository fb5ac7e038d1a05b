import pytest
import torch

from galr_mm.registry import MODELS
from galr_mm.structures import ObjectGraph

pytest.importorskip('mmcv._ext')


def graph(boxes, nodes=4):
    """Boxes (n, 4) as relative (cx, cy, w, h), padded; the node features say nothing of them."""
    xyxy = torch.zeros(1, nodes, 4)
    for index, (cx, cy, w, h) in enumerate(boxes):
        xyxy[0, index] = torch.tensor([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    mask = torch.arange(nodes)[None] < len(boxes)
    return ObjectGraph(torch.zeros(1, nodes, 9), torch.eye(nodes)[None] * mask[..., None], mask, xyxy)


def roi(channels=(4, 2), **options):
    torch.manual_seed(0)
    return MODELS.build(dict(type='galr_mm.RoINodes', in_channels=channels, **options))


def test_a_node_sees_its_box():
    module = roi(out_channels=2, level=-1)
    torch.nn.init.eye_(module.fc.weight)
    torch.nn.init.zeros_(module.fc.bias)
    maps = [torch.rand(1, 4, 32, 32), torch.zeros(1, 2, 16, 16)]
    maps[1][0, 0, :, :8] = 1.0  # left half
    maps[1][0, 1, 8:] = 2.0  # lower half
    out = module(graph([[0.25, 0.25, 0.25, 0.25], [0.75, 0.75, 0.25, 0.25]]), maps)
    torch.testing.assert_close(out.x[0, :2, 9:], torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    assert (out.x[0, 2:] == 0).all()


def test_the_size_of_the_map_does_not_matter():
    module, g = roi(out_channels=8, level=0), graph([[0.5, 0.5, 0.5, 0.5]])
    small = torch.rand(1, 4, 8, 8)
    large = torch.nn.functional.interpolate(small, scale_factor=4, mode='nearest')
    a, b = module(g, [small, None]), module(g, [large, None])
    torch.testing.assert_close(a.x, b.x, atol=0.05, rtol=0)


def test_gradients_reach_the_maps():
    maps = [torch.rand(1, 4, 8, 8, requires_grad=True), torch.rand(1, 2, 4, 4, requires_grad=True)]
    roi(level=-2)(graph([[0.5, 0.5, 0.5, 0.5]]), maps).x.sum().backward()
    assert maps[0].grad.abs().sum() > 0
    assert maps[1].grad is None


def test_a_graph_without_boxes_is_refused():
    maps = [torch.rand(1, 4, 8, 8), torch.rand(1, 2, 4, 4)]
    with pytest.raises(ValueError, match='no boxes'):
        roi()(graph([])._replace(boxes=None), maps)
