# Sydney-captions (Qu et al., 2016): 497 / 58 / 58 images.
data_root = '{{$GALR_DATA_ROOT:data}}/sydney/'
ann_file = 'dataset_sydney.json'
vocabulary = data_root + 'vocabulary.json'
dataset = dict(data_root=data_root, ann_file=ann_file)
