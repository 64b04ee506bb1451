"""Errors reach other processes with their class, message and attributes."""

import inspect
import pickle

from diffoundry.runtime import errors


def test_errors_can_be_pickled():
    made = {
        errors.UnknownArgumentError: ("stpes", ["steps", "seed"]),
        errors.QueueFullError: (3, 2.5),
        errors.MissingExtraError: ("'--ray'", "ray", "ray"),
    }
    classes = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, errors.DiffoundryError)]
    assert made.keys() <= {*classes}
    for cls in classes:
        error = cls(*made.get(cls, ("a: got 1, expected 2",)))
        error.args = (f"--{error}",)  # commands name the option as the user typed it
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), copy.args, vars(copy)) == (cls, error.args, vars(error))
    assert str(pickle.loads(pickle.dumps(errors.MissingExtraError("'--ray'", "ray", "ray")))).startswith(
        "'--ray' needs"
    )
