"""Aliases, and the configs that random weights are built from: real architectures, the real vocabulary."""

import importlib
import json
from functools import cache

import diffusers
import pytest
import torch
import transformers
from diffusers.models.modeling_utils import no_init_weights

from diffoundry.exporter.checkpoints.aliases import alias_folder, package_path, read_aliases
from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.checkpoints.tokenizer_files import write_tokenizer
from diffoundry.exporter.checkpoints.weights import build_module
from diffoundry.exporter.configs.vocabulary import clip_merges, clip_vocabulary
from diffoundry.runtime.bundle.specs import DimSpec
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.pipelines.families.flux_2 import SYSTEM_MESSAGE
from diffoundry.runtime.pipelines.systems.sana_inputs import ENCODER_TOKENS, INSTRUCTION, TOKENS
from diffoundry.runtime.tokenizers.chat_prompt import CHAT_FILE, read_chat_prompt
from diffoundry.runtime.tokenizers.clip import ClipTokenizer
from diffoundry.runtime.tokenizers.tokenizer_json import JsonTokenizer

# Parameters of the published checkpoints.
SIZES = {
    "sd14": {"text_encoder": 123_060_480, "unet": 859_520_964, "vae": 83_653_863},
    "sd15": {"text_encoder": 123_060_480, "unet": 859_520_964, "vae": 83_653_863},
    "sd21": {"text_encoder": 340_387_840, "unet": 865_910_724, "vae": 83_653_863},
    "sd2-depth": {
        "text_encoder": 340_387_840,
        "unet": 865_913_604,
        "vae": 83_653_863,
        "depth_estimator": 122_377_985,  # as the paper says, 123 million
    },
    "sdxl": {"text_encoder": 123_060_480, "text_encoder_2": 694_659_840, "unet": 2_567_463_684, "vae": 83_653_863},
    "flux-schnell": {"transformer": 11_891_178_560},
    "flux-dev": {"text_encoder": 123_060_480, "transformer": 11_901_408_320, "vae": 83_819_683},
    "flux-canny": {"transformer": 11_901_604_928},
    "flux-fill": {"transformer": 11_902_391_360},
    "flux-kontext": {"transformer": 11_901_408_320},
    # SigLIP's so400m at 384 pixels with its head, and both layers of Redux.
    "flux-redux": {"image_encoder": 428_225_600, "image_embedder": 64_503_808},
    "chroma": {"transformer": 8_899_983_424, "vae": 83_819_683},  # 8.9 billion, as the model card says
    "flux2-klein-4b": {"text_encoder": 4_022_468_096, "transformer": 3_875_544_576, "vae": 84_046_115},
    "flux2-klein-base-4b": {"transformer": 3_875_544_576},
    # 32 and 24 billion, as the model cards say.
    "flux2-dev": {"text_encoder": 24_011_361_280, "transformer": 32_223_281_152, "vae": 84_046_115},
    "z-image": {"transformer": 6_154_908_736},  # 6 billion, as the model card says
    "z-image-turbo": {"text_encoder": 4_022_468_096, "transformer": 6_154_908_736, "vae": 83_819_683},
    # 20 billion for the transformer, as the model card says.
    "qwen-image": {"text_encoder": 8_292_166_656, "transformer": 20_430_401_088, "vae": 126_892_531},
    **{name: {"vae": 126_892_531} for name in ("qwen-image-edit", "qwen-image-edit-plus")},
    # 8.77 and 7.1 billion: the sizes of the published files, at two bytes a number.
    "qwen-image-2.1": {"text_encoder": 8_767_123_696, "transformer": 7_115_124_736, "vae": 337_740_404},
    "sd3-medium": {
        "text_encoder": 123_650_304,
        "text_encoder_2": 694_659_840,
        "text_encoder_3": 4_762_310_656,
        "transformer": 2_028_328_000,
        "vae": 83_819_683,
    },
    # With the table of positions, which is no parameter, 2.5 and 8.1 billion, as the model cards say.
    **{
        f"sd3.5-{size}": {
            "text_encoder": 123_650_304,
            "text_encoder_2": 694_659_840,
            "text_encoder_3": 4_762_310_656,
            "transformer": count,
            "vae": 83_819_683,
        }
        for size, count in (("medium", 2_243_171_520), ("large", 8_056_627_520))
    },
    "pixart-alpha-512": {"text_encoder": 4_762_310_656, "transformer": 610_856_096, "vae": 83_653_863},
    "pixart-sigma-1024": {"text_encoder": 4_762_310_656, "transformer": 610_856_096, "vae": 83_653_863},
    "pixart-sigma-1024-pag": {"text_encoder": 4_762_310_656, "transformer": 610_856_096, "vae": 83_653_863},
    # As the papers say: 0.6 and 1.6 billion, and 2.6 for Gemma 2.
    **{
        alias: {"text_encoder": 2_614_341_888, "transformer": count, "vae": 312_250_275}
        for alias, count in (
            ("sana-600m", 591_747_872),
            ("sana-1600m", 1_604_462_752),
            ("sana-sprint-600m", 593_501_216),
        )
    },
    # As the original code reports them: 274.06 M, 113.62 M and 872.30 M for the UNets, 581.99 M for BERT.
    "ldm-celebahq-256": {"unet": 274_056_163, "vqvae": 55_322_782},
    "ldm-super-resolution-4x": {"unet": 113_622_563, "vqvae": 55_322_782},
    "ldm-text2im-large-256": {"bert": 581_994_042, "unet": 872_300_484, "vqvae": 83_653_863},
    # As the sizes of the published files say: 1.89 GB and 221 MB, 1.49 GB and 335 MB, in fp32.
    "x4-upscaler": {"text_encoder": 340_387_840, "unet": 473_398_020, "vae": 55_325_927},
    "x2-latent-upscaler": {"text_encoder": 123_060_480, "unet": 372_560_645, "vae": 83_653_863},
    # As the papers say: 35.7 M, 114 M, 65.57 M, 296 M and 675 M; 74.7 M of DiT's are 27 copies of one embedding.
    "ddpm-cifar10-32": {"unet": 35_746_307},
    "ddpm-celebahq-256": {"unet": 113_673_219},
    "ncsnpp-celebahq-256": {"unet": 65_574_549},
    "cd-imagenet64": {"unet": 295_899_267},
    "dit-xl-2-256": {"transformer": 749_826_464, "vae": 83_653_863},
}


