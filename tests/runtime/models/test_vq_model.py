"""VQModel and MoVQ against diffusers: the graphs of both halves, codes, and everything between and around them."""

import types

import diffusers
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from diffusers.models.autoencoders.vae import VectorQuantizer
from ldm_checkpoints import make_vq_model
from safetensors.numpy import save_file

from diffoundry.exporter.components.defaults import complete_config
from diffoundry.exporter.components.vae import vae_decoder, vae_encoder
from diffoundry.exporter.passes import OPSET
from diffoundry.exporter.steps.trace import trace
from diffoundry.exporter.steps.weight_tables import save_tables
from diffoundry.runtime.errors import BundleError, CheckpointError, ConfigError, InputError
from diffoundry.runtime.models.registry import open_vae
from diffoundry.runtime.models.vq_model import CODEBOOK, VQModel
from diffoundry.runtime.models.weight_tables import TABLES

VQ = ("VQModel",)


class Session:
    """ONNX Runtime over both traced halves, with the files of a bundle in a folder."""

    def __init__(self, module, folder, source):
        configs = {source: complete_config(dict(module.config), "VQModel")}
        self.components = {
            kind.name: kind.describe(configs) for kind in (vae_encoder(source, VQ), vae_decoder(source, VQ))
        }
        self.opened = {}
        for name, component in self.components.items():
            graph = ir.to_proto(trace(module, component, opset=OPSET))
            self.opened[name] = onnxruntime.InferenceSession(graph.SerializeToString())
            (folder / name).mkdir()
            save_tables(module, component.tables, folder / name)
        self.bundle = types.SimpleNamespace(
            root=folder,
            manifest=None,
            component=lambda role: role,
            config=lambda _: configs[source],
            network=lambda _: "VQModel",
            file=lambda name: folder / name,
        )

    def run(self, name, feeds):
        component = self.components[name]
        return dict(zip([spec.name for spec in component.outputs], self.opened[name].run(None, feeds), strict=True))


@pytest.fixture(scope="module", params=["group", "spatial"])
def pair(request, tmp_path_factory):
    """diffusers' network, and ours."""
    module = make_vq_model(request.param)
    session = Session(module, tmp_path_factory.mktemp("vq"), "vqvae" if request.param == "group" else "movq")
    return module, open_vae(session)


@pytest.mark.slow_cases("spatial")
def test_images_latents_and_codes_are_those_of_diffusers(pair):
    theirs, ours = pair
    assert isinstance(ours, VQModel)
    assert (ours.scale_factor, ours.latent_channels, ours.codes) == (2, theirs.config.vq_embed_dim, 40)
    channels = ours.latent_channels
    assert ours.scaling_factor == theirs.config.scaling_factor
    for batch, height, width in ((1, 8, 8), (3, 5, 9)):
        pixels = torch.randn(batch, 3, 2 * height, 2 * width, generator=torch.Generator().manual_seed(height))
        latents = theirs.encode(pixels).latents
        np.testing.assert_allclose(ours.mode(pixels.numpy()), latents.numpy(), atol=1e-5)
        np.testing.assert_array_equal(ours.sample(pixels.numpy(), None), ours.mode(pixels.numpy()))
        scaled = torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(width))
        _, _, (_, _, codes) = theirs.quantize(scaled)
        mine = ours.quantize(scaled.numpy())
        np.testing.assert_array_equal(mine, codes.reshape(batch, height, width).numpy())
        assert len(np.unique(mine)) > 20
        entries = theirs.quantize.get_codebook_entry(codes, (batch, height, width, channels)).numpy()
        np.testing.assert_array_equal(ours.look_up(mine), entries)
        decoded = theirs.decode(scaled).sample.numpy()
        np.testing.assert_allclose(ours.decode(scaled.numpy()), decoded, atol=3e-5 * np.abs(decoded).max())
        plain = theirs.decode(scaled, force_not_quantize=True).sample.numpy()
        np.testing.assert_allclose(ours.decode(scaled.numpy(), quantize=False), plain, atol=3e-5 * np.abs(plain).max())
        assert np.abs(plain - decoded).max() > 0.05 * np.abs(plain).max()


