_base_ = '../../configs/galr_mini.py'

custom_imports = dict(imports=['projects.example_project.centred'])
rerank = ['mr', dict(type='CentredRerank', prefix='centred')]
