"""Eq. 6: the batched projector is L·K separate MLPs."""

import torch
from torch import nn

from clickprompt.models.projector import PromptProjector

B, Q, L, K, H = 5, 7, 3, 2, 4


def test_equals_separate_mlps_forward_and_backward() -> None:
    torch.manual_seed(0)
    projector = PromptProjector(Q, L, K, H).double()
    for parameter in projector.parameters():
        nn.init.normal_(parameter)
    q = torch.randn(B, Q, dtype=torch.float64, requires_grad=True)
    coefficients = torch.randn(B, L, K, H, dtype=torch.float64)

    prompts = projector(q)
    assert prompts.shape == (B, L, K, H)
    (prompts * coefficients).sum().backward()

    q_naive = q.detach().clone().requires_grad_()
    for layer in range(L):
        for k in range(K):
            network = nn.Sequential(nn.Linear(Q, H), nn.Tanh(), nn.Linear(H, H)).double()
            n = layer * K + k
            ours = (
                projector.hidden_weight,
                projector.hidden_bias,
                projector.output_weight,
                projector.output_bias,
            )
            with torch.no_grad():
                for parameter, stacked in zip(network.parameters(), ours, strict=True):
                    parameter.copy_(stacked[n])
            output = network(q_naive)
            torch.testing.assert_close(prompts[:, layer, k], output, rtol=0, atol=1e-12)
            (output * coefficients[:, layer, k]).sum().backward()
            for parameter, stacked in zip(network.parameters(), ours, strict=True):
                torch.testing.assert_close(stacked.grad[n], parameter.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(q.grad, q_naive.grad, rtol=0, atol=1e-12)


def test_no_two_networks_start_equal() -> None:
    projector = PromptProjector(Q, L, K, H)
    prompts = projector(torch.randn(1, Q))[0].flatten(0, 1)
    assert len({tuple(row) for row in prompts.tolist()}) == L * K
