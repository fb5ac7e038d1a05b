_base_ = './image_text_256px.py'

data_root = '{{$GALR_DATA_ROOT:data}}/ucm/'
dataset = dict(data_root=data_root, ann_file='dataset_ucm.json')
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(dataset=dataset)
test_dataloader = dict(dataset=dataset)
