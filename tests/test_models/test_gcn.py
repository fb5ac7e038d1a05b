import pytest
import torch

from galr_mm.models import GCN
from galr_mm.structures import ObjectGraph


def graph(batch=3, nodes=6, features=9, real=4):
    torch.manual_seed(0)
    mask = torch.zeros(batch, nodes, dtype=torch.bool)
    mask[:, :real] = True
    x = torch.rand(batch, nodes, features) * mask[..., None]
    adj = torch.rand(batch, nodes, nodes)
    adj = (adj + adj.transpose(1, 2)) * mask[:, :, None] * mask[:, None, :]
    return ObjectGraph(x, adj, mask)


@pytest.mark.parametrize('readout', ['flatten', 'mean'])
def test_layers_are_w_a_x(readout):
    gcn, g = GCN(9, 6, channels=(5, 7), embed_dim=16, readout=readout), graph()
    x = g.x
    for layer in gcn.layers:
        x = (g.adj @ x @ layer.nn.weight.t()).relu()
    pooled = x.flatten(1) if readout == 'flatten' else x[:, :4].mean(1)
    expected = torch.nn.functional.normalize(gcn.out(pooled), dim=-1)
    out = gcn(g)
    torch.testing.assert_close(out.embedding, expected)
    torch.testing.assert_close(out.tokens, x)


def test_pooled_readout_ignores_the_order():
    gcn, g = GCN(9, 6, readout='mean', embed_dim=16), graph(real=6)
    order = torch.randperm(6)
    shuffled = ObjectGraph(g.x[:, order], g.adj[:, order][:, :, order], g.mask[:, order])
    torch.testing.assert_close(gcn(g).embedding, gcn(shuffled).embedding)


@pytest.mark.parametrize('readout', ['flatten', 'mean'])
def test_no_objects_give_a_constant(readout):
    gcn = GCN(9, 6, readout=readout)
    out = gcn(ObjectGraph.empty(3, 6, 9, like=torch.zeros(1))).embedding
    assert out.isfinite().all()
    assert (out == out[0]).all()


def test_wrong_sizes():
    with pytest.raises(ValueError, match="'max'"):
        GCN(9, 6, readout='max')
    with pytest.raises(ValueError, match='5 nodes'):
        GCN(9, 6)(graph(nodes=5))
