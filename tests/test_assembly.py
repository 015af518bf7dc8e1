"""A model from a Llama and an encoder in Hugging Face's form: what it keeps of them, and what cannot be used."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_llama import write_llama_json, write_sentencepiece

from illume_fast.assembly import Assembly, assemble
from illume_fast.cli import main
from illume_fast.data.errors import InputError
from illume_fast.model.checkpoint import load_checkpoint
from illume_fast.model.tensor_files import CheckpointError
from illume_fast.pipeline import IllumePipeline

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("sentencepiece")

WORDS = 400
SMALL = Assembly(image_size=64, codes=32, width=64, blocks=1)
_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_PATCHES = {"image_size": 64, "patch_size": 8}


def write_language(folder: Path, rows: int = WORDS, tied: bool = False, fast: bool = False) -> Path:
    config = transformers.LlamaConfig(
        vocab_size=rows, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        tie_word_embeddings=tied, max_position_embeddings=2048,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    if fast:
        write_llama_json(folder)
    else:
        write_sentencepiece(folder / "tokenizer.model", WORDS)
    return folder


def write_encoder(folder: Path, kind: str) -> Path:
    torch.manual_seed(1)
    if kind == "siglip":
        transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**_VIT, **_PATCHES)).save_pretrained(folder)
        norms = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        (folder / "preprocessor_config.json").write_text(json.dumps(norms))
    elif kind == "clip":
        text = transformers.CLIPTextConfig(**_VIT, vocab_size=50)
        eyes = transformers.CLIPVisionConfig(**_VIT, **_PATCHES)
        transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text.to_dict(), vision_config=eyes.to_dict())
        ).save_pretrained(folder)
    else:
        eyes = {"depth": 1, "embed_dim": 32, "num_heads": 4, "hidden_size": 32, "patch_size": 8}
        text = {**_VIT, "vocab_size": 50, "num_key_value_heads": 4}
        config = transformers.Qwen2VLConfig(text_config=text, vision_config=eyes)
        transformers.Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def language(tmp_path_factory) -> Path:
    return write_language(tmp_path_factory.mktemp("vicuna"))


@pytest.fixture(scope="module")
def siglip(tmp_path_factory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("siglip"), "siglip")


@pytest.fixture(scope="module")
def assembled(language, siglip, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("illume") / "model"
    given = ["--language", str(language), "--encoder", str(siglip), "--out", str(out)]
    sizes = ["--image-size", "64", "--codes", "32", "--width", "64", "--blocks", "1"]
    assert main(["assemble", *given, *sizes]) == 0
    return out


def test_logits_of_words_are_the_llamas(assembled, language):
    ours = load_checkpoint(assembled).model
    theirs = transformers.LlamaForCausalLM.from_pretrained(language, dtype=torch.float32).eval()
    ids = torch.randint(WORDS, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = ours.logits(ids)
        torch.testing.assert_close(logits[..., :WORDS], theirs(ids).logits, rtol=1e-4, atol=1e-5)
    vocab = ours.config.vocab
    assert logits.shape[-1] == vocab.rows == WORDS + 1 + 3 + 32
    assert (vocab.im_start, vocab.im_end, vocab.pad) == (1, 2, WORDS)
    assert vocab.structure == (WORDS + 1, WORDS + 2, WORDS + 3)


def test_new_rows_are_small_and_come_from_the_seed(assembled, language, siglip, tmp_path):
    model = load_checkpoint(assembled).model
    new = model.model.embed_tokens.weight[WORDS:]
    assert 0.017 < new.std().item() < 0.023
    assert not torch.equal(new, model.head_weight[WORDS:])
    for name, seed in (("again", 0), ("other", 1)):
        assemble(language, siglip, tmp_path / name, Assembly(**{**vars(SMALL), "seed": seed}))
        rows = load_checkpoint(tmp_path / name).model.model.embed_tokens.weight[WORDS:]
        assert torch.equal(rows, new) == (seed == 0)


def test_both_branches_have_the_encoder(assembled, siglip):
    loaded = load_checkpoint(assembled)
    theirs = transformers.SiglipVisionModel.from_pretrained(siglip).eval()
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        features = [loaded.model.model.vision_tower(x), loaded.vision_tokenizer.encoder(x)]
        own = theirs(x).last_hidden_state  # means and deviations of a half: as it is
        grown = torch.nn.functional.interpolate(own.mT.unflatten(2, (8, 8)), size=(16, 16), mode="bilinear")
    for found in features:
        torch.testing.assert_close(found, grown.flatten(2).mT)


def test_it_draws_and_answers(assembled):
    pipeline = IllumePipeline.from_pretrained(assembled)
    (codes,) = pipeline("a red heart", output_type="codes", seed=0).images
    assert codes.semantic.shape == (16, 16)
    assert isinstance(pipeline.chat("What is it?", Image.new("RGB", (128, 64)), max_new_tokens=3), str)


@pytest.mark.parametrize("kind", ["clip", "qwen2_vl"])
def test_eyes_of_models_of_several_parts(language, tmp_path, kind):
    encoder = write_encoder(tmp_path / kind, kind)
    config = assemble(language, encoder, tmp_path / "out", Assembly(**{**vars(SMALL), "image_size": 128}))
    assert config.vision_tokenizer.encoder.width == 32
    loaded = load_checkpoint(tmp_path / "out")
    ids = loaded.vision_tokenizer.encode(torch.zeros(1, 3, 128, 128))
    assert ids.shape == (1, 16, 16)


def test_tied_embeddings_and_a_tokenizer_json(siglip, tmp_path):
    folder = write_language(tmp_path / "tied", WORDS + 40, tied=True, fast=True)
    assemble(folder, siglip, tmp_path / "out", SMALL)
    model = load_checkpoint(tmp_path / "out").model
    assert model.lm_head is None
    theirs = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.arange(9)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            model.logits(ids)[..., :WORDS], theirs(ids).logits[..., :WORDS], rtol=1e-4, atol=1e-5
        )


def test_what_cannot_be_used(assembled, language, siglip, tmp_path):
    with pytest.raises(InputError, match="holds a model already; give another folder"):
        assemble(language, siglip, assembled, SMALL)
    with pytest.raises(CheckpointError, match=r"there is no config\.json"):
        assemble(language, tmp_path, tmp_path / "out", SMALL)
    with pytest.raises(InputError, match=r"has neither tokenizer\.json nor tokenizer\.model"):
        assemble(siglip, siglip, tmp_path / "out", SMALL)
    with pytest.raises(InputError, match=r"lacks <\|im_start\|>"):
        assemble(language, siglip, tmp_path / "out", Assembly(**{**vars(SMALL), "template": "qwen2"}))
    few = write_language(tmp_path / "few", 300)
    with pytest.raises(InputError, match="its tokenizer has 400 tokens, its embeddings 300 rows"):
        assemble(few, siglip, tmp_path / "out", SMALL)
    write_sentencepiece(siglip / "tokenizer.model", WORDS)
    with pytest.raises(CheckpointError, match="model_type 'siglip_vision_model' is not supported"):
        assemble(siglip, siglip, tmp_path / "out", SMALL)
    with pytest.raises(CheckpointError, match="needed is one that takes pixel_values alone"):
        assemble(language, language, tmp_path / "out", SMALL)
    broken = write_language(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        assemble(broken, siglip, tmp_path / "out", SMALL)
    assert not (tmp_path / "out" / "config.json").exists()


def test_sizes_that_cannot_be_are_lines_of_the_command_line(language, tmp_path, capsys):
    """Also those that only transformers' own config of the encoder tells of."""
    eyes = write_encoder(tmp_path / "eyes", "qwen2_vl")
    for option, reason in (
        (("--width", "65"), "--width must be a multiple of 64, got 65"),
        (("--image-size", "60"), "image_size 60 must be a multiple of 16 pixels"),
    ):
        arguments = ("assemble", "--language", language, "--encoder", eyes, "--out", tmp_path / "out", *option)
        assert main([str(a) for a in arguments]) == 2
        assert capsys.readouterr().err.splitlines()[-1].endswith(reason)
