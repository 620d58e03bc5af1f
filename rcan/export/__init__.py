"""Trained networks for other programs: bioimage.io packages, ONNX and TensorFlow's SavedModel."""