# As the READMEs of the original code say, or the sizes of their files, in millions.
IN_MILLIONS = {
    "lumina2": {"transformer": 2610, "text_encoder": 2614, "vae": 83.8},
    "hunyuan-dit": {"transformer": 1500, "text_encoder": 350, "text_encoder_2": 1670, "vae": 83.7},
    "auraflow": {"transformer": 6800, "text_encoder": 1220, "vae": 83.7},
    "kandinsky-2-1-prior": {"prior": 1000, "image_encoder": 304, "text_encoder": 124},
    "kandinsky-2-1": {"text_encoder": 560, "unet": 1220, "movq": 67},
    "kandinsky-2-1-inpaint": {"text_encoder": 560, "unet": 1220, "movq": 67},
    "kandinsky-2-2-decoder-inpaint": {"unet": 1220, "movq": 67},
    "kandinsky-2-2-controlnet-depth": {"unet": 1220, "movq": 67},
    "kandinsky-2-2-prior": {"prior": 1000, "image_encoder": 1800, "text_encoder": 695},
    "kandinsky-2-2-decoder": {"unet": 1220, "movq": 67},
    "karlo-image-variations": {
        "image_encoder": 304, "text_encoder": 124, "text_proj": 7.88, "decoder": 900, "super_res_first": 700,
        "super_res_last": 700,
    },
    "sd21-unclip": {"image_encoder": 632, "text_encoder": 340, "image_normalizer": 0.00205, "unet": 870, "vae": 83.7},
    "stable-cascade-prior": {"prior": 3600, "text_encoder": 695, "image_encoder": 304},
    "wuerstchen-prior": {"prior": 993, "text_encoder": 694},
    "wuerstchen": {"decoder": 1055, "text_encoder": 353, "vqgan": 18.4},
    "stable-cascade": {"decoder": 1560, "text_encoder": 695, "vqgan": 18.4},
    "kandinsky-3": {"text_encoder": 8600, "unet": 3000, "movq": 267},
}  # fmt: skip


# Compared by sizes of a paper or a model card, and by interfaces.
MODELS = ("if-i-m", "if-ii-m", "karlo", "shap-e", "shap-e-img2img", "vq-diffusion-ithq")


_MODULES = {"latent_diffusion": "diffusers.pipelines.latent_diffusion", "flux": "diffusers.pipelines.flux"}


