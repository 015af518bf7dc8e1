"""The published language model's folder: what its config says becomes ours, what it contradicts is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from golden_mllm import Recorded
from official_folder import (
    LEVELS,
    WORDS,
    describe,
    image_tokens,
    split_tokenizer,
    vision_sizes,
    write_shards,
    write_tiny_official,
)
from safetensors.torch import load_file, save_file

from illume_fast.data.text_tokenizer import TextTokenizer, tokenizer_json
from illume_fast.model.checkpoint import CheckpointError, load_checkpoint, read_config, save_checkpoint
from illume_fast.model.generation_config import CheckpointConfig
from illume_fast.model.official_tokenizer import tokenizer_sizes
from illume_fast.model.presets import illume_plus_3b, illume_plus_7b
from illume_fast.model.strict import ConfigError
from illume_fast.model.vision_config import DualViTokConfig


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    """A published folder with few random weights; tests must not change it."""
    return write_tiny_official(tmp_path_factory.mktemp("official"))


@pytest.fixture
def folder(official, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(official, tmp_path / "model"))


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("model*.safetensors") for name, tensor in load_file(path).items()}


def change_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_it_loads_as_it_is(official):
    loaded = load_checkpoint(official, torch.bfloat16)
    state, weights = loaded.model.state_dict(), stored(official)
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())
    assert loaded.vision_tokenizer is None
    assert not loaded.config.has_vision_tokenizer
    assert loaded.config.generation.repetition_penalty == 1.05
    assert loaded.config.generation.sizes[0] == (512, 512)
    assert (loaded.config.model.vocab.codes(0), loaded.config.model.vocab.codes(1)) == LEVELS
    assert (loaded.config.model.vision_tower.min_pixels, loaded.config.model.max_length) == (1024, 4096)
    assert len(loaded.config.fingerprint) == 32


def test_other_weights_have_another_fingerprint(official, folder):
    name = "model.layers.1.mlp.up_proj.weight"
    for path in folder.glob("model-*.safetensors"):
        tensors = load_file(path)
        if name in tensors:
            tensors[name][0, 0] += 1
            save_file(tensors, path)
    marks = [load_checkpoint(f, torch.bfloat16).config.fingerprint for f in (official, official, folder)]
    assert marks[0] == marks[1] != marks[2]


def test_saved_again_it_is_ours(official, tmp_path):
    loaded = load_checkpoint(official, None)
    save_checkpoint(tmp_path / "ours", loaded.config, loaded.model, None, tokenizer_json(loaded.tokenizer))
    again = load_checkpoint(tmp_path / "ours", None)
    state, weights = again.model.state_dict(), stored(official)
    assert all(
        torch.equal(state[name], tensor) and state[name].dtype == tensor.dtype for name, tensor in weights.items()
    )
    assert again.vision_tokenizer is None
    assert again.config.model == loaded.config.model
    assert again.config.generation == loaded.config.generation


def test_the_recorded_model(golden, tmp_path):
    """The official code's own tiny model, as a folder, gives the official code's features and losses."""
    recorded = Recorded(golden("mllm_tiny"))
    source = golden("mllm_tiny")
    tokenizer = (source / "tokenizer.json").read_text(encoding="utf-8")
    describe(tmp_path / "model", recorded.official, tokenizer)
    write_shards(tmp_path / "model", load_file(source / "weights.safetensors"), 3)
    loaded = load_checkpoint(tmp_path / "model")
    assert loaded.config.model == recorded.config
    with torch.no_grad():
        loss = loaded.model([recorded.sample("und")])
    torch.testing.assert_close(loss, recorded.outputs["und.loss"], atol=2e-5, rtol=1e-5)


def test_sizes_that_a_config_does_not_say_are_the_published(folder):
    """The tower's config is then a path of the machine that trained."""
    tower = {"type": "DualVisionTower", "vq_config": "configs/dualvitok.py", "min_pixels": 1024, "max_pixels": 589824}
    for preset in (illume_plus_3b(), illume_plus_7b()):
        decoder = preset.model.decoder
        tokens = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
        tokens |= image_tokens(151665, (32768, 98304))
        (folder / "tokenizer.json").unlink(missing_ok=True)
        (folder / "added_tokens.json").write_text(json.dumps(tokens))
        change_config(
            folder, mm_vision_tower=tower, mm_hidden_size=[3584, 32], vocab_size=decoder.vocab_size,
            special_tokens_ids=list(range(151665, 151672)), hidden_size=decoder.hidden_size,
            intermediate_size=decoder.intermediate_size, num_hidden_layers=decoder.num_hidden_layers,
            num_attention_heads=decoder.num_attention_heads, num_key_value_heads=decoder.num_key_value_heads,
            tie_word_embeddings=decoder.tie_word_embeddings, max_position_embeddings=decoder.max_position_embeddings,
        )  # fmt: skip
        found = read_config(folder)
        assert found.model == preset.model
        assert found.vision_tokenizer == preset.vision_tokenizer
        assert found.generation.sizes == preset.generation.sizes


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mm_hidden_size": [3584, 32]}, r"mm_hidden_size is \[3584, 32\]; only \[48, 32\]"),
        ({"mm_patch_merge_type": "spatial"}, "mm_patch_merge_type is 'spatial'"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end is True"),
        ({"image_aspect_ratio": "pad"}, "image_aspect_ratio is 'pad'"),
        ({"tokenizer_model_max_length": "4096"}, "tokenizer_model_max_length is '4096'"),
        ({"special_tokens_ids": None}, "special_tokens_ids is None"),
        ({"special_tokens_ids": [300, 301, 303, 302, 304, 305, 306]}, "special_tokens_ids is"),
        ({"mm_vision_tower": None}, "mm_vision_tower is None; expected an object"),
        ({"mm_vision_tower": {"type": "CLIP"}}, r"mm_vision_tower\.type is 'CLIP'"),
        ({"mm_vision_tower": {"min_pixels": 0}}, "mm_vision_tower: min_pixels 0"),
        ({"mm_projector": {"type": "mlp2x_gelu"}}, r"mm_projector\.type is 'mlp2x_gelu'"),
        ({"mm_projector": {"projector_cfg1": {"mlp_depth": 3}}}, r"mm_projector: mlp_depth is \[3, 2\]"),
        ({"rope_scaling": {"type": "yarn"}}, "rope type 'yarn' is not supported"),
        ({"vocab_size": None}, "expected whole numbers, got vocab_size None"),
        ({"vocab_size": 10}, "do not fit into"),
        ({"model_type": "illume"}, "model_type 'illume' is not supported; allowed are 'illume_fast', 'illume_qwen2'"),
    ],
)
def test_what_a_config_contradicts(folder, changes, message):
    change_config(folder, **changes)
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{message}"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("semantic_encoder.target_mlp", "none", r"semantic_encoder\.target_mlp is 'none'; only 'norm'"),
        ("semantic_encoder.semantic_encoder.hidden_act", "gelu", "hidden_act is 'gelu'; only 'quick_gelu'"),
        ("semantic_encoder.semantic_encoder.window", 7, "ViTConfig: unknown keys window"),
        ("pixel_quantizer.rotation_trick", True, r"pixel_quantizer\.rotation_trick is True"),
        ("pixel_encoder.use_dc_up_down_blocks", False, r"pixel_encoder\.use_dc_up_down_blocks is False"),
        ("pixel_encoder.ch", "128", "ch: expected int, got str"),
        ("semantic_decoder", 3, "semantic_decoder is 3; expected an object"),
        ("discriminator", {}, "unknown keys discriminator"),
    ],
)
def test_sizes_of_a_tokenizer_that_are_not_supported(path, value, message):
    sizes = vision_sizes()
    *parents, last = path.split(".")
    inner = sizes
    for key in parents:
        inner = inner[key]
    inner[last] = value
    with pytest.raises(ConfigError, match=rf"here: .*{message}"):
        tokenizer_sizes(sizes, "here")


