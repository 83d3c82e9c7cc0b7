"""The sigmoid loss of pairs as a module with the arguments of open_clip's `SigLipLoss`."""

from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from torchbce.linear import arguments
from torchbce.linear.pairwise import pairwise_sigmoid_loss

__all__ = ["PairwiseSigmoidLoss"]

_EXCHANGES = ("bidir", "shift", "reduce", "gather")


class PairwiseSigmoidLoss(nn.Module):
    r"""The sigmoid loss of pairs, in place of `open_clip.loss.SigLipLoss`, without N x N logits.

    .. math::
        \ell = \frac{1}{N} \sum_{i, j} -\log \sigma(s_{ij} z_{ij}),
        \qquad z_{ij} = t \, x_i \cdot y_j + b, \quad s_{ij} = 1 \text{ if } i = j \text{ else } -1

    It is called as open_clip's loss is, and returns the same number: `loss(**model_output,
    output_dict=True)`. See `torchbce.pairwise_sigmoid_loss` for how it is computed; with its
    `positives` an image may have several texts, or none.

    With several processes, each has its own pairs, and every image is compared with the texts of
    all of them. The loss is that of this process' images divided by the mean number of pairs of a
    process, so that its mean over the processes is the loss of all pairs. Average its gradients
    over the processes, as DistributedDataParallel does. The processes may have different numbers of
    pairs.

    Args:
        cache_labels: has no effect, as in open_clip: the positives are the diagonal.
        rank: of this process.
        world_size: the number of processes. Above 1, all processes of `torch.distributed` take
            part, which must be as many.
        dist_impl: "bidir", "shift", "reduce", "gather" or None. How open_clip exchanges the texts;
            it has no effect here, where the processes broadcast them in turn.
        chunk_pairs: the number of texts per chunk; None for a size that suits the device.

    Returns:
        The module. It is called with `image_features` and `text_features`, both [N, D] and not
        normalised here, `logit_scale` (t), `logit_bias` (b, None for 0) and `output_dict`, and
        returns the loss, or with `output_dict=True` a dictionary {"contrastive_loss": loss}.

    Raises:
        ValueError: if `dist_impl` is none of these names, or `rank` is not below `world_size`.

    Example:
        >>> import torch, torchbce
        >>> loss = torchbce.PairwiseSigmoidLoss()  # open_clip.loss.SigLipLoss()
        >>> image = torch.nn.functional.normalize(torch.eye(3, 4) + 0.1)
        >>> output = {"image_features": image, "text_features": image, "logit_scale": 10.0}
        >>> loss(**output, logit_bias=-10.0, output_dict=True)
        {'contrastive_loss': tensor(0.6938)}

    References:
        Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023.
        https://github.com/mlfoundations/open_clip/blob/v3.3.0/src/open_clip/loss.py
    """

    def __init__(
        self,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        dist_impl: str | None = None,
        *,
        chunk_pairs: int | None = None,
    ) -> None:
        super().__init__()
        if dist_impl is not None and dist_impl not in _EXCHANGES:
            names = ", ".join(map(repr, _EXCHANGES))
            raise ValueError(f"dist_impl must be one of {names} or None; got {dist_impl!r}")
        if not 0 <= rank < world_size:
            raise ValueError(
                f"rank must be from 0 to world_size - 1, got rank {rank} and world_size "
                f"{world_size}; give torch.distributed.get_rank() and get_world_size()"
            )
        arguments.check_chunk("chunk_pairs", chunk_pairs)
        self.cache_labels, self.rank, self.world_size = cache_labels, rank, world_size
        self.dist_impl, self.chunk_pairs = dist_impl, chunk_pairs

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """The loss of one batch, as `pairwise_sigmoid_loss` computes it.

        Args:
            image_features: x, [N, D], of any floating dtype.
            text_features: y, the texts of these images in the same order, [N, D].
            logit_scale: t, a number or a tensor of one element.
            logit_bias: b, a number or a tensor of one element; None for 0.
            output_dict: whether to return a dictionary.

        Returns:
            The loss, 0-dimensional, or {"contrastive_loss": loss}.

        Raises:
            TypeError: if dtypes do not match.
            ValueError: if shapes do not match, or a feature on the CPU is not finite.
            RuntimeError: if `world_size` is above 1 and not that of `torch.distributed`.
        """
        loss = pairwise_sigmoid_loss(
            image_features,
            text_features,
            scale=logit_scale,
            bias=logit_bias,
            group=self._group(),
            chunk_pairs=self.chunk_pairs,
        )
        if self.world_size > 1:
            loss = loss * self.world_size
        return {"contrastive_loss": loss} if output_dict else loss

    def _group(self) -> Any:
        """All processes, or None for one."""
        if self.world_size == 1:
            return None
        if not dist.is_initialized():
            raise RuntimeError(
                f"world_size is {self.world_size}, and torch.distributed is not initialised; call "
                "torch.distributed.init_process_group first, or give world_size=1"
            )
        if dist.get_world_size() != self.world_size or dist.get_rank() != self.rank:
            raise RuntimeError(
                f"rank is {self.rank} and world_size {self.world_size}, and torch.distributed has "
                f"rank {dist.get_rank()} of {dist.get_world_size()} processes; give its numbers"
            )
        return dist.group.WORLD

    def extra_repr(self) -> str:
        """The options that have an effect."""
        shown = f"rank={self.rank}, world_size={self.world_size}" if self.world_size > 1 else ""
        if self.chunk_pairs is not None:
            shown += f"{', ' if shown else ''}chunk_pairs={self.chunk_pairs}"
        return shown
