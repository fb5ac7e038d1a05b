from galr_mm.visualization.objects import draw_graph, draw_sample
from galr_mm.visualization.ranked_hits import Hit, draw_ranked_hits
from galr_mm.visualization.rerank_sweep import draw_sweep
from galr_mm.visualization.results import draw_classes, draw_curves, draw_differences

__all__ = [
    'Hit',
    'draw_classes',
    'draw_curves',
    'draw_differences',
    'draw_graph',
    'draw_ranked_hits',
    'draw_sample',
    'draw_sweep',
]
