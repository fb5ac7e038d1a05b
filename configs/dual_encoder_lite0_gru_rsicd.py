"""A plain dual encoder on RSICD: EfficientNet-Lite0 from ImageNet, its last stages trained, and a bi-GRU."""

_base_ = './dual_encoder_lite0_rsicd.py'

model = dict(
    text_encoder=dict(_delete_=True, type='galr_mm.BiGRUEncoder', vocabulary={{_base_.vocabulary}}, dropout=0.3)
)
