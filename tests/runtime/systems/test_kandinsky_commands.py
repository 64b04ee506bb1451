"""Commands on Kandinsky's priors and decoders: verify judges embeddings where there is no image."""

import json

import diffusers
import pytest
from click.testing import CliRunner
from tiny_kandinsky import DDIM, make_decoder, make_prior, make_text_decoder

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.verify.cross_engine import compare_engines
from diffoundry.exporter.verify.report.page import variant_row
from diffoundry.exporter.verify.request import VerifyRequest
from diffoundry.exporter.verify.run import verify
from diffoundry.runtime.cli.bench import command as bench
from diffoundry.runtime.cli.inspect import command as inspect
from diffoundry.runtime.errors import InputError

NAMES = (
    "KandinskyV22PriorPipeline",
    pytest.param("KandinskyV22Pipeline", marks=pytest.mark.slow),
    pytest.param("KandinskyV22InpaintPipeline", marks=pytest.mark.slow),
    pytest.param("KandinskyPipeline", marks=pytest.mark.slow),
)


@pytest.fixture(scope="module")
def folders(system_checkpoint):
    def find(name):
        scheduler = diffusers.DDIMScheduler(**DDIM)
        if "Prior" in name:
            return system_checkpoint("kandinsky-prior", make_prior)
        make = make_decoder if "V22" in name else make_text_decoder
        return system_checkpoint(name, lambda folder: make(folder, name, scheduler))

    return find


@pytest.mark.parametrize("name", NAMES)
def test_verify(folders, exported, name):
    folder = folders(name)
    bundle = exported(folder, target="onnxruntime,openvino")
    request = VerifyRequest(steps=2, guidance_scale=3.0, prompts=("a cat",), target="onnxruntime")
    report = verify(bundle, open_checkpoint(str(folder)), request)
    checks = [*report.checks, *(check for variant in report.variants for check in variant.checks)]
    assert report.passed, [check for check in checks if not check.passed]
    (variant,) = report.variants
    judged = {check.measure for check in variant.checks if check.part in ("loop", "image")}
    loop = variant.loops[0]
    if "Prior" in name:
        assert "embeddings, max abs error / RMS" in judged
        assert not judged & {"PSNR, dB", "SSIM"}
        assert 0 <= loop.embeddings < 1e-4
        assert variant_row(variant)[1:5] == ["–"] * 4
    else:
        assert {"PSNR, dB", "SSIM"} <= judged
        assert loop.embeddings is None
    covered = {output.component for output in variant.outputs}
    assert covered == set(variant.engines)


def test_compare_refuses_a_prior(folders, exported):
    bundle = exported(folders(NAMES[0]), target="onnxruntime,openvino")
    with pytest.raises(InputError, match="got a KandinskyV22PriorPipeline, which makes embeddings and no image"):
        compare_engines(bundle)


@pytest.mark.parametrize("name", NAMES[:2])
def test_bench_and_inspect(folders, exported, name):
    bundle = exported(folders(name), target="onnxruntime,openvino")
    arguments = ["--steps", "2", "--repeats", "1", "--warmups", "0", "--target", "onnxruntime", "--json"]
    result = CliRunner().invoke(bench, [str(bundle), *arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    image = json.loads(result.stdout)["work"]
    assert (image["width"], image["height"]) == ((32, 1) if "Prior" in name else (16, 16))
    result = CliRunner().invoke(inspect, [str(bundle), "--json"])
    assert result.exit_code == 0, result.output
    family = json.loads(result.stdout)["manifest"]["family"]
    assert family == ("kandinsky_prior" if "Prior" in name else "kandinsky_2_2")
