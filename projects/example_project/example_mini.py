_base_ = '../../configs/galr_mini.py'

custom_imports = dict(imports=['projects.example_project.centered', 'projects.example_project.word_mean'])
model = dict(text_encoder=dict(_delete_=True, type='galr_mm.WordMean', vocabulary='data/mini/vocabulary.json'))
rerank = ['mr', dict(type='CenteredRerank', prefix='centered')]
