from __future__ import annotations

from typing import Any, cast

from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.nn import functional as F

from galr_mm.models.graph.local_branch import LocalBranch
from galr_mm.models.retrievers.dual_encoder import DualEncoder, build, check_cached
from galr_mm.registry import MODELS
from galr_mm.structures import ObjectGraph


@MODELS.register_module()
class GaLR(DualEncoder):
    """Global and local retrieval (Yuan et al., IEEE TGRS 2022, doi 10.1109/TGRS.2022.3163706).

    The image tower has two branches: backbone -> MVSA, and proposals -> DREA -> GCN; MIDF fuses them. Either branch can
    stand alone: ``local=None`` is the global branch, ``backbone=None, visual=None`` the local one. What is not wanted
    is not built, nor is a fusion of one branch.

    Args:
        backbone: gives feature maps, from fine to coarse.
        visual: the global encoder over them, :class:`galr_mm.MVSA` or :class:`galr_mm.CLIPEmbedding`.
        text_encoder: :class:`galr_mm.BiGRUEncoder` or another.
        local: :class:`galr_mm.LocalBranch`; its widths follow from ``visual``.
        fusion: :class:`galr_mm.MIDF`; its widths follow from ``visual`` and ``local``.
        loss, neck, precision, data_preprocessor, cached, micro_batch: see :class:`galr_mm.DualEncoder`.

    Shapes:
        - input: normalized images (B, 3, H, W) and their :class:`ObjectGraph`
        - output: features (B, D), L2-normalized

    Raises:
        ValueError: when no branch is given, or two without a fusion.
    """

    def __init__(
        self,
        backbone: dict[str, Any] | nn.Module | None,
        visual: dict[str, Any] | nn.Module | None,
        text_encoder: dict[str, Any] | nn.Module,
        local: dict[str, Any] | nn.Module | None = None,
        fusion: dict[str, Any] | nn.Module | None = None,
        loss: dict[str, Any] | nn.Module | None = None,
        neck: dict[str, Any] | nn.Module | None = None,
        precision: str = 'fp32',
        data_preprocessor: dict[str, Any] | nn.Module | None = None,
        cached: int | str | None = None,
        micro_batch: int | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        if (backbone is None) != (visual is None):
            raise ValueError('backbone and visual make up the global branch: give both, or None for both')
        if backbone is None and local is None:
            raise ValueError('GaLR needs a global branch (backbone and visual), a local branch (local), or both')
        both = backbone is not None and local is not None
        if both and fusion is None:
            raise ValueError("two branches need a fusion, e.g. fusion=dict(type='galr_mm.MIDF')")
        super().__init__(
            backbone=backbone,
            visual=visual,
            text_encoder=text_encoder,
            loss=loss,
            neck=neck,
            precision=precision,
            data_preprocessor=data_preprocessor,
            cached=cached,
            micro_batch=micro_batch,
            init_cfg=init_cfg,
        )
        follows: dict[str, Any] = {}
        if self.visual is not None:
            follows = dict(in_channels=self.visual.in_channels, embed_dim=self.visual.embed_dim)
        self.local = cast('LocalBranch | None', build(local, **follows))
        self.fusion: nn.Module | None = None
        if self.visual is not None and self.local is not None:
            self.fusion = build(
                fusion,
                dim=self.visual.embed_dim,
                global_channels=self.visual.token_channels,
                local_channels=self.local.token_channels,
            )
        self.register_load_state_dict_pre_hook(_rename_local_keys)
        check_cached(self, cached)  # again, with all parts

    def map_readers(self) -> list[str]:
        """As of the dual encoder, and of the branches; a fusion of another kind says so by ``reads_tokens``."""
        local, fusion = getattr(self, 'local', None), getattr(self, 'fusion', None)  # not there yet in the first check
        reads = {
            'local.roi': getattr(local, 'roi', None) is not None,
            'fusion': getattr(fusion, 'reads_tokens', False),
        }
        return super().map_readers() + [name for name, does in reads.items() if does]

    def encode_image(self, images: Tensor, graph: ObjectGraph | None = None) -> Tensor:
        """L2-normalized features (B, D) of normalized images (B, 3, H, W) and their object graphs.

        Without graphs no image has objects: the local branch is a constant.
        """
        if self.local is None:
            return super().encode_image(images)
        graph = self.local.empty_graph(images) if graph is None else graph
        if self.visual is None or self.fusion is None:
            return F.normalize(self.local(graph).embedding, dim=-1)
        features = self.extract_maps(images)
        g_tokens, v_g = self.visual(*features)
        l_tokens, v_l, mask = self.local(graph, features.maps)
        return F.normalize(self.fusion(v_g, v_l, g_tokens, l_tokens, mask), dim=-1)

    def build_graph(self, images: Tensor, data_samples: list[DataSample] | None) -> ObjectGraph | None:
        """Object graphs from the proposals that the samples bring or the detector finds; None where there are none."""
        return None if self.local is None else self.local.build_graph(images, data_samples or [])


def _rename_local_keys(model: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Checkpoints of before the local branch was a module of its own have ``gcn.*`` and ``roi.*`` beside it."""
    for key in list(state_dict):
        if key.startswith((f'{prefix}gcn.', f'{prefix}roi.')):
            state_dict[f'{prefix}local.{key.removeprefix(prefix)}'] = state_dict.pop(key)
