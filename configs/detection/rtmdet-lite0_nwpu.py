"""RTMDet's neck and head on an EfficientNet-Lite0 with ImageNet weights, NWPU VHR-10 at 320 px.

The weights come with the extra galr_mm[pretrained]. Other seeds: --cfg-options randomness.seed=1
"""

_base_ = './rtmdet-tiny_nwpu.py'

max_epochs = 20
width = 96
model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], bgr_to_rgb=True),
    backbone=dict(
        _delete_=True,
        type='galr_mm.EfficientNetLite',
        variant='lite0',
        pretrained=True,
        out_indices=(3, 5, 7),  # strides 8, 16, 32
        frozen_stages=2,  # to stride 4
    ),
    # one width before the pyramid, as in PicoDet: stage 3 has 40 channels, few for objects at stride 8
    neck=[
        dict(
            type='mmdet.ChannelMapper',
            in_channels=[40, 112, 320],
            out_channels=width,
            kernel_size=1,
            norm_cfg={{_base_.norm_cfg}},
            act_cfg={{_base_.act_cfg}},
        ),
        dict(
            type='mmdet.CSPNeXtPAFPN',
            in_channels=[width, width, width],
            out_channels=width,
            num_csp_blocks=1,
            expand_ratio=0.5,
            norm_cfg={{_base_.norm_cfg}},
            act_cfg={{_base_.act_cfg}},
        ),
    ],
)
# a custom key takes the place of norm_decay_mult and bias_decay_mult
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.2, decay_mult=0.0))))
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR', eta_min=2e-5, begin=1, T_max=max_epochs - 1, end=max_epochs, by_epoch=True,
        convert_to_iter_based=True,
    ),
]  # fmt: skip
