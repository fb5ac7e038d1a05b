# GaLR on EfficientNet-Lite0: the dual encoder with objects.
_base_ = './dual_encoder_lite0.py'

model = dict(
    type='galr_mm.GaLR',
    local=dict(
        type='galr_mm.LocalBranch',
        # num_classes: of the detector that made the proposals; 10 is NWPU VHR-10, 15 is DOTA
        drea=dict(type='galr_mm.DREA', num_classes=10, num_nodes=20, iou_thr=0.5, tau=0.95, enhancement='area'),
        gcn=dict(type='galr_mm.GCN', channels=(20, 10, 20)),
    ),
    # 'paper' was behind the plain dual encoder here, see docs/results.md
    fusion=dict(type='galr_mm.MIDF', mode='sum'),
)
