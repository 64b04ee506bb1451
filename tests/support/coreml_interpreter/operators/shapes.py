"""Operators that move numbers."""

import numpy as np

from coreml_interpreter.operators.elementwise import wide

__all__ = ["OPERATORS"]


def reshape(x, shape):
    """A zero in the shape keeps the size of its place, counted from the right."""
    sizes = [int(size) for size in shape]
    for place, size in enumerate(sizes):
        if size == 0:
            from_right = len(sizes) - place
            sizes[place] = x.shape[-from_right] if from_right <= x.ndim else 1
    return x.reshape(sizes)


def squeeze(x, axes=None):
    axes = range(x.ndim) if axes is None else [int(axis) % x.ndim for axis in axes]
    return x.squeeze(tuple(axis for axis in axes if x.shape[axis] == 1))


def concat(values, axis, interleave=False):
    if not interleave:
        return np.concatenate(values, axis=int(axis))
    stacked = np.stack(values, axis=int(axis) % values[0].ndim + 1)
    shape = list(values[0].shape)
    shape[int(axis)] *= len(values)
    return stacked.reshape(shape)


def split(x, axis, num_splits=None, split_sizes=None):
    if split_sizes is None:
        return tuple(np.split(x, int(num_splits), axis=int(axis)))
    return tuple(np.split(x, np.cumsum(split_sizes)[:-1], axis=int(axis)))


def slice_by_index(x, begin, end, stride=None, begin_mask=None, end_mask=None, squeeze_mask=None):
    no = np.zeros(x.ndim, bool)
    begin_mask, end_mask, squeeze_mask = (no if mask is None else mask for mask in (begin_mask, end_mask, squeeze_mask))
    stride = np.ones(x.ndim, int) if stride is None else stride
    index = []
    for axis in range(x.ndim):
        if squeeze_mask[axis]:
            index.append(int(begin[axis]))
        else:
            first = None if begin_mask[axis] else int(begin[axis])
            last = None if end_mask[axis] else int(end[axis])
            index.append(slice(first, last, int(stride[axis])))
    return x[tuple(index)]


def slice_by_size(x, begin, size):
    sizes = [
        x.shape[axis] - int(first) if int(count) == -1 else int(count)
        for axis, (first, count) in enumerate(zip(begin, size, strict=True))
    ]
    return x[tuple(slice(int(first), int(first) + count) for first, count in zip(begin, sizes, strict=True))]


def pad(x, pad, mode="constant", constant_val=0):
    pairs = np.asarray(pad).reshape(-1, 2).tolist()
    pairs = [[0, 0]] * (x.ndim - len(pairs)) + pairs
    if mode == "constant":
        return np.pad(x, pairs, constant_values=constant_val)
    return np.pad(x, pairs, mode={"replicate": "edge", "reflect": "reflect"}[mode])


def upsample_nearest_neighbor(x, scale_factor_height=1, scale_factor_width=1):
    for axis, factor in ((-2, scale_factor_height), (-1, scale_factor_width)):
        size = x.shape[axis]
        wanted = int(np.floor(size * factor))
        x = np.take(x, np.minimum((np.arange(wanted) / factor).astype(int), size - 1), axis=axis)
    return x


def pixel_shuffle(x, upscale_factor):
    batch, channels, height, width = x.shape
    side = int(upscale_factor)
    blocks = x.reshape(batch, channels // side**2, side, side, height, width)
    return blocks.transpose(0, 1, 4, 2, 5, 3).reshape(batch, -1, height * side, width * side)


def upsample_bilinear(x, scale_factor_height=1, scale_factor_width=1, align_corners=True):
    x = wide(x)
    for axis, factor in ((-2, scale_factor_height), (-1, scale_factor_width)):
        size = x.shape[axis]
        wanted = int(np.floor(size * factor))
        rows = np.arange(wanted)
        place = rows * (size - 1) / max(wanted - 1, 1) if align_corners else (rows + 0.5) * size / wanted - 0.5
        place = np.clip(place, 0, size - 1)
        low = np.floor(place).astype(int)
        part = np.reshape((place - low).astype(np.float32), [-1 if -axis == number else 1 for number in (2, 1)])
        x = np.take(x, low, axis=axis) * (1 - part) + np.take(x, np.minimum(low + 1, size - 1), axis=axis) * part
    return x


OPERATORS = {
    "concat": concat,
    "expand_dims": lambda x, axes: np.expand_dims(x, tuple(int(axis) for axis in np.atleast_1d(axes))),
    "pad": pad,
    "pixel_shuffle": pixel_shuffle,
    "reshape": reshape,
    "shape": lambda x: np.array(x.shape, np.int32),
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "split": split,
    "squeeze": squeeze,
    "stack": lambda values, axis: np.stack(values, axis=int(axis)),
    "tile": lambda x, reps: np.tile(x, [int(number) for number in reps]),
    "transpose": lambda x, perm: np.transpose(x, [int(axis) for axis in perm]),
    "upsample_bilinear": lambda x, align_corners=True, **factors: upsample_bilinear(
        x, **{key: float(wide(np.asarray(factor))) for key, factor in factors.items()}, align_corners=align_corners
    ),
    "upsample_nearest_neighbor": lambda x, **factors: upsample_nearest_neighbor(
        x, **{key: float(wide(np.asarray(factor))) for key, factor in factors.items()}
    ),
}
