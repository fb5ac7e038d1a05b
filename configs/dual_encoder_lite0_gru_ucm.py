"""A plain dual encoder on UCM-captions: EfficientNet-Lite0 from ImageNet, its last stages trained, and a bi-GRU."""

_base_ = './dual_encoder_lite0_ucm.py'

# half as wide as elsewhere: on a CPU the GRU would cost more than the image tower
text_encoder = dict(
    _delete_=True,
    type='galr_mm.BiGRUEncoder',
    vocabulary={{_base_.vocabulary}},
    hidden_dim=256,
    dropout=0.3,
)
model = dict(text_encoder=text_encoder)
