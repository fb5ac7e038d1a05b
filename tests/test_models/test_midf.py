import pytest
import torch

from galr_mm.models import MIDF, ReleasedMIDF
from galr_mm.models.fusion.midf import MODES
from galr_mm.models.fusion.released_midf import ReleasedLayerNorm


def inputs(batch=3, real=2):
    torch.manual_seed(0)
    mask = torch.zeros(batch, 5, dtype=torch.bool)
    mask[:, :real] = True
    tokens = torch.randn(batch, 5, 7) * mask[..., None]
    return torch.randn(batch, 32), torch.randn(batch, 32), torch.randn(batch, 9, 11), tokens, mask


def midf(mode):
    torch.manual_seed(1)
    options = dict(dim=32, num_heads=4, ff_dim=48, global_channels=11, local_channels=7)
    return (ReleasedMIDF(**options) if mode == 'released' else MIDF(mode, **options)).eval()


@pytest.mark.parametrize('mode', [*MODES, 'released'])
def test_shapes_and_gradients(mode):
    module = midf(mode)
    v_g, v_l, *rest = inputs()
    v_g.requires_grad_()
    v_l.requires_grad_()
    out = module(v_g, v_l, *rest)
    assert out.shape == (3, 32)
    out.square().sum().backward()
    assert v_g.grad.abs().sum() > 0
    assert v_l.grad.abs().sum() > 0
    assert all(p.grad is not None for p in module.parameters())


def test_sum():
    v_g, v_l, *_ = inputs()
    torch.testing.assert_close(midf('sum')(v_g, v_l), v_g + v_l)


def test_paper_formula():
    """Step by step from the class docstring, with torch's own modules."""
    m = midf('paper')
    v_g, v_l, *_ = inputs()

    def block(b, x, y):
        x, y = x[:, None], y[:, None]
        x = b.norms[0](x + b.attentions[0](x, y, y)[0])
        return b.norms[1](x + b.ffn(x))[:, 0]

    g1, l1 = block(m.global_self, v_g, v_g), block(m.local_self, v_l, v_l)
    g2, l2 = block(m.global_guided, g1, l1), block(m.local_guided, l1, g1)
    g, l = g2 * l2, l2 + g2
    gamma = m.weights(g + l).softmax(-1)
    torch.testing.assert_close(m(v_g, v_l), gamma[:, :1] * g + gamma[:, 1:] * l)


def test_released_formula():
    """Step by step from the class docstring: one side after the other, self-attention within the guided blocks."""
    m = midf('released')
    v_g, v_l, *_ = inputs()

    def block(b, x, *contexts):
        x = x[:, None]
        for attention, norm, y in zip(b.attentions, b.norms[:-1], contexts, strict=True):
            y = y[:, None]
            x = norm(x + attention(x, y, y)[0])
        return b.norms[-1](x + b.ffn(x))[:, 0]

    g1, l1 = block(m.global_self, v_g, v_g), block(m.local_self, v_l, v_l)
    l2 = block(m.local_guided, l1, l1, g1)
    g2 = block(m.global_guided, g1, g1, l2)
    g, l = l2.sigmoid() * g2, g2 + l2
    gamma = m.weights(g + l).softmax(-1)
    torch.testing.assert_close(m(v_g, v_l), gamma[:, :1] * (g + l))


def test_released_weight_cancels_under_cosine():
    m = midf('released')
    v_g, v_l, *_ = inputs()
    before = torch.nn.functional.normalize(m(v_g, v_l), dim=-1)
    with torch.no_grad():
        m.weights[-1].bias += torch.tensor([3.0, -2.0])
    torch.testing.assert_close(torch.nn.functional.normalize(m(v_g, v_l), dim=-1), before)


def test_tokens_look_at_real_objects_only():
    m = midf('tokens')
    v_g, v_l, g_tokens, l_tokens, mask = inputs()
    out = m(v_g, v_l, g_tokens, l_tokens, mask)
    noise = l_tokens + torch.randn_like(l_tokens) * ~mask[..., None]
    torch.testing.assert_close(m(v_g, v_l, g_tokens, noise, mask), out)
    other = l_tokens + torch.randn_like(l_tokens) * mask[..., None]
    assert not torch.allclose(m(v_g, v_l, g_tokens, other, mask), out)


def test_tokens_without_any_object():
    v_g, v_l, g_tokens, l_tokens, mask = inputs(real=0)
    assert midf('tokens')(v_g, v_l, g_tokens, l_tokens, mask).isfinite().all()


def test_unknown_mode():
    with pytest.raises(ValueError, match="'both', expected one of .*'sum'\\)$"):
        MIDF('both')


@pytest.mark.parametrize(
    ('mode', 'instead'),
    [('global_only', 'local=None'), ('local_only', 'backbone=None, visual=None'), ('released', 'galr_mm.ReleasedMIDF')],
)
def test_what_is_said_otherwise(mode, instead):
    with pytest.raises(ValueError, match=instead):
        MIDF(mode)


def test_tokens_need_tokens():
    with pytest.raises(ValueError, match="mode='tokens' needs global_tokens"):
        midf('tokens')(*inputs()[:2])


def test_released_layer_norm():
    x = torch.randn(4, 8)
    norm = ReleasedLayerNorm(8)
    torch.testing.assert_close(norm(x), (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6))
    assert not torch.allclose(norm(x), torch.nn.functional.layer_norm(x, (8,)))