def test_table():
    table = read_aliases()
    demos = {"emoji", "emoji-dit", "emoji-edges", "emoji-pixels", "emoji-x4"}
    assert set(table) == {*demos, "sdxl-refiner", *MODELS, *IN_MILLIONS, *SIZES}
    for name, alias in table.items():
        assert (alias.hub is None) != (alias.folder is None)
        assert (alias.configs is None) == (name == "emoji-edges")
        if alias.configs is not None:
            assert (alias_folder(alias.configs) / "model_index.json").is_file()


_WHOLE = {"sd1", "sd21", "sdxl", "sdxl_refiner"}
"""Folders that describe single files, too."""


def test_configs_are_in_the_package_once():
    configs = package_path("exporter/configs")
    folders: dict[str, set[str]] = {}
    for path in configs.glob("*/*/*.json"):
        content = json.dumps(json.loads(path.read_text()), sort_keys=True)
        folders.setdefault(content, set()).add(path.relative_to(configs).parts[0])
    assert len(folders) > 80
    assert [found for found in folders.values() if len(found) > 1 and not found <= _WHOLE] == []


def test_components_and_changes_are_needed():
    """Each component comes from one folder, and each change gives a field another value."""
    for alias in read_aliases().values():
        if alias.configs is None or alias.folder is not None:
            continue
        folder = alias_folder(alias.configs)
        sources = {name: folder.parent / source for name, source in alias.components.items()}
        assert all(source.is_dir() for source in sources.values())
        own = {path.name: path for path in folder.iterdir() if path.is_dir()}
        assert not own.keys() & sources.keys()
        index = json.loads((folder / "model_index.json").read_text())
        named = {name for name, value in index.items() if isinstance(value, list) and value[0] is not None}
        assert own.keys() | sources.keys() == named - {"shap_e_renderer"}
        for file, fields in alias.changes.items():
            component, _, name = file.rpartition("/")
            config = json.loads(({**own, **sources, "": folder}[component] / name).read_text())
            assert all(config.get(field, _WHOLE) != value for field, value in fields.items())


@pytest.mark.parametrize("name", ["emoji", "emoji-edges"])
def test_demo_models_are_a_package_of_their_own(name):
    alias = read_aliases()[name]
    with pytest.raises(CheckpointError, match=rf"'{name}': it is in the package not-there.* pip install '\./models'"):
        alias_folder(alias.folder.replace("diffoundry_models", "not_there"))


@pytest.mark.parametrize("random_weights", [False, True])
def test_a_controlnet_is_no_checkpoint(random_weights):
    with pytest.raises(CheckpointError, match=r"'emoji-edges': got the alias of a ControlNet, .*\(.*emoji, .*sd14"):
        open_checkpoint("emoji-edges", random_weights=random_weights)


@cache
def _opened(alias):
    return open_checkpoint(alias, random_weights=True)


@pytest.mark.parametrize(("alias", "source"), [(alias, source) for alias, parts in SIZES.items() for source in parts])
def test_configs_are_those_of_the_published_models(alias, source):
    checkpoint = _opened(alias)
    library, name = checkpoint.model_index[source]
    found = getattr(importlib.import_module(_MODULES.get(library, library)), name)
    with torch.device("meta"), no_init_weights():
        if library in ("diffusers", "flux"):
            module = found.from_config(found.load_config(checkpoint.root / source))
        else:
            module = found(found.config_class.from_pretrained(checkpoint.root / source))
    assert sum(parameter.numel() for parameter in module.parameters()) == SIZES[alias][source]


@pytest.mark.parametrize(
    ("alias", "width", "prediction", "size"),
    [("sd14", 768, "epsilon", 64), ("sd15", 768, "epsilon", 64), ("sd21", 1024, "v_prediction", 96)],
)
def test_interfaces(alias, width, prediction, size):
    checkpoint = open_checkpoint(alias, random_weights=True)
    inputs = {spec.name: spec.shape for spec in checkpoint.component("unet").inputs}
    assert inputs == {
        "sample": ("batch", 4, "height/8", "width/8"),
        "timestep": (1,),
        "encoder_hidden_states": ("batch", "sequence", width),
    }
    assert checkpoint.component("text_encoder").outputs[0].shape == ("batch", "sequence", width)
    assert checkpoint.component("vae_encoder").outputs[0].shape == ("batch", 8, "height/8", "width/8")
    assert checkpoint.scheduler_configs["scheduler"].get("prediction_type", "epsilon") == prediction
    assert checkpoint.dims == dict.fromkeys(("height", "width"), DimSpec(multiple_of=8))
    files = {name for _, name in checkpoint.bundle_files()}
    assert {"tokenizer/vocab.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json"} <= files


