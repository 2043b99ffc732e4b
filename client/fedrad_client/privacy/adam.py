"""Adam for noised gradients: post-processing of what is released, so it costs no privacy."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

_FLOOR = 0.05  # of the noise's variance: what is left of a second moment that the noise drowned


class BiasCorrectedAdam(torch.optim.Optimizer):
    """DP-AdamBC (Tang, Panda, Sehwag, Mittal: "DP-AdamBC: Your DP-Adam Is Actually DP-SGD (Unless You Apply Bias Correction)", AAAI 2024).

    Noise of variance Φ in every gradient adds Φ to Adam's second moment, in the end the same for all weights, which makes Adam a plain SGD
    with a smaller rate. Φ is known, so it is taken out: the step is m / √max(v - Φ, floor). Without noise this is Adam.
    """

    def __init__(
        self, parameters: Iterable[Tensor], *, lr: float, noise_variance: float, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        """Args: noise_variance: Φ, of one weight of the divided gradient: (σ C / B)². weight_decay: decoupled, as in AdamW."""
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        self._variance, self._betas, self._least = noise_variance, betas, max(_FLOOR * noise_variance, eps**2)
        self._steps = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else closure()
        self._steps += 1
        first, second = self._betas
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                kept = self.state[parameter]
                if not kept:
                    kept["mean"], kept["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                kept["mean"].lerp_(parameter.grad, 1 - first)
                kept["square"].mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
                true = (kept["square"] / (1 - second**self._steps) - self._variance).clamp_(min=self._least).sqrt_()
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.addcdiv_(kept["mean"], true, value=-group["lr"] / (1 - first**self._steps))
        return loss
