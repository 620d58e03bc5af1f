"""Pictures for people: volumes beside each other and turning, and how a training went.

All are drawn on Matplotlib's Agg canvas: no window, and no state that others share. Matplotlib is imported when
something is drawn, so that importing this module is quick.
"""

from rcan.figures.history import draw_history
from rcan.figures.loading import load_for_view
from rcan.figures.movie import check_movie_kind, write_movie
from rcan.figures.projections import draw_projections
from rcan.figures.rotation import rotate_projections

__all__ = [
    "check_movie_kind",
    "draw_history",
    "draw_projections",
    "load_for_view",
    "rotate_projections",
    "write_movie",
]
