"""Trained networks for other programs: bioimage.io packages, Hugging Face, ONNX, TensorFlow's SavedModel; and their cards."""
