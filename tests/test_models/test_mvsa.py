import pytest
import torch
from torch.nn import functional as F

from galr_mm.models import MVSA, GlobalPool


def maps(side, channels=(8, 16, 32, 64), batch=2):
    torch.manual_seed(0)
    return [torch.randn(batch, c, max(1, side // 2**i), max(1, side // 2**i)) for i, c in enumerate(channels)]


@pytest.mark.parametrize('side', [64, 32, 56, 16, 8, 4])
def test_any_image_size(side):
    module = MVSA((8, 16, 32, 64), embed_dim=24)
    out = module(maps(side))
    assert out.embedding.shape == (2, 24)
    torch.testing.assert_close(out.embedding.norm(dim=-1), torch.ones(2))
    assert out.tokens.shape == (2, max(1, side // 4) ** 2, 96)
    assert module.token_channels == 96
    out.embedding.sum().backward()


def test_a_backbones_own_embedding_plays_no_part():
    module = MVSA((8, 16, 32, 64), embed_dim=24)
    torch.testing.assert_close(module(maps(32), torch.randn(2, 7)).embedding, module(maps(32)).embedding)


def test_formula():
    """Written out for 256 px, where no pooling takes part."""
    m = MVSA((8, 16, 32, 64), embed_dim=24)
    f1, f2, f3, f4 = maps(64)
    low = m.low_conv(torch.cat([f1, F.interpolate(f2, scale_factor=2)], 1))
    high = m.high_conv(torch.cat([f3, F.interpolate(f4, scale_factor=2)], 1))
    joint = torch.cat([low, high], 1) + high.mean(1, keepdim=True)
    mask = m.mask_fc((m.value_conv(joint) * m.gate_conv(joint).sigmoid()).flatten(1)).sigmoid()
    expected = F.normalize(m.solo_fc(f4.mean((2, 3))) * mask, dim=-1)
    torch.testing.assert_close(m([f1, f2, f3, f4]).embedding, expected)


@pytest.mark.parametrize('channels', [(8, 16), (8, 16, 32), (4, 4, 4, 4, 4)])
def test_any_number_of_maps(channels):
    assert MVSA(channels, embed_dim=24)(maps(32, channels)).embedding.shape == (2, 24)


def test_wrong_number_of_maps():
    with pytest.raises(ValueError, match='two or more'):
        MVSA((8,))
    with pytest.raises(ValueError, match='set its out_indices'):
        MVSA((8, 16))(maps(32))


def test_global_pool():
    module, features = GlobalPool(64, 24), maps(32)
    out = module(features)
    torch.testing.assert_close(out.embedding, module.fc(features[-1].mean((2, 3))))
    assert out.tokens.shape == (2, 16, 64)