def test_deepfloyd_if_is_as_large_as_its_model_cards_say():
    """400 million parameters, and with 704 channels instead of 192 those of IF-I-XL, 4.3 billion."""
    checkpoint = open_checkpoint("if-i-m", random_weights=True)
    config = json.loads((checkpoint.root / "unet/config.json").read_text())
    for channels, size in {192: 0.4e9, 704: 4.3e9}.items():
        widths = [channels * factor for factor in (1, 2, 3, 4)]
        changed = {**config, "block_out_channels": widths, "cross_attention_dim": widths[-1]}
        with torch.device("meta"):
            module = diffusers.UNet2DConditionModel.from_config(changed)
        assert sum(parameter.numel() for parameter in module.parameters()) == pytest.approx(size, rel=0.08)
    shapes = {spec.name: spec.shape for spec in checkpoint.component("unet").inputs}
    assert shapes == {
        "sample": ("batch", 3, "height", "width"),
        "timestep": (1,),
        "encoder_hidden_states": ("batch", "sequence", 4096),
    }
    assert {spec.name for spec in checkpoint.component("text_encoder").inputs} == {"input_ids", "attention_mask"}
    assert checkpoint.dims == dict.fromkeys(("height", "width"), DimSpec(multiple_of=8))
    assert [component.name for component in checkpoint.components] == ["text_encoder", "unet", "safety_checker"]


def test_the_second_stage_of_deepfloyd_if_is_as_large_as_its_model_cards_say():
    """450 million parameters, and with 160 channels instead of 96 those of IF-II-L, 1.2 billion."""
    checkpoint = open_checkpoint("if-ii-m", random_weights=True)
    config = json.loads((checkpoint.root / "unet/config.json").read_text())
    for channels, size in {96: 0.45e9, 160: 1.2e9}.items():
        widths = [channels * factor for factor in (1, 2, 4, 6, 8)]
        changed = {
            **config,
            "block_out_channels": widths,
            "cross_attention_dim": widths[-1],
            "time_embedding_dim": widths[-1],
        }
        with torch.device("meta"):
            module = diffusers.UNet2DConditionModel.from_config(changed)
        assert sum(parameter.numel() for parameter in module.parameters()) == pytest.approx(size, rel=0.08)
    shapes = {spec.name: spec.shape for spec in checkpoint.component("unet").inputs}
    assert shapes["sample"] == ("batch", 6, "height", "width")
    assert shapes["class_labels"] == ("batch",)
    assert set(checkpoint.scheduler_configs) == {"scheduler", "image_noising_scheduler"}
    assert [component.name for component in checkpoint.components] == ["text_encoder", "unet", "safety_checker"]


def test_karlo_is_as_large_as_its_model_card_says():
    """1 billion parameters in the prior, 900 million in the decoder, 700 million in each network that enlarges."""
    checkpoint = open_checkpoint("karlo", random_weights=True)
    for source, size in {"prior": 1.0e9, "decoder": 0.9e9, "super_res_first": 0.7e9, "super_res_last": 0.7e9}.items():
        with torch.device("meta"), no_init_weights():
            module = build_module(checkpoint.root / source, ":".join(checkpoint.model_index[source]))
        assert sum(parameter.numel() for parameter in module.parameters()) == pytest.approx(size, rel=0.03)
    shapes = {spec.name: spec.shape for spec in checkpoint.component("decoder").inputs}
    assert shapes == {
        "sample": ("batch", 3, "height/4", "width/4"),
        "timestep": (1,),
        "encoder_hidden_states": ("batch", "sequence", 1536),
        "attention_mask": ("batch", "sequence"),
        "class_labels": ("batch", 1280),
    }
    assert checkpoint.component("text_proj").outputs[0].shape == ("batch", 81, 1536)
    assert set(checkpoint.scheduler_configs) == {"prior_scheduler", "decoder_scheduler", "super_res_scheduler"}
    assert checkpoint.notices() == ["weights are random (seed 0): good for measuring, not for images"]