@pytest.mark.slow
def test_a_codebook_may_be_asked_for_codes(pair, monkeypatch):
    """diffusers: `lookup_from_codebook`, with which undecoded latents are codes."""
    theirs, ours = pair
    monkeypatch.setattr(ours, "looks_up", True)
    codes = torch.randint(0, 40, (2, 6, 4), generator=torch.Generator().manual_seed(1))
    theirs.register_to_config(lookup_from_codebook=True)
    expected = theirs.decode(codes, force_not_quantize=True, shape=(2, 6, 4, ours.latent_channels)).sample.numpy()
    given = ours.decode(codes.numpy().astype(np.float32), quantize=False)
    np.testing.assert_allclose(given, expected, atol=3e-5 * np.abs(expected).max())


def test_the_nearest_code_is_exact():
    """Against distances in float64, where those of diffusers in float32 are equal or in the wrong order."""
    random = np.random.default_rng(0)
    book = (100 + random.standard_normal((3000, 4)) * 1e-3).astype(np.float32)
    book[7] = book[5]
    ours = VQModel.__new__(VQModel)
    ours.codebook, ours.codes, ours.latent_channels = book, len(book), 4
    latents = (100 + random.standard_normal((2, 4, 50, 11)) * 1e-3).astype(np.float32)
    latents[0, :, 0, 0] = book[7]
    wide = torch.from_numpy(latents).double().permute(0, 2, 3, 1).reshape(-1, 1, 4)
    expected = (wide - torch.from_numpy(book).double()).square().sum(-1).argmin(1).reshape(2, 50, 11).numpy()
    given = ours.quantize(latents)
    assert given[0, 0, 0] == 5
    np.testing.assert_array_equal(given, expected)
    theirs = VectorQuantizer(3000, 4, 0.25)
    theirs.embedding.weight.data = torch.from_numpy(book)
    rounded = theirs(torch.from_numpy(latents))[2][2].reshape(2, 50, 11).numpy()
    assert (rounded != expected).any()


def test_defaults_and_what_is_refused(tmp_path):
    theirs = diffusers.VQModel().config
    bundle = types.SimpleNamespace(
        root="b", manifest=None, component=lambda role: role, config=lambda _: {}, file=lambda name: tmp_path / name
    )
    ours = VQModel(types.SimpleNamespace(bundle=bundle))
    assert (ours.latent_channels, ours.scaling_factor) == (theirs.latent_channels, theirs.scaling_factor)
    assert (ours.codes, ours.looks_up, ours.scale_factor) == (theirs.num_vq_embeddings, theirs.lookup_from_codebook, 1)
    with pytest.raises(
        InputError, match="VAE tiling: got a VQModel, expected an AutoencoderKL or AutoencoderTiny; lea"
    ):
        ours.enable_tiling()
    (tmp_path / "vae_decoder").mkdir()
    save_file({CODEBOOK: np.zeros((256, 4), np.float32)}, tmp_path / "vae_decoder" / TABLES)
    with pytest.raises(
        BundleError, match=r"tables.safetensors: got '.*' of shape \(256, 4\), expected \(256, 3\); exp"
    ):
        ours.quantize(np.zeros((1, 3, 4, 4), np.float32))
    decoder = vae_decoder("movq", VQ)
    with pytest.raises(
        ConfigError, match="movq/config.json: field 'norm_type': got 'layer', expected group or spatial"
    ):
        decoder.describe({"movq": {"norm_type": "layer"}})
    with pytest.raises(
        CheckpointError, match="movq/config.json: field '_class_name': got 'AutoencoderKL', expected VQM"
    ):
        decoder.describe({"movq": {"_class_name": "AutoencoderKL"}})
