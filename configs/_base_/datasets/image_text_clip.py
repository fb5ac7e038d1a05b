# As image_text_256px.py, for a CLIP: the size of the images and how they are resized are the model's own, and so are
# mean and std, which the model brings itself. `model_name` is that of the model; one
# that is resized alike serves (224 px, crop at the center: OpenAI's, RemoteCLIP, GeoRSCLIP, not SigLIP).
_base_ = './image_text_256px.py'

data_preprocessor = None
train_pipeline = [
    dict(type='galr_mm.OpenCLIPPreprocess', model_name='ViT-B-32-quickgelu', scale=(0.7, 1.0)),
    dict(type='mmengine.RandomFlip', prob=[0.25, 0.25], direction=['horizontal', 'vertical']),
    dict(type='galr_mm.PackRetrievalInputs'),
]
test_pipeline = [
    dict(type='galr_mm.OpenCLIPPreprocess', model_name='ViT-B-32-quickgelu'),
    dict(type='galr_mm.PackRetrievalInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
