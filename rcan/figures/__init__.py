"""Pictures for people: volumes beside each other and turning, and how a training went.

All are drawn on Matplotlib's Agg canvas: no window, and no state that others share. Matplotlib is imported when
something is drawn, so that importing this module is quick.
"""
