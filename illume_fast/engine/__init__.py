"""Batch generation for any decoder with a head: requests in, ids out."""

from illume_fast.engine.engine import Engine, EngineConfig
from illume_fast.engine.plan import Plan, Site
from illume_fast.engine.request import (
    GREEDY,
    GenerativeModel,
    Partial,
    Progress,
    Request,
    RequestError,
    Result,
    SamplingParams,
    SamplingSet,
    Segment,
    sample_seed,
)

__all__ = [
    "GREEDY",
    "Engine",
    "EngineConfig",
    "GenerativeModel",
    "Partial",
    "Plan",
    "Progress",
    "Request",
    "RequestError",
    "Result",
    "SamplingParams",
    "SamplingSet",
    "Segment",
    "Site",
    "sample_seed",
]
