"""The decoder against Hugging Face's Qwen2, Qwen3 and Llama: whole passes, step by step through pages, and training."""

import pytest
import torch
import torch.nn.functional as F
from support import assert_matches

from illume_fast.kernels.paging import PagePool
from illume_fast.model.attention import CausalAttention, PagedAttention
from illume_fast.model.config import ConfigError, DecoderConfig
from illume_fast.model.decoder import CausalLM
from illume_fast.model.layers import dropout

transformers = pytest.importorskip("transformers")

VOCAB = 97
SHAPES = {
    "qwen2-gqa-tied": ("qwen2", {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen2-mha-untied": ("qwen2", {"num_attention_heads": 3, "num_key_value_heads": 3, "tie_word_embeddings": False}),
    "llama-gqa-untied": ("llama", {"num_attention_heads": 6, "num_key_value_heads": 2, "tie_word_embeddings": False}),
    "llama-mqa-tied": ("llama", {"num_attention_heads": 4, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "qwen3-norms": (
        "qwen3",
        {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False, "head_dim": 20},
    ),
}
CLASSES = {
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
}


def pair(shape: str):
    """(Hugging Face model, ours with its weights), float32, random weights that make attention matter."""
    kind, extra = SHAPES[shape]
    config_class, model_class = (getattr(transformers, name) for name in CLASSES[kind])
    config = config_class(
        vocab_size=VOCAB,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        max_position_embeddings=8192,
        **extra,
    )
    torch.manual_seed(0)
    theirs = model_class(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    ours = CausalLM(DecoderConfig.from_hf(theirs.config.to_dict())).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_full_pass(shape):
    theirs, ours = pair(shape)
    ids = torch.randint(0, VOCAB, (2, 33))
    assert_matches(ours.logits(ids), theirs(ids).logits, "logits", tolerance=1e-4)


@torch.no_grad()
def test_long_positions():
    theirs, ours = pair("qwen2-gqa-tied")
    ids = torch.randint(0, VOCAB, (1, 24))
    positions = torch.arange(24)[None] * 300
    expected = theirs(ids, position_ids=positions).logits
    hidden = ours.decoder(ours.embed(ids), positions, CausalAttention())
    assert_matches(F.linear(hidden, ours.head_weight), expected, "logits", tolerance=1e-4)


@torch.no_grad()
def test_left_padding_changes_nothing():
    theirs, ours = pair("llama-gqa-untied")
    ids = torch.randint(0, VOCAB, (2, 20))
    keep = torch.ones(2, 20, dtype=torch.bool)
    keep[1, :7] = False
    logits = ours.logits(ids, keep)
    assert logits.isfinite().all()
    assert_matches(logits[1, 7:], theirs(ids[1:, 7:]).logits[0], "padded row", tolerance=1e-4)
    assert_matches(logits[0], theirs(ids[:1]).logits[0], "whole row", tolerance=1e-4)


@pytest.mark.parametrize("heads, keys", [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("length", [1, 7, 40])
def test_bfloat16_attention_on_the_cpu(heads, keys, length):
    """Plain products in bfloat16 agree with float64 attention, in values and gradients."""
    torch.manual_seed(0)
    shapes = [(2, length, count, 8) for count in (heads, keys, keys)]
    narrow = [torch.randn(shape).to(torch.bfloat16).requires_grad_() for shape in shapes]
    wide = [x.detach().double().requires_grad_() for x in narrow]
    outputs = [CausalAttention().turned(*inputs) for inputs in (narrow, wide)]
    assert_matches(*outputs, "attention")
    weight = torch.randn(outputs[1].shape, dtype=torch.float64)
    for out in outputs:
        (out.double() * weight).sum().backward()
    for name, x, y in zip("qkv", narrow, wide, strict=True):
        assert_matches(x.grad, y.grad, f"gradient of {name}")


class Cache:
    """Pages for a few sequences, kept as the engine keeps them."""

    def __init__(self, config: DecoderConfig, rows: int, pages: int = 24, page_size: int = 4):
        self.pool = PagePool(pages, page_size)
        self.sequences = [self.pool.new() for _ in range(rows)]
        shape = (config.num_hidden_layers, pages, page_size, config.num_key_value_heads, config.head_size)
        self.k_pages, self.v_pages = torch.full(shape, float("nan")), torch.full(shape, float("nan"))

    def attend(self, counts: list[int], step: bool = False) -> tuple[torch.Tensor, PagedAttention]:
        """(positions [T], attention) for `counts[r]` new tokens of each row r."""
        rows, positions = [], []
        for row, (sequence, count) in enumerate(zip(self.sequences, counts, strict=True)):
            start = self.pool.length(sequence)
            assert not self.pool.append(sequence, count)
            rows += [row] * count
            positions += range(start, start + count)
        held = [self.pool.pages(sequence) for sequence in self.sequences]
        table = torch.zeros(len(held), max(map(len, held)), dtype=torch.int32)
        for row, pages in enumerate(held):
            table[row, : len(pages)] = torch.tensor(pages)
        rows, positions = (torch.tensor(x, dtype=torch.int32) for x in (rows, positions))
        return positions, PagedAttention(self.k_pages, self.v_pages, table, None if step else rows, positions)


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_step_by_step_through_pages(shape):
    """Prompts of unequal length prefilled together, in two chunks, then one token a step, equal full passes."""
    theirs, ours = pair(shape)
    lengths, steps = [13, 6], 8
    ids = [torch.randint(0, VOCAB, (n + steps,)) for n in lengths]
    expected = [theirs(row[None]).logits[0] for row in ids]
    cache, done = Cache(ours.decoder.config, rows=2), [0, 0]
    for chunk in ([5, 4], [8, 2], *[[1, 1]] * steps):
        tokens = torch.cat([row[d : d + c] for row, d, c in zip(ids, done, chunk, strict=True)])
        positions, attend = cache.attend(chunk, step=chunk == [1, 1])
        hidden = ours.decoder(ours.embed(tokens), positions, attend)
        logits = F.linear(hidden, ours.head_weight).split(chunk)
        for row in range(2):
            wanted = expected[row][done[row] : done[row] + chunk[row]]
            assert_matches(logits[row], wanted, f"row {row} from {done[row]}", tolerance=1e-4)
            done[row] += chunk[row]
    cache.pool.check()


@pytest.mark.parametrize("shape", ["qwen2-gqa-tied", "qwen3-norms"])
def test_gradients_equal(shape):
    theirs, ours = pair(shape)
    ids = torch.randint(0, VOCAB, (2, 17))
    for model, logits in ((theirs, theirs(ids).logits), (ours, ours.logits(ids))):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        assert model is not None
    named = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert_matches(parameter.grad, named[name].grad, name, tolerance=1e-4)


def test_training_under_autocast_lowers_the_loss():
    torch.manual_seed(0)
    config = DecoderConfig(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, dropout=0.05,
    )  # fmt: skip
    model = CausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.randint(0, 32, (4, 24))
    losses = []
    for _ in range(40):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model.logits(ids)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0], losses


def test_dropout_acts_in_training_only():
    config = DecoderConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, dropout=0.5,
    )  # fmt: skip
    model, ids = CausalLM(config), torch.arange(16)[None]
    assert not torch.equal(model.train().logits(ids), model.logits(ids))
    assert torch.equal(model.eval().logits(ids), model.logits(ids))


@pytest.mark.parametrize("shape", [(7,), (64, 33, 31), (0, 4)])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout(shape, p):
    """Zeroes a share p, scales what it keeps, repeats with the seed, and passes gradients where values pass."""
    x = torch.full(shape, 3.0, requires_grad=True)
    torch.manual_seed(5)
    y = dropout(x, p, True)
    torch.manual_seed(5)
    assert torch.equal(y, dropout(x, p, True))
    assert dropout(x, p, False) is x or torch.equal(dropout(x, p, False), x)
    y.sum().backward()
    assert torch.equal(x.grad * 3.0, y)
    assert torch.all((y == 0) | ((y - 3.0 / (1 - p)).abs() < 1e-3))
    if x.numel() > 10_000:
        assert (y == 0).float().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / x.numel()) ** 0.5)


@pytest.mark.slow
def test_compiles_whole():
    """No graph breaks, in a full pass with gradients and in a step over pages."""
    _, ours = pair("qwen2-gqa-tied")
    ids = torch.randint(0, VOCAB, (2, 9))
    compiled = torch.compile(ours.logits, fullgraph=True, backend="aot_eager")
    assert_matches(compiled(ids), ours.logits(ids), "logits")
    compiled(ids).sum().backward()
    assert ours.decoder.norm.weight.grad.isfinite().all()
    embeds = torch.randn(2, 48)
    with torch.no_grad():
        results = []
        for wrap in (lambda f: f, lambda f: torch.compile(f, fullgraph=True, backend="aot_eager")):
            positions, attend = Cache(ours.decoder.config, rows=2).attend([1, 1], step=True)
            results.append(wrap(ours.decoder.forward)(embeds, positions, attend))
    assert_matches(*results, "step")


def test_a_head_that_should_be_tied_must_be_equal():
    _, ours = pair("qwen2-gqa-tied")
    state = dict(ours.state_dict())
    state["lm_head.weight"] = torch.zeros(VOCAB, 48)
    with pytest.raises(ValueError, match=r"lm_head\.weight differs"):
        ours.load_state_dict(state)


def test_a_config_that_lacks_sizes():
    with pytest.raises(ConfigError, match="llama config: missing keys vocab_size, hidden_size"):
        DecoderConfig.from_hf({"model_type": "llama"})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not supported"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope type 'yarn'"),
        ({"use_sliding_window": True}, "use_sliding_window True"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
    ],
)
def test_configs_that_are_not_supported(change, message):
    values = {
        "model_type": "qwen2", "vocab_size": 8, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 1e6,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=message):
        DecoderConfig.from_hf({**values, **change})


def test_config_keys_are_strict():
    values = DecoderConfig(
        vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2,
    ).to_dict()  # fmt: skip
    assert DecoderConfig.from_dict(values).to_dict() == values
    with pytest.raises(ConfigError, match="unknown keys depth"):
        DecoderConfig.from_dict({**values, "depth": 3})
    with pytest.raises(ConfigError, match="missing keys hidden_size"):
        DecoderConfig.from_dict({k: v for k, v in values.items() if k != "hidden_size"})
    with pytest.raises(ConfigError, match="hidden_size: expected int, got str '16'"):
        DecoderConfig.from_dict({**values, "hidden_size": "16"})
