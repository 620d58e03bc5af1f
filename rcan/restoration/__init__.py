"""Restoring: any Keras model (`engine`) over volumes (`tiles`, `tiled`), files (`file`) and folders (`folder`)."""
