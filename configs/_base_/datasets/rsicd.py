# RSICD (Lu et al., 2018): 9,828 images for training and validation, 1,093 for the test.
data_root = '{{$GALR_DATA_ROOT:data}}/rsicd/'
ann_file = 'dataset_rsicd.json'
vocabulary = data_root + 'vocabulary.json'
dataset = dict(data_root=data_root, ann_file=ann_file)
