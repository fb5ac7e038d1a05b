# CLIP ViT-B/32 as a dual encoder. pretrained: a tag of open_clip, or a file.
model = dict(type='galr_mm.OpenCLIPRetriever', model_name='ViT-B-32-quickgelu', pretrained='openai')
