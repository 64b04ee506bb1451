"""The interpreter itself: it reads what coremltools writes, and it notices what is wrong."""

import json

import coremltools as ct
import numpy as np
import pytest
from coreml_interpreter.blobs import WeightFile, unpack_bits
from coreml_interpreter.package import Package
from coreml_interpreter.run import Interpreter, MismatchError, UnknownOperatorError
from coremltools.converters.mil.mil import Function, Program, types
from coremltools.libmilstoragepython import _BlobStorageWriter

from diffoundry.targets.coreml.build.mil import mb
from diffoundry.targets.coreml.build.package import write_package

GENERATOR = np.random.default_rng(3)


def save(path, build, opset=ct.target.iOS17, shape=(2, 3), dtype=types.fp32):
    program = Program()
    with Function({"x": mb.placeholder(shape=shape, dtype=dtype)}, opset_version=opset) as function:
        result = build(function.inputs["x"])
        result.name = "y"
        function.set_outputs([result])
    program.add_function("main", function)
    write_package(program, path, opset, {})
    return path


@pytest.fixture
def packaged(tmp_path):
    """Factory: a program of one input `x` and one output `y`, saved."""
    return lambda build, **settings: save(tmp_path / "p.mlpackage", build, **settings)


@pytest.mark.parametrize(
    ("name", "write", "array"),
    [
        ("half", "write_fp16_data", GENERATOR.standard_normal(7).astype(np.float16)),
        ("single", "write_float_data", GENERATOR.standard_normal(7).astype(np.float32)),
        ("int8", "write_int8_data", GENERATOR.integers(-128, 128, 9).astype(np.int8)),
        ("uint8", "write_uint8_data", GENERATOR.integers(0, 256, 9).astype(np.uint8)),
        ("int4", "write_int4_data", GENERATOR.integers(-8, 8, 9).astype(np.int8)),
        ("uint4", "write_uint4_data", GENERATOR.integers(0, 16, 9).astype(np.uint8)),
        ("uint3", "write_uint3_data", GENERATOR.integers(0, 8, 11).astype(np.uint8)),
        ("uint6", "write_uint6_data", GENERATOR.integers(0, 64, 11).astype(np.uint8)),
        ("uint2", "write_uint2_data", GENERATOR.integers(0, 4, 11).astype(np.uint8)),
        ("uint1", "write_uint1_data", GENERATOR.integers(0, 2, 11).astype(np.uint8)),
    ],
    ids=lambda value: value if isinstance(value, str) and not value.startswith("write") else "",
)
def test_it_reads_what_apples_writer_writes(tmp_path, name, write, array):
    """Two records of every type, by the compiled storage library in coremltools' wheel."""
    path = tmp_path / "weight.bin"
    writer = _BlobStorageWriter(str(path))
    given = array.view(np.uint16) if name == "half" else array
    offsets = [getattr(writer, write)(given), getattr(writer, write)(given[::-1].copy())]
    del writer
    file = WeightFile(path)
    assert file.count == 2
    np.testing.assert_array_equal(file.read(offsets[0], array.shape), array)
    np.testing.assert_array_equal(file.read(offsets[1], array.shape), array[::-1])
    with pytest.raises(ValueError, match="no record at offset"):
        file.read(offsets[0] + 8, array.shape)
    with pytest.raises(ValueError, match="record at"):
        file.read(offsets[0], (len(array) + 8,))


def test_bits_as_the_reference_draws_them():
    """The example of `constexpr_lut_to_dense`: 00 11 10 01, then 11 in the next byte."""
    assert unpack_bits(np.array([0b01101100, 0b00000011], np.uint8), 2, 5).tolist() == [0, 3, 2, 1, 3]
    assert unpack_bits(np.array([0b11111000], np.uint8), 4, 2, signed=True).tolist() == [-8, -1]


def test_half_precision_overflows_and_the_value_is_named(packaged):
    path = packaged(
        lambda x: mb.cast(
            x=mb.mul(x=mb.mul(x=mb.cast(x=x, dtype="fp16"), y=np.float16(300), name="large"), y=np.float16(1e-3)),
            dtype="fp32",
        )
    )
    fine = Interpreter(path).run({"x": np.full((2, 3), 100, np.float32)})
    assert fine.non_finite == []
    np.testing.assert_allclose(fine.outputs["y"], 30, rtol=2e-3)
    overflowing = Interpreter(path).run({"x": np.full((2, 3), 300, np.float32)})
    assert overflowing.non_finite[0] == "large"


