"""Batch norm with statistics over the batches of all cards, for any backend.

torch's own SyncBatchNorm has no CPU kernels, so it could be neither used nor tested there; this one
is made of ordinary operators and two small all-reduces, and computes the same.
"""
from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import distributed


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """`nn.BatchNorm2d` over all ranks; in eval mode and in a world of one exactly that.

    Takes (B, C, ...) of any number of dimensions; batches may differ in size between ranks. Same
    parameters, buffers and names. Differentiable once.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"batch norm needs (B, C, ...), got {tuple(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or distributed.world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        out, mean, variance, count = _Normalize.apply(x, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self._move_running_statistics(mean, variance, count)
        return out

    @torch.no_grad()
    def _move_running_statistics(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:        # cumulative average
            momentum = 1.0 / self.num_batches_tracked.to(mean.dtype)
        unbiased = variance * (count / (count - 1))
        for running, value in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.copy_(running + momentum * (value.to(running.dtype) - running))


class _Normalize(torch.autograd.Function):
    """Normalized x with the mean, biased variance and number of values per channel of all ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None,
                eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        channels, dims = x.shape[1], [0, *range(2, x.dim())]
        variance, mean = torch.var_mean(_at_least_fp32(x), dims, correction=0)
        count = mean.new_full((1,), x.numel() // channels)
        every = distributed.stack_over_ranks(torch.cat([mean, variance, count]))
        means, variances, counts = every.split([channels, channels, 1], dim=1)
        # Chan's combination: no difference of large sums, unlike E[x^2] - E[x]^2.
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        variance = ((variances + (means - mean) ** 2) * counts).sum(0) / total
        out = F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, variance, total)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, total)
        return out, mean, variance, total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, total = ctx.saved_tensors
        dims, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
        inverse = torch.rsqrt(variance + ctx.eps)
        grad32 = _at_least_fp32(grad)
        centered = _at_least_fp32(x) - mean.view(shape)
        sums = torch.stack([grad32.sum(dims), (grad32 * centered).sum(dims)])
        # Parameters get this rank's part: DDP averages it like any other gradient.
        grad_weight = None if weight is None else (sums[1] * inverse).to(weight.dtype)
        grad_bias = None if weight is None else sums[0].to(weight.dtype)
        shift, slope = distributed.sum_over_ranks(sums.clone()) / total
        gain = inverse if weight is None else inverse * weight
        grad_x = torch.addcmul(grad32 - shift.view(shape), centered,
                               (slope * inverse ** 2).view(shape), value=-1)
        return (grad_x * gain.view(shape)).to(x.dtype), grad_weight, grad_bias, None


def _at_least_fp32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def synchronize_batch_norms(network: nn.Module) -> int:
    """Replace the batch norms inside a network by synchronized ones, in place.

    Parameters and buffers are kept as they are. Call before casting and before the optimizer.

    Returns:
        How many were replaced.
    """
    count = 0
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
                setattr(module, name, _synchronized(child))
                count += 1
    return count


def _synchronized(norm: nn.modules.batchnorm._BatchNorm) -> SyncBatchNorm:
    # On the meta device the constructor allocates nothing; every tensor is taken over.
    made = SyncBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine,
                         norm.track_running_stats, device="meta")
    for table in ("_parameters", "_buffers"):
        getattr(made, table).update(getattr(norm, table))
    return made.train(norm.training)
