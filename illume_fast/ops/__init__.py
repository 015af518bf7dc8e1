"""The ops: plain functions, each with a reference and its backends; `use_backend` forces one of them.

`ops.swiglu` is the op, and `illume_fast.ops.swiglu` the file it is declared in: they are all imported here, so that the
name stands for the op whatever is imported afterwards.
"""

from illume_fast.ops.cfg_head_sample import cfg_head_sample
from illume_fast.ops.cfg_probabilities import cfg_probabilities
from illume_fast.ops.cfg_sample import cfg_sample
from illume_fast.ops.code_statistics import code_statistics
from illume_fast.ops.codebook_ema import codebook_ema
from illume_fast.ops.decode_attention import decode_attention
from illume_fast.ops.dispatch import use_backend
from illume_fast.ops.gather_rows import gather_rows
from illume_fast.ops.gelu import gelu
from illume_fast.ops.linear import linear
from illume_fast.ops.linear_cross_entropy import cross_entropy_within_ranges, linear_cross_entropy
from illume_fast.ops.nearest_code import PackedCodebook, nearest_code
from illume_fast.ops.paged_append import paged_append
from illume_fast.ops.paged_attention import paged_attention, paged_prefill_attention
from illume_fast.ops.plan_ahead import plan_accept, plan_feed_ahead, plan_note
from illume_fast.ops.plan_steps import plan_draw, plan_feed, plan_record
from illume_fast.ops.qkv_linear import qkv_linear
from illume_fast.ops.quantize import quantize
from illume_fast.ops.rms_norm import add_rms_norm, rms_norm
from illume_fast.ops.rope import rope
from illume_fast.ops.spatial_norm import spatial_norm
from illume_fast.ops.swiglu import swiglu
from illume_fast.ops.swiglu_linear import swiglu_linear

__all__ = [
    "PackedCodebook",
    "add_rms_norm",
    "cfg_head_sample",
    "cfg_probabilities",
    "cfg_sample",
    "code_statistics",
    "codebook_ema",
    "cross_entropy_within_ranges",
    "decode_attention",
    "gather_rows",
    "gelu",
    "linear",
    "linear_cross_entropy",
    "nearest_code",
    "paged_append",
    "paged_attention",
    "paged_prefill_attention",
    "plan_accept",
    "plan_draw",
    "plan_feed",
    "plan_feed_ahead",
    "plan_note",
    "plan_record",
    "qkv_linear",
    "quantize",
    "rms_norm",
    "rope",
    "spatial_norm",
    "swiglu",
    "swiglu_linear",
    "use_backend",
]
