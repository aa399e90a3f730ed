"""Integrated gradients of the CTR tower's logit (Sundararajan, Taly and Yan 2017, "Axiomatic attribution for
deep networks", eq. 1), by field.

    a_j = (e_j − e'_j) · ∫₀¹ ∂f / ∂e_j (e' + t (e − e')) dt,   e' = the embeddings of the unknown id 0

f is the logit as a function of the fields' embeddings e. A linear term adds w[x_j] − w[0], which is exact.
Completeness: Σ_j a_j = f(e) − f(e'), up to the error of the midpoint rule.

Shape legend: B rows, F fields, d embedding size.
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clickprompt.models.ctr import CTRModel

__all__ = ["STEPS", "Attributions", "integrated_gradients"]

STEPS = 2048
"""points of the midpoint rule; ReLUs have kinks, so its error falls slowly"""
_POINTS = 1024  # of one forward pass, which bounds the memory


class Attributions(NamedTuple):
    logits: Tensor
    """of the rows, [B]"""
    baseline_logit: float
    """of a row whose values are all unknown"""
    of_fields: Tensor
    """a, [B, F]"""


def integrated_gradients(ctr: CTRModel, field_ids: Tensor, steps: int = STEPS) -> Attributions:
    """Attribute each row's CTR logit to its fields: field_ids [B, F + V + K]. `ctr` is in eval mode; the
    path is computed in float64.
    """
    assert ctr.prediction is not None, "built without its prediction layer"
    head = copy.deepcopy(nn.Sequential(ctr.backbone, ctr.prediction)).double()
    unknown = torch.zeros_like(field_ids[:1])
    with torch.no_grad():
        embeddings, baseline = (ctr.field_embeddings(ids).double() for ids in (field_ids, unknown))
    points = (torch.arange(steps, dtype=torch.float64, device=field_ids.device) + 0.5) / steps
    gradients = []
    for row in embeddings - baseline:  # [F, d]
        of_row = torch.zeros_like(row)
        for some in points.split(_POINTS):
            path = (baseline + some[:, None, None] * row).requires_grad_()
            of_row += torch.autograd.grad(head(path).sum(), path)[0].sum(0)
        gradients.append(of_row / steps)
    of_fields = ((embeddings - baseline) * torch.stack(gradients)).sum(2)
    with torch.no_grad():
        logits, baseline_logit = head(embeddings).squeeze(1), head(baseline).squeeze(1)
        terms, first = (ctr.terms(ids) for ids in (field_ids, unknown))
        if terms is not None and first is not None:
            terms, first = terms.double().squeeze(2), first.double().squeeze(2)
            of_fields = of_fields + terms - first
            logits, baseline_logit = logits + terms.sum(1), baseline_logit + first.sum(1)
    return Attributions(logits, float(baseline_logit), of_fields)
