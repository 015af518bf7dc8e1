"""Batch generation for any decoder with a head: requests in, ids out."""

from illume_fast.engine.engine import Engine, EngineConfig
from illume_fast.engine.plan import Plan, Site
from illume_fast.engine.request import (
    GenerativeModel,
    Partial,
    Progress,
    Request,
    RequestError,
    Result,
    Segment,
    sample_seed,
)
from illume_fast.engine.sampling import GREEDY, SamplingParams, SamplingSet, SecondChain

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
    "SecondChain",
    "Segment",
    "Site",
    "sample_seed",
]
