"""The decoder-only language model: one module for training and for generation, with Hugging Face parameter names."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from illume_fast.model.attention import Attend, CausalAttention, SelfAttention
from illume_fast.model.config import DecoderConfig
from illume_fast.model.head import Head
from illume_fast.model.layers import RMSNorm, SwiGLU, are_plain, dropout, rotary_table, runs_ops
from illume_fast.ops.gather_rows import gather_rows

_INIT_STD = 0.02
_ROTARY_TABLES = ("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq")


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each on a normalised copy of the residual stream."""

    def __init__(self, config: DecoderConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.dropout = config.dropout
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config.hidden_size, config.intermediate_size)

    def forward(
        self, x: Tensor, residual: Tensor | None, cos: Tensor, sin: Tensor, attend: Attend
    ) -> tuple[Tensor, Tensor]:
        """(branch, residual) -> (branch, residual), both [..., T, H]; their sum is the residual stream."""
        if residual is None:
            x, residual = self.input_layernorm(x), x
        else:
            x, residual = self.input_layernorm.after_sum(x, residual)
        x = self._drop(self.self_attn(x, cos, sin, self.index, attend))
        x, residual = self.post_attention_layernorm.after_sum(x, residual)
        return self._drop(self.mlp(x)), residual

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


class Decoder(nn.Module):
    """Embeddings in, hidden states out. How tokens see each other is the caller's choice (`attend`)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        # left empty here: on the meta device torch's own first draw would import its whole compiler
        self.embed_tokens = nn.Embedding.from_pretrained(
            torch.empty(config.vocab_size, config.hidden_size), freeze=False
        )
        self.layers = nn.ModuleList(DecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}
        initialise(self)

    def forward(self, inputs_embeds: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """inputs_embeds [..., T, H] and integer positions [..., T] -> hidden states [..., T, H] after the last norm."""
        cos, sin = self._angles(positions)
        x = dropout(inputs_embeds, self.config.dropout, self.training)
        first, *others = self.layers
        x, residual = first(x, None, cos, sin, attend)
        for layer in others:
            x, residual = layer(x, residual, cos, sin, attend)
        return self.norm.after_sum(x, residual)[0]

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines at `positions`; while generating, taken from tables of all positions there can be."""
        config, device = self.config, positions.device
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or positions.dtype != torch.int64:
            return rotary_table(positions, config.head_size, config.rope_theta)
        if device not in self._tables:
            every = torch.arange(config.max_position_embeddings, device=device)
            self._tables[device] = rotary_table(every, config.head_size, config.rope_theta)
        cos, sin = self._tables[device]
        return gather_rows(cos, positions), gather_rows(sin, positions)


class CausalLM(nn.Module):
    """A decoder and its head, named as in Hugging Face; there is no `lm_head` where weights are tied."""

    def __init__(self, config: DecoderConfig, model: Decoder | None = None) -> None:
        super().__init__()
        self.model = Decoder(config) if model is None else model
        self.lm_head: nn.Linear | None = None
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
            initialise(self.lm_head)
        self.register_load_state_dict_pre_hook(_drop_repeats)

    @property
    def decoder(self) -> Decoder:
        return self.model

    @property
    def head_weight(self) -> Tensor:
        """[V, H]: logits are `hidden @ head_weight.T`."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    @property
    def head(self) -> Head:
        """The head as the engine takes it."""
        return Head(self.head_weight)

    def repeats(self, name: str) -> bool:
        """Whether files may hold `name` although it says nothing new: a tied head, or an old rotary table."""
        return name.endswith(_ROTARY_TABLES) or (name == "lm_head.weight" and self.lm_head is None)

    def embed(self, ids: Tensor) -> Tensor:
        """Ids [...] -> embeddings [..., H]."""
        table = self.model.embed_tokens
        return gather_rows(table.weight, ids) if runs_ops(table.weight) and are_plain(table) else table(ids)

    def logits(self, ids: Tensor, keep: Tensor | None = None) -> Tensor:
        """Ids [B, T] -> logits [B, T, V] of one full causal pass; `keep` (bool [B, T]) is False at left padding."""
        positions = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
        hidden = self.model(self.embed(ids), positions, CausalAttention(keep))
        return F.linear(hidden, self.head_weight)


def initialise(module: nn.Module, std: float = _INIT_STD) -> None:
    """Draw every linear and embedding weight below `module` from N(0, std), zero the biases.

    Matrices that write to the residual stream are scaled by 1 / sqrt(2 layers) (Radford et al., GPT-2).
    """
    layers = sum(isinstance(m, DecoderLayer) for m in module.modules())
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear | nn.Embedding) and not part.weight.is_meta:
            writes = name.endswith(("o_proj", "down_proj"))
            nn.init.normal_(part.weight, std=std * (2 * layers) ** -0.5 if writes and layers else std)
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)


def _drop_repeats(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Hugging Face may store a tied head a second time, and old Llamas their rotary table."""
    assert isinstance(module, CausalLM)
    for key in [key for key in state if key.startswith(prefix) and module.repeats(key.removeprefix(prefix))]:
        if key == f"{prefix}lm_head.weight":
            _require_tied(state[key], state.get(f"{prefix}model.embed_tokens.weight"))
        del state[key]


def _require_tied(head: Tensor, embedding: Tensor | None) -> None:
    if embedding is not None and not torch.equal(head, embedding):
        raise ValueError("lm_head.weight differs from model.embed_tokens.weight, but the config ties them")
