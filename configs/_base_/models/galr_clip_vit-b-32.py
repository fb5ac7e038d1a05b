# GaLR on CLIP ViT-B/32: CLIP's embedding is the global feature, objects come in by DREA, GCN and MIDF.
clip = dict(model_name='ViT-B-32-quickgelu', pretrained='openai')
model = dict(
    type='galr_mm.GaLR',
    backbone=dict(type='galr_mm.OpenCLIPBackbone', **clip),
    visual=dict(type='galr_mm.CLIPEmbedding'),
    local=dict(
        type='galr_mm.LocalBranch',
        # num_classes: of the detector that made the proposals; 10 is NWPU VHR-10, 15 is DOTA
        drea=dict(type='galr_mm.DREA', num_classes=10, num_nodes=20, iou_thr=0.5, tau=0.95, enhancement='area'),
        gcn=dict(type='galr_mm.GCN', channels=(20, 10, 20)),
    ),
    fusion=dict(type='galr_mm.MIDF', mode='paper'),
    text_encoder=dict(type='galr_mm.OpenCLIPTextEncoder', **clip),
    loss=dict(type='galr_mm.ContrastiveLoss', temperature=0.01),  # that of CLIP's weights
)
