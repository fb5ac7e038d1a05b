# UCM-captions (Qu et al., 2016): 1,680 / 210 / 210 images.
data_root = '{{$GALR_DATA_ROOT:data}}/ucm/'
ann_file = 'dataset_ucm.json'
vocabulary = data_root + 'vocabulary.json'
dataset = dict(data_root=data_root, ann_file=ann_file)
