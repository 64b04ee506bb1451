"""One ONNX graph of a whole pipeline: encoders, denoising loop and decoder.

The runtime's own pipeline runs once with arrays that record operators instead of computing, `GraphArray`, and with
engines that record their calls, `RecordingSession`. What was recorded becomes the graph, so that it does what the
pipeline does, for every family whose arithmetic between the networks can be recorded.
"""
