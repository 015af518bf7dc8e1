"""The peer: `transformers` generate, both branches of guidance in one forward pass, with a static cache."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from illume_fast.engine import Plan, SamplingParams
from illume_fast.model.decoder import CausalLM

PAD = 0


def mirror(model: CausalLM) -> Any:
    """A `Qwen2ForCausalLM` on the weights of `model`, which are not copied."""
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

    ours = model.decoder.config
    config = Qwen2Config(
        vocab_size=ours.vocab_size,
        hidden_size=ours.hidden_size,
        intermediate_size=ours.intermediate_size,
        num_hidden_layers=ours.num_hidden_layers,
        num_attention_heads=ours.num_attention_heads,
        num_key_value_heads=ours.num_key_value_heads,
        max_position_embeddings=ours.max_position_embeddings,
        rms_norm_eps=ours.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": ours.rope_theta},
        tie_word_embeddings=ours.tie_word_embeddings,
        attn_implementation="sdpa",
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=PAD,
    )
    with torch.device("meta"):
        theirs = Qwen2ForCausalLM(config)
    theirs.load_state_dict(model.state_dict(), strict=False, assign=True)
    theirs.tie_weights()
    theirs.model.rotary_emb = Qwen2RotaryEmbedding(config).to(model.head_weight.device)
    if left := [name for name, x in theirs.named_parameters() if x.is_meta]:
        raise RuntimeError(f"bench: no weights for {', '.join(left)}")
    return theirs.eval()


@dataclass
class Draw:
    """A logits processor that draws by a plan: rows [:B] are the conditional branches, rows [B:] the others.

    It mixes the legal rows alone, draws one id for a pair, and leaves that one id possible on both rows, for `generate`
    to take the largest. `times` are when it was called.
    """

    plan: Plan
    sampling: SamplingParams
    times: list[float] = field(default_factory=list)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = len(self.times)
        self.times.append(time.perf_counter())
        out = torch.full_like(scores, -torch.inf)
        site = int(self.plan.site[step])
        if site < 0:
            out[:, int(self.plan.forced[step])] = 0
            return out
        where = self.plan.sites[site]
        settings = self.sampling.sets[where.set]
        conditional, unconditional = scores[:, where.lo : where.hi].chunk(2)
        mixed = unconditional + self.sampling.guidance * (conditional - unconditional)
        if settings.temperature == 0:
            ids = mixed.argmax(1)
        else:
            mixed = mixed / settings.temperature
            if settings.top_k:
                mixed = mixed.masked_fill(mixed < mixed.topk(settings.top_k, 1).values[:, -1:], -torch.inf)
            ids = torch.multinomial(mixed.softmax(1), 1)[:, 0]
        return out.scatter_(1, (ids + where.lo).repeat(2)[:, None], 0)


def padded(prompts: list[tuple[int, ...]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids [N, T] and mask [N, T], filled up on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([(PAD,) * (width - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([(0,) * (width - len(p)) + (1,) * len(p) for p in prompts], device=device)
    return ids, mask


@torch.no_grad()
def read(model: Any, prompts: list[tuple[int, ...]], steps: int) -> Any:
    """A `StaticCache` in which all prompts were read but for their last ids, with room for `steps` more."""
    from transformers import StaticCache

    ids, mask = padded(prompts, model.device)
    cache = StaticCache(model.config, max_cache_len=ids.shape[1] + steps)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    model(
        ids[:, :-1],
        attention_mask=mask[:, :-1],
        position_ids=positions[:, :-1],
        past_key_values=cache,
        logits_to_keep=1,
    )
    return cache


@torch.no_grad()
def generate(
    model: Any, prompts: list[tuple[int, ...]], draw: Draw, *, compiled: bool = False, cache: Any = None
) -> Tensor:
    """The answers [B, S] to B conditional prompts followed by B unconditional ones.

    `cache` is what `read` made of these prompts; it may be used again and again.
    """
    ids, mask = padded(prompts, model.device)
    steps = len(draw.plan)
    if cache is not None:
        for layer in cache.layers:
            layer.cumulative_length.fill_(ids.shape[1] - 1)
    answer = model.generate(
        ids,
        attention_mask=mask,
        logits_processor=[draw],
        do_sample=False,
        max_new_tokens=steps,
        disable_compile=not compiled,
        **({"cache_implementation": "static"} if cache is None else {"past_key_values": cache}),
    )
    return answer[: len(prompts) // 2, -steps:]


@torch.no_grad()
def mixed_logits(
    model: Any, prompts: tuple[tuple[int, ...], tuple[int, ...]], answer: Tensor, lo: int, hi: int, guidance: float
) -> Tensor:
    """Logits [hi - lo] of the id after `answer` [S], which follows both prompts, in one pass without a cache."""
    rows = []
    for prompt in prompts:
        ids = torch.cat([torch.tensor(prompt, device=answer.device), answer])[None]
        rows.append(model(ids, use_cache=False, logits_to_keep=1).logits[0, -1, lo:hi].float())
    conditional, unconditional = rows
    return unconditional + guidance * (conditional - unconditional)