def test_sizes_in_our_own_form():
    ours = CheckpointConfig.to_dict(illume_plus_3b())["vision_tokenizer"]
    assert tokenizer_sizes(ours, "here") == DualViTokConfig()


def change_tokens(folder: Path, change) -> None:
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    change(values["added_tokens"])
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda added: added.pop(), r"<\|image_level1_191\|> None \(expected"),
        (lambda added: added[5].update(id=9000), r"<end_of_line> 9000 \(expected"),
        (lambda added: added.append({"id": 9001, "content": "<|image_level1_192|>"}), r"192\|> 9001 \(expected none\)"),
        (lambda added: added.pop(0), r"the tokenizer lacks <\|endoftext\|>"),
        (lambda added: added[0].update(id="1"), r"expected the id of a token: <\|endoftext\|> \('1'\)"),
        (lambda added: added[0].pop("id"), "expected a list 'added_tokens' of objects"),
    ],
)
def test_a_tokenizer_of_another_layout(folder, change, message):
    change_tokens(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_older_tokenizer_files(folder, tmp_path):
    texts = [*WORDS, "naïve café 🙂", "<|im_end|> <height_64><|image_level0_3|>", "12  34\n\n\tend", "don't"]
    whole = load_checkpoint(folder)
    size = whole.config.model.vocab.text_size
    split_tokenizer((folder / "tokenizer.json").read_text(), folder)
    (folder / "tokenizer.json").unlink()
    older = load_checkpoint(folder)
    assert older.config == whole.config
    one, other = (TextTokenizer.from_file(path, size) for path in (older.tokenizer, folder / "vocab.json"))
    assert (one.pad, one.im_start, one.im_end) == (other.pad, other.im_start, other.im_end)
    assert one.size == size
    for text in texts:
        assert one.encode(text) == other.encode(text)
        assert one.decode(one.encode(text)) == text
        assert max(one.encode(text)) < one.pad
    (tmp_path / "tokenizer.json").write_text(tokenizer_json(older.tokenizer), encoding="utf-8")
    again = TextTokenizer.from_file(tmp_path / "tokenizer.json")
    assert again.encode("<height_64>") == [older.config.model.vocab.height_tag(64)]
    (folder / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json, nor vocab\.json, merges\.txt, added_tokens\.json"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["mm_projector.bin", "non_lora_trainables.bin"])
def test_pieces_that_would_replace_weights(folder, name):
    (folder / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"{name} would replace weights"):
        load_checkpoint(folder)


@pytest.mark.parametrize("penalty", ["1.05", 0, True, float("inf")])
def test_a_bad_repetition_penalty(folder, penalty):
    (folder / "generation_config.json").write_text(json.dumps({"repetition_penalty": penalty}))
    with pytest.raises(CheckpointError, match=r"generation_config\.json: repetition_penalty is"):
        load_checkpoint(folder)


def test_without_a_generation_config(folder):
    (folder / "generation_config.json").unlink()
    assert load_checkpoint(folder).config.generation.repetition_penalty == 1.0


def add_to_first_shard(folder: Path, **tensors: torch.Tensor) -> None:
    """Store more tensors, known to the index."""
    path, index = min(folder.glob("model-*.safetensors")), folder / "model.safetensors.index.json"
    save_file({**load_file(path), **tensors}, path)
    values = json.loads(index.read_text())
    values["weight_map"].update(dict.fromkeys(tensors, path.name))
    index.write_text(json.dumps(values))


def test_a_tied_head_and_rotary_tables_may_be_stored(folder):
    """Hugging Face writes a tied head or not, and older versions wrote rotary tables."""
    before = load_checkpoint(folder, None)
    embedding = before.model.head_weight.detach().clone()
    table = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    add_to_first_shard(folder, **{"lm_head.weight": embedding}, **table)
    loaded = load_checkpoint(folder, None)
    assert loaded.model.state_dict().keys() == before.model.state_dict().keys()
    assert loaded.model.lm_head is None
    add_to_first_shard(folder, **{"lm_head.weight": embedding + 1})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
        load_checkpoint(folder)


def test_an_untied_head_must_be_stored(folder):
    change_config(folder, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"missing lm_head\.weight \[\d+, 32\]"):
        load_checkpoint(folder)


def test_weights_that_are_not_the_configs(folder):
    add_to_first_shard(folder, odd=torch.zeros(2))
    change_config(folder, intermediate_size=40)
    with pytest.raises(CheckpointError, match=r"unknown odd; wrong shape model\.layers\.0\.mlp\."):
        load_checkpoint(folder)


def test_embeddings_that_are_too_few(folder):
    change_config(folder, vocab_size=json.loads((folder / "config.json").read_text())["vocab_size"] + 1)
    with pytest.raises(CheckpointError, match=r"wrong shape model\.embed_tokens\.weight"):
        load_checkpoint(folder)


def test_the_size_of_the_first_stages_is_drawn_where_it_is_asked_for(folder):
    generation = load_checkpoint(folder).config.generation
    assert len(generation.sizes) == 11
    assert (256, 256) not in generation.sizes
    assert generation.allowed_sizes == (*generation.sizes, (256, 256))


@pytest.mark.parametrize("value", [-1, True, "x", [[1]], float("nan")])
@pytest.mark.parametrize(
    "where",
    [
        ("config.json", "rope_scaling"),
        ("config.json", "rope_theta"),
        ("config.json", "rms_norm_eps"),
        ("config.json", "num_key_value_heads"),
        ("config.json", "mm_projector", "projector_cfg1"),
        ("config.json", "mm_vision_tower", "vq_model", "config", "semantic_encoder", "semantic_encoder", "num_heads"),
        ("config.json", "mm_vision_tower", "vq_model", "config", "semantic_encoder", "semantic_encoder", "patch_size"),
        ("tokenizer.json", "added_tokens", 0, "content"),
    ],
    ids=lambda where: str(where[-1]),
)
def test_values_of_another_type_are_checkpoint_errors(folder, where, value):
    path = folder / where[0]
    values = json.loads(path.read_text())
    holder = values
    for key in where[1:-1]:
        holder = holder[key]
    holder[where[-1]] = value
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError):
        read_config(folder)