def test_shap_e_has_the_interfaces_of_the_original_code():
    """24 layers of 1024, an object of 1024 tokens; CLIP ViT-L/14 reads the prompt, or sees 256 patches."""
    for alias, condition, encoder in (
        ("shap-e", ("batch", 768), "text_encoder"),
        ("shap-e-img2img", ("batch", 256, 1024), "image_encoder"),
    ):
        checkpoint = open_checkpoint(alias, random_weights=True)
        assert [component.name for component in checkpoint.components] == [encoder, "prior"]
        prior = checkpoint.component("prior")
        assert {spec.name: spec.shape for spec in prior.inputs} == {
            "hidden_states": ("batch", 1024, 1024),
            "timestep": (1,),
            "proj_embedding": condition,
        }
        assert prior.outputs[0].shape == ("batch", 1024, 2048)
        with torch.device("meta"):
            module = build_module(checkpoint.root / "prior", "diffusers:PriorTransformer")
        # A layer has 12 widths squared; the rest is time, positions, and projections.
        assert sum(parameter.numel() for parameter in module.parameters()) == pytest.approx(24 * 12 * 1024**2, rel=0.06)
        assert checkpoint.notices()[0].startswith(
            "shap_e_renderer of the checkpoint is left out: a bundle makes latents"
        )


def test_vq_diffusion_has_the_interfaces_of_the_original_code():
    checkpoint = open_checkpoint("vq-diffusion-ithq", random_weights=True)
    shapes = {spec.name: spec.shape for spec in checkpoint.component("transformer").inputs}
    assert shapes == {
        "hidden_states": ("batch", 32 * 32),
        "timestep": (1,),
        "encoder_hidden_states": ("batch", "sequence", 512),
    }
    assert checkpoint.component("transformer").outputs[0].shape == ("batch", 4096, 32 * 32)
    assert checkpoint.component("vae_decoder").inputs[0].shape == ("batch", 128, "height/8", "width/8")
    assert checkpoint.dims == dict.fromkeys(("height", "width"), DimSpec(min=256, max=256, multiple_of=8))


class TestVocabulary:
    def test_is_built_as_clips(self):
        merges, vocabulary = clip_merges(), clip_vocabulary()
        assert (len(merges), len(vocabulary)) == (48894, 49408)
        assert [vocabulary["!"], vocabulary["!</w>"], vocabulary["a</w>"]] == [0, 256, 320]
        assert [vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]] == [49406, 49407]
        known = set(list(vocabulary)[:512])
        for left, right in merges:
            assert left in known
            assert right in known
            known.add(left + right)

    @pytest.mark.parametrize(
        ("alias", "folder", "padding"),
        [("sd15", "tokenizer", 49407), ("sd21", "tokenizer", 0), ("sdxl", "tokenizer_2", 0)],
    )
    def test_gives_the_ids_of_clip(self, alias, folder, padding):
        place = open_checkpoint(alias, random_weights=True).root / folder
        # The prompt and ids of the documentation of Stable Diffusion and CLIP.
        text = "a photo of an astronaut riding a horse on mars"
        words = [320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496]
        expected = [49406, *words, 49407, *[padding] * 65]
        theirs = transformers.CLIPTokenizer.from_pretrained(place)
        assert theirs([text], padding="max_length", truncation=True).input_ids[0] == expected
        assert ClipTokenizer.from_folder(place)([text]).input_ids[0].tolist() == expected

    def test_has_the_size_of_berts(self, tmp_path):
        """With its numbers of special tokens; the words are CLIP's."""
        place = open_checkpoint("ldm-text2im-large-256", random_weights=True).root / "tokenizer"
        theirs = transformers.BertTokenizer.from_pretrained(place)
        assert theirs.vocab_size == 30522
        assert [theirs.pad_token_id, theirs.unk_token_id, theirs.cls_token_id, theirs.sep_token_id] == [
            0,
            100,
            101,
            102,
        ]
        text = "A photo of an astronaut's xylophonist, 2024"
        write_tokenizer(place, "BertTokenizer", tmp_path)
        ids = JsonTokenizer.from_folder(tmp_path)([text], max_length=77).input_ids[0].tolist()
        assert ids == theirs([text], padding="max_length", max_length=77, truncation=True).input_ids[0]
        assert theirs.unk_token_id not in ids
        assert len(set(ids)) > 12


@pytest.mark.slow_cases("wuerstchen")
@pytest.mark.parametrize("alias", IN_MILLIONS)
def test_networks_are_as_large_as_their_readme_says(alias):
    checkpoint = _opened(alias)
    assert {component.source for component in checkpoint.components} == set(IN_MILLIONS[alias])
    for source, millions in IN_MILLIONS[alias].items():
        with torch.device("meta"):
            module = build_module(checkpoint.root / source, ":".join(checkpoint.model_index[source]))
        assert sum(parameter.numel() for parameter in module.parameters()) == pytest.approx(1e6 * millions, rel=0.03)