def test_half_precision_rounds_after_every_operation(packaged):
    path = packaged(
        lambda x: mb.cast(
            x=mb.sub(x=mb.add(x=mb.cast(x=x, dtype="fp16"), y=np.float16(2048)), y=np.float16(2048)), dtype="fp32"
        )
    )
    got = Interpreter(path).run({"x": np.full((2, 3), 0.7, np.float32)}).outputs["y"]
    np.testing.assert_array_equal(got, 0)


def damage(path, change):
    """Change the program of a package in place."""
    file = path / "Data/com.apple.CoreML/model.mlmodel"
    model = ct.proto.Model_pb2.Model()
    model.ParseFromString(file.read_bytes())
    block = next(iter(model.mlProgram.functions["main"].block_specializations.values()))
    change({operation.outputs[0].name: operation for operation in block.operations})
    file.write_bytes(model.SerializeToString())


def test_a_shape_that_is_not_the_declared_one(packaged):
    path = packaged(lambda x: mb.transpose(x=x, perm=[1, 0]))
    damage(
        path, lambda operations: setattr(operations["y"].outputs[0].type.tensorType.dimensions[0].constant, "size", 4)
    )
    with pytest.raises(MismatchError, match=r"transpose y: computed shape \(3, 2\), declared \(4, 2\)"):
        Interpreter(path).run({"x": np.zeros((2, 3), np.float32)})


def test_a_kind_of_number_that_is_not_the_declared_one(packaged):
    path = packaged(lambda x: mb.cast(x=mb.equal(x=x, y=np.float32(0), name="e"), dtype="fp32"))
    damage(path, lambda operations: setattr(operations["e"].outputs[0].type.tensorType, "dataType", 11))
    with pytest.raises(MismatchError, match="equal e: computed bool, declared float32"):
        Interpreter(path).run({"x": np.zeros((2, 3), np.float32)})


def test_an_operator_that_it_does_not_know(packaged):
    with pytest.raises(UnknownOperatorError, match="atan"):
        Interpreter(packaged(lambda x: mb.atan(x=x)))


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": np.zeros((3, 2), np.float32)}, r"input x: got float32 \(3, 2\)"),
        ({"x": np.zeros((2, 3), np.float16)}, r"input x: got float16 \(2, 3\)"),
        ({}, r"got the inputs \[\], described \['x'\]"),
    ],
)
def test_feeds_that_the_model_does_not_describe(packaged, feeds, message):
    with pytest.raises(MismatchError, match=message):
        Interpreter(packaged(lambda x: mb.relu(x=x))).run(feeds)


def test_a_negative_index_is_out_of_bounds_from_ios_17_on(packaged):
    def look_up(x):
        return mb.gather(x=np.arange(5, dtype=np.float32), indices=x, axis=0, validate_indices=False)

    settings = {"shape": (3,), "dtype": types.int32}
    path = packaged(look_up, **settings)
    operations = Package(path).functions["main"].operations
    assert "select" in {operation.type for operation in operations}, "the pass that guards lookups"
    got = Interpreter(path).run({"x": np.array([0, -1, 2], np.int32)}).outputs["y"]
    assert got.tolist() == [0, 4, 2]


def test_the_same_program_gives_the_same_bytes(tmp_path):
    def build(x):
        return mb.linear(x=x, weight=np.arange(12, dtype=np.float32).reshape(4, 3))

    packages = [save(tmp_path / f"{name}.mlpackage", build) for name in ("one", "two")]
    files = [sorted(path.relative_to(p) for path in p.rglob("*") if path.is_file()) for p in packages]
    assert files[0] == files[1]
    for file in files[0]:
        assert (packages[0] / file).read_bytes() == (packages[1] / file).read_bytes()
    assert json.loads((packages[0] / "Manifest.json").read_text())["rootModelIdentifier"]
