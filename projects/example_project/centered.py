from dataclasses import replace

from galr_mm.registry import RERANKERS


@RERANKERS.register_module()
class CenteredRerank:
    """Subtract each gallery item's mean over all queries, in both directions."""

    def __call__(self, scores):
        """Re-rank raw scores."""
        return replace(scores, i2t=scores.i2t - scores.i2t.mean(0), t2i=scores.t2i - scores.t2i.mean(0))