def test_the_vocabulary_for_gemma(tmp_path):
    """Words with a space before them are one token, as in Gemma's own, so that the instruction fits."""
    place = open_checkpoint("sana-600m", random_weights=True).root / "tokenizer"
    write_tokenizer(place, "GemmaTokenizerFast", tmp_path)
    texts = ["a photo of an Astronaut\n", "\n".join(INSTRUCTION)]
    ids = JsonTokenizer.from_folder(tmp_path)(texts, max_length=ENCODER_TOKENS).input_ids
    theirs = transformers.GemmaTokenizerFast.from_pretrained(place)
    assert ids.tolist() == theirs(texts, padding="max_length", max_length=ENCODER_TOKENS, truncation=True).input_ids
    assert theirs.convert_ids_to_tokens(ids[0, :4]) == [
        "<bos>",
        "a",
        "\N{LOWER ONE EIGHTH BLOCK}photo",
        "\N{LOWER ONE EIGHTH BLOCK}of",
    ]
    assert (ids[1] != 0).sum() + TOKENS - 2 <= ENCODER_TOKENS
    assert theirs.unk_token_id not in ids


def test_the_vocabulary_for_mistral(tmp_path):
    """Padded to the left, with a chat whose marks are one token each."""
    place = open_checkpoint("flux2-dev", random_weights=True).root / "tokenizer"
    write_tokenizer(place, "PixtralProcessor", tmp_path, {"system": SYSTEM_MESSAGE, "add_generation_prompt": False})
    chat = read_chat_prompt(json.loads((tmp_path / CHAT_FILE).read_text()), tmp_path)
    texts = [chat.render(text) for text in ("a photo of an Astronaut", "a cat")]
    assert texts[1] == f"[SYSTEM_PROMPT]{SYSTEM_MESSAGE}[/SYSTEM_PROMPT][INST]a cat[/INST]"
    ids = JsonTokenizer.from_folder(tmp_path)(texts, max_length=512).input_ids
    theirs = transformers.AutoTokenizer.from_pretrained(place)
    assert ids.tolist() == theirs(texts, padding="max_length", max_length=512, truncation=True).input_ids
    assert ids[1, 0] == theirs.pad_token_id == 11
    assert [one for one in ids[1] if one != 11][:2] == [1, 17]
    assert [3, *theirs("a cat").input_ids[1:], 4] == ids[1, -4:].tolist()
    assert theirs.unk_token_id not in ids


def test_the_processor_of_qwen_image_21(tmp_path):
    """Its chat is rendered, and the marks of images are one token each."""
    place = open_checkpoint("qwen-image-2.1", random_weights=True).root / "processor"
    write_tokenizer(place, "Qwen3VLProcessor", tmp_path, {"system": "Look."})
    chat = read_chat_prompt(json.loads((tmp_path / CHAT_FILE).read_text()), tmp_path)
    assert chat.prefix == "<|im_start|>system\nLook.<|im_end|>\n<|im_start|>user\n"
    text = chat.render("<|vision_start|><|image_pad|><|vision_end|>a cat")
    ids = JsonTokenizer.from_folder(tmp_path)([text], max_length=64, pad_to=0).input_ids
    assert ids.tolist() == [transformers.AutoTokenizer.from_pretrained(place)(text).input_ids]
    assert [one for one in ids[0] if one > 151_000] == [151_652, 151_655, 151_653]


def test_the_vocabulary_for_xlm_roberta(tmp_path):
    place = open_checkpoint("kandinsky-2-1", random_weights=True).root / "tokenizer"
    write_tokenizer(place, "XLMRobertaTokenizerFast", tmp_path)
    text = "a photo of an astronaut"
    ids = JsonTokenizer.from_folder(tmp_path)([text], max_length=77).input_ids[0].tolist()
    theirs = transformers.XLMRobertaTokenizerFast.from_pretrained(place)
    assert ids == theirs([text], padding="max_length", max_length=77, truncation=True).input_ids[0]
    assert ids[0] == 0
    assert ids[-1] == 1, "padding"
    assert ids[1 + sum(one > 3 for one in ids)] == 2, "the end"
    assert 3 not in ids, "nothing is unknown"
