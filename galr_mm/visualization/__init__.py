from galr_mm.visualization.objects import draw_graph, draw_sample
from galr_mm.visualization.ranked_hits import Hit, draw_ranked_hits
from galr_mm.visualization.rerank_sweep import draw_sweep

__all__ = ['Hit', 'draw_graph', 'draw_ranked_hits', 'draw_sample', 'draw_sweep']
