"""Pictures for people: volumes beside each other (`projections`) and turning (`movie`), and the charts of reports.

All are drawn on Matplotlib's Agg canvas: no window, and no state that others share. Matplotlib is imported when
something is drawn, so that importing these modules is quick.
"""
