"""Trained networks for other programs: bioimage.io, Hugging Face, ONNX, TensorFlow's SavedModel; and their cards."""
