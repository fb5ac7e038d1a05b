# RSITMD (Yuan et al., 2022): 4,291 training images (20 % of them drawn for validation), 452 for the test.
data_root = '{{$GALR_DATA_ROOT:data}}/rsitmd/'
ann_file = 'dataset_rsitmd.json'
vocabulary = data_root + 'vocabulary.json'
dataset = dict(data_root=data_root, ann_file=ann_file)
