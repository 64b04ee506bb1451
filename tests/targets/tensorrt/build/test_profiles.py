"""Shape profiles: what recipes, buckets and users make of them, and the messages before TensorRT's own."""

import re

import pytest

from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.errors import ConfigError
from diffoundry.targets.default_sizes import DefaultSizes
from diffoundry.targets.tensorrt.build.profiles import Profile, Range, make_profiles, shapes_of

FREE = {"batch": DimSpec(), "height": DimSpec(min=8, multiple_of=8), "width": DimSpec(min=8, multiple_of=8)}

SAMPLE = TensorSpec(name="sample", dtype="float32", shape=("batch", 4, "height/8", "width/8"))
STATES = TensorSpec(name="encoder_hidden_states", dtype="float32", shape=("batch", "sequence", 768))
TIMESTEP = TensorSpec(name="timestep", dtype="float32", shape=(1,))


def only(profiles):
    (profile,) = profiles
    return profile


def test_free_sizes_are_laid_around_what_the_checkpoint_was_made_for():
    profile = only(make_profiles({}, FREE, (), DefaultSizes(height=512, width=512)))
    assert profile.name == "default"
    assert profile.dims == {
        "batch": Range(min=1, opt=2, max=4),
        "height": Range(min=256, opt=512, max=768),
        "width": Range(min=256, opt=512, max=768),
        "sequence": Range(min=77, opt=77, max=77),
    }
    assert shapes_of(profile, (SAMPLE, TIMESTEP, STATES)) == {
        "sample": ((1, 4, 32, 32), (2, 4, 64, 64), (4, 4, 96, 96)),
        "encoder_hidden_states": ((1, 77, 768), (2, 77, 768), (4, 77, 768)),
    }
    assert not profile.static


def test_small_checkpoints_keep_to_the_multiple():
    dims = {**FREE, "height": DimSpec(min=64, multiple_of=64)}
    height = only(make_profiles({}, dims, (), DefaultSizes(height=64, width=64))).dims["height"]
    assert height == Range(min=64, opt=64, max=64)


def test_ranges_of_the_recipe_are_kept_and_the_native_size_preferred_within_them():
    dims = {
        "batch": DimSpec(min=2, max=8),
        "height": DimSpec(min=640, max=1024, multiple_of=8),
        "width": DimSpec(min=512, max=512, multiple_of=8),
    }
    profile = only(make_profiles({}, dims, (), DefaultSizes()))
    assert profile.dims["batch"] == Range(min=2, opt=2, max=8)
    assert profile.dims["height"] == Range(min=640, opt=640, max=1024)
    assert profile.dims["width"] == Range(min=512, opt=512, max=512)


def test_each_bucket_is_a_profile_of_its_own_named_as_images_are():
    dims = {**FREE, "batch": DimSpec(min=2, max=2)}
    tall, wide = make_profiles({}, dims, ((768, 512), (512, 768)), DefaultSizes())
    assert (tall.name, wide.name) == ("512x768", "768x512")
    assert shapes_of(tall, (SAMPLE,)) == {"sample": ((2, 4, 96, 64),) * 3}
    assert tall.static


def test_the_users_profiles_fill_up_from_the_default():
    given = {"small": {"height": [256, 256, 512]}, "batchy": {"batch": [1, 4, 8], "sequence": [77, 77, 231]}}
    small, batchy = make_profiles(given, FREE, (), DefaultSizes())
    assert small.dims["height"] == Range(min=256, opt=256, max=512)
    assert small.dims["width"] == Range(min=256, opt=512, max=768)
    assert batchy.dims["sequence"] == Range(min=77, opt=77, max=231)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"depth": [1, 1, 1]},
            "dimension 'depth': got an unknown name, expected one of batch, height, width, sequence",
        ),
        ({"batch": [1, 2]}, "dimension 'batch': got [1, 2], expected three whole numbers [min, opt, max]"),
        ({"batch": [1, 2.0, 4]}, "got [1, 2.0, 4], expected three whole numbers"),
        ({"batch": [True, 2, 4]}, "got [True, 2, 4], expected three whole numbers"),
        ({"batch": [4, 2, 8]}, "dimension 'batch': got [4, 2, 8], expected 1 <= min <= opt <= max; sort them"),
        ({"batch": [0, 2, 8]}, "got [0, 2, 8], expected 1 <= min"),
        ({"batch": [1, 2, 16]}, "dimension 'batch': got 16, expected 1 to 8, as the bundle's recipe says"),
        ({"height": [252, 512, 512]}, "dimension 'height': got 252, expected a multiple of 8, as the bundle's recipe"),
        ([1, 2, 3], "profile 'mine': got [1, 2, 3], expected a name and an object such as {"),
    ],
)
def test_a_wrong_profile_is_refused_in_our_words(sizes, message):
    dims = {**FREE, "batch": DimSpec(min=1, max=8)}
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_profiles({"mine": sizes}, dims, (), DefaultSizes())


def test_profiles_and_buckets_at_once_are_refused():
    with pytest.raises(ConfigError, match="got them together with buckets, expected one of the two ways to name sizes"):
        make_profiles({"mine": {}}, FREE, ((512, 512),), DefaultSizes())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (("frames", 4), "input 'x', dimension 'frames': got one that no range is known for, expected batch"),
        (("height/x", 4), "dimension 'height/x': got one that no range is known for"),
        (("height/16", 4), "dimension 'height/16': got height 8, expected a multiple of 16; change the profile"),
    ],
)
def test_a_dimension_that_does_not_come_out_is_refused(shape, message):
    profile = Profile(name="default", dims={"batch": Range(min=1, opt=1, max=1), "height": Range(min=8, opt=8, max=8)})
    with pytest.raises(ConfigError, match=re.escape(message)):
        shapes_of(profile, (TensorSpec(name="x", dtype="float32", shape=shape),))
