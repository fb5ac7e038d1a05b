from galr_mm.visualization.ranked_hits import Hit, draw_ranked_hits

__all__ = ['Hit', 'draw_ranked_hits']
