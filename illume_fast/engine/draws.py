"""Drawing: rows that stand at the same kind of step share one head product over its legal ids.

Hidden states of both branches are mixed before the head, which is linear; so guidance costs no second product and
illegal ids cost nothing. Which rows share a product changes only where a plan enters another kind of step, so the
index tensors are built there and reused in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from illume_fast.engine.plan import Site
from illume_fast.engine.scheduler import Row
from illume_fast.model.head import Head
from illume_fast.ops.cfg_head_sample import cfg_head_sample
from illume_fast.ops.cfg_sample import cfg_sample
from illume_fast.ops.linear import linear

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Group:
    """Rows that draw from the same ids.

    Tensors have one entry per row, and repeats of the first up to a round count. `unconditional` is None where no row
    is guided.
    """

    ranges: Ranges
    members: NDArray[np.int64]
    count: int
    conditional: Tensor
    unconditional: Tensor | None
    guidance: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    seed: Tensor


class Draws:
    """The draws of a fixed list of rows.

    Hidden states come by stream: row r's conditional one at r, unconditional ones after all of those, in row order.
    """

    def __init__(self, rows: Sequence[Row], row_multiple: int, device: torch.device) -> None:
        self.rows = rows
        self.device = device
        self._multiple = row_multiple
        self.drawn = np.array([row.drawn for row in rows], np.int64)
        guided = np.array([len(row.streams) == 2 for row in rows], bool)
        # an unguided row is its own unconditional branch: u + g * (c - u) is then exactly c
        self._unconditional = np.where(guided, len(rows) + np.cumsum(guided) - 1, np.arange(len(rows)))
        self._compile_plans()
        self._last_sites: NDArray[np.int64] | None = None
        self._groups: list[Group] = []

    def _compile_plans(self) -> None:
        """Concatenate the distinct plans' draws into `steps` and `_site_at`; row r's start at `_offset[r]`."""
        starts: dict[int, int] = {}
        sites: dict[Site, int] = {}
        steps: list[NDArray[np.int64]] = []
        site_at: list[NDArray[np.int64]] = []
        end = 0
        for plan in (row.request.plan for row in self.rows):
            if id(plan) in starts:
                continue
            starts[id(plan)] = end
            order = np.array([sites.setdefault(site, len(sites)) for site in plan.sites], np.int64)
            steps.append(plan.draws)
            site_at.append(order[plan.site[plan.draws]])
            end += len(plan.draws)
        self.steps = np.concatenate(steps)
        self._site_at = np.concatenate(site_at)
        self._sites = list(sites)
        self.offset = np.array([starts[id(row.request.plan)] for row in self.rows], np.int64)
        self.left = np.array([len(row.request.plan.draws) for row in self.rows], np.int64) - self.drawn

    def draw(self, hidden: Tensor, head: Head) -> tuple[Tensor, NDArray[np.int64]]:
        """One draw per row: ids int64[R], and the step of its answer each row stands at, int64[R]."""
        at = self.offset + self.drawn
        step = self.steps[at]
        sites = self._site_at[at]
        if self._last_sites is None or not np.array_equal(sites, self._last_sites):
            self._groups = self._group(sites)
            self._last_sites = sites
        self.drawn += 1
        self.left -= 1
        if len(self._groups) == 1:
            group = self._groups[0]
            return self._sample(group, hidden, head, step)[: group.count], step
        ids = torch.empty(len(self.rows), dtype=torch.int64, device=self.device)
        for group in self._groups:
            drawn = self._sample(group, hidden, head, step)[: group.count]
            ids.index_copy_(0, self._tensor(group.members[: group.count]), drawn)
        return ids, step

    def write_back(self) -> None:
        """Tell the rows how many ids they have drawn, before another list of rows takes over."""
        for row, drawn in zip(self.rows, self.drawn.tolist(), strict=True):
            row.drawn = drawn

    def _sample(self, group: Group, hidden: Tensor, head: Head, step: NDArray[np.int64]) -> Tensor:
        steps = self._tensor(step[group.members])
        settings = {
            "temperature": group.temperature,
            "top_k": group.top_k,
            "top_p": group.top_p,
            "min_p": group.min_p,
            "seed": group.seed,
            "step": steps,
        }
        if head.prepare is not None:
            hidden = head.prepare(hidden)
        conditional = hidden.index_select(0, group.conditional)
        unconditional = None if group.unconditional is None else hidden.index_select(0, group.unconditional)
        guidance = 1.0 if unconditional is None else group.guidance
        if len(group.ranges) == 1:
            return cfg_head_sample(
                conditional, unconditional, head.weight, group.ranges[0], guidance=guidance, bias=head.bias, **settings
            )
        mixed = conditional
        if unconditional is not None:
            c, u = conditional.float(), unconditional.float()
            mixed = (u + group.guidance[:, None] * (c - u)).to(head.weight.dtype)
        lo, hi = group.ranges[0][0], group.ranges[-1][1]
        logits = linear(mixed, head.weight[lo:hi], None if head.bias is None else head.bias[lo:hi]).float()
        for (_, end), (start, _) in zip(group.ranges, group.ranges[1:], strict=False):
            logits[:, end - lo : start - lo] = -torch.inf
        ids = cfg_sample(logits, None, guidance=1.0, **settings)
        # a bad row's -1 stays -1
        return torch.where(ids < 0, ids, ids + lo)

    def _group(self, sites: NDArray[np.int64]) -> list[Group]:
        members: dict[Ranges, list[int]] = {}
        for row, site in enumerate(sites.tolist()):
            members.setdefault(self._sites[site].ranges, []).append(row)
        return [self._build(ranges, rows, sites) for ranges, rows in members.items()]

    def _build(self, ranges: Ranges, rows: list[int], sites: NDArray[np.int64]) -> Group:
        count = len(rows)
        rows = rows + rows[:1] * (-count % self._multiple)
        index = np.array(rows, np.int64)
        requests = [self.rows[r].request for r in rows]
        settings = [q.sampling.sets[self._sites[sites[r]].set] for q, r in zip(requests, rows, strict=True)]

        def column(values: list[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=self.device)

        return Group(
            ranges=ranges,
            members=index,
            count=count,
            conditional=self._tensor(index),
            unconditional=self._tensor(self._unconditional[index]) if any(q.guided for q in requests) else None,
            guidance=column([q.sampling.guidance for q in requests], torch.float32),
            temperature=column([s.temperature for s in settings], torch.float32),
            top_k=column([s.top_k for s in settings], torch.int64),
            top_p=column([s.top_p for s in settings], torch.float32),
            min_p=column([s.min_p for s in settings], torch.float32),
            seed=column([self.rows[r].seed for r in rows], torch.int64),
        )

    def _tensor(self, array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)
