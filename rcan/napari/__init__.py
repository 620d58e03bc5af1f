"""The plug-in of napari: restore a layer, train on pairs, and look at reports; `napari.yaml` tells napari what is here.

Work is done in other threads, training and studies in processes of their own: napari stays alive whatever happens.
"""
