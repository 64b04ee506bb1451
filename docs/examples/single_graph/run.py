"""Generates an image with a bundle's one graph; python run.py MODEL INPUTS IMAGE."""

import sys

import numpy as np
import onnxruntime
from PIL import Image

model, inputs, output = sys.argv[1:]
session = onnxruntime.InferenceSession(model)
feeds = {one.name: np.load(f"{inputs}/{one.name}.npy") for one in session.get_inputs()}
(images,) = session.run(["image"], feeds)
Image.fromarray(np.concatenate(images)).save(output)  # one below the other
