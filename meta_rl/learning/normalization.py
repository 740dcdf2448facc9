"""Running means and variances of what an agent sees, merged batch by batch."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from meta_rl.core.ranks import gathered


@dataclass(frozen=True)
class RunningMoments:
    """Count, mean and variance of all values merged so far (Chan et al. 1979)."""

    count: Float[Tensor, ""]
    mean: Float[Tensor, "*D"]
    variance: Float[Tensor, "*D"]

    @classmethod
    def empty(cls, size: tuple[int, ...], device: torch.device) -> "RunningMoments":
        """Return the moments before any value, which leave values unchanged."""
        return cls(
            count=torch.zeros((), device=device),
            mean=torch.zeros(size, device=device),
            variance=torch.ones(size, device=device),
        )

    @classmethod
    def loaded(cls, state: Mapping[str, Tensor], device: torch.device) -> "RunningMoments":
        """Return the moments whose `vars` were saved."""
        return cls(**{name: value.to(device) for name, value in state.items()})

    def merge(self, values: Float[Tensor, "*B"], valid: Bool[Tensor, "*C"]) -> "RunningMoments":
        """Return the moments with all ranks' batches merged in; `valid` masks leading axes."""
        rows = values[valid]
        count = torch.tensor(float(len(rows)), device=values.device)
        own = (count, rows.mean(0), rows.var(0, unbiased=False))
        merged = self
        found = gathered(own)
        for moments in found:
            if len(found) == 1 or moments[0] > 0:  # a rank may have nothing
                merged = merged._with(*(each.to(values.device) for each in moments))
        return merged

    def _with(
        self, count: Float[Tensor, ""], mean: Float[Tensor, "*D"], variance: Float[Tensor, "*D"]
    ) -> "RunningMoments":
        """Return the moments with those of other values merged in."""
        total = self.count + count
        delta = mean - self.mean
        merged = self.variance * self.count + variance * count
        return type(self)(
            count=total,
            mean=self.mean + delta * count / total,
            variance=(merged + delta**2 * self.count * count / total) / total,
        )

    def normalize(self, values: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Shift to mean 0 and scale to variance 1, clipped to ±10."""
        return ((values - self.mean) / self.std).clamp(-10, 10)

    def scale(self, values: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Scale to variance 1 without a shift, clipped to ±10: 0 stays 0.

        A mean above 5 deviations is scaled to 5 instead. Otherwise the clip would hide how values
        differ: a humanoid earns 5 a step for standing, and its task varies the reward by 0.5.
        """
        return (values / torch.maximum(self.std, self.mean.abs() / 5)).clamp(-10, 10)

    @property
    def std(self) -> Float[Tensor, "*D"]:
        """Standard deviation, never 0."""
        return (self.variance + 1e-8).sqrt()
