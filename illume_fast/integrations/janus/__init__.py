"""Janus of `transformers` (deepseek-community/Janus-Pro-1B and its like): pictures drawn on our engine.

`accelerate(model)` takes a `JanusForConditionalGeneration` as it is.
"""

from illume_fast.integrations.janus.patch import accelerate, revert
from illume_fast.integrations.plain import UnsupportedModelError
from illume_fast.integrations.report import Report

__all__ = ["Report", "UnsupportedModelError", "accelerate", "revert"]
