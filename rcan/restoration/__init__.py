"""Restoring: any Keras model (`engine`) over any volume (`tiles`, `blocks`), and over image files (`files`)."""
