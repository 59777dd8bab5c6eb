"""Prediction: sliding windows, masks and maps, results on disk, scores, ONNX."""
