"""How elements are divided: tiles of a fixed size, and programs that visit one or several tiles."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from torchbce.backends.request import KernelInputs, LossSpec

#: Elements per tile: 16 per thread, so that several loads of 16 bytes are in flight; half as many
#: where there are several operands. Losses that take more registers have 4 per thread, of 16 bits
#: 8.
BLOCK, SMALL_BLOCK = 2048, 512
#: From this number of elements on a program visits several tiles, which leaves fewer partial sums
#: to add up.
MANY, TILES = 2**22, 4


def block_size(loss_spec: LossSpec, inputs: KernelInputs, linear: bool = False) -> int:
    """Elements per tile; for a linear layer it depends only on the loss and the dtype."""
    input, options = inputs.input, (inputs.weight, inputs.pos_weight, inputs.mask)
    if loss_spec.loss == "logits" and input.dtype != torch.float64:
        given = sum(option is not None for option in options)
        return BLOCK // (2 if linear or given > 1 else 1)
    return SMALL_BLOCK if input.dtype.itemsize > 2 else 2 * SMALL_BLOCK


def tiles_per_program(n: int) -> int:
    return TILES if n >= MANY else 1


def count_programs(n: int, block: int) -> int:
    """How many programs visit n elements in tiles of `block`."""
    return -(-n // (block * tiles_per_program(n)))


def sum_warps(block: int, device: torch.device) -> int:
    """The number of warps that add up `block` partial sums: 8 sums per thread, 1,024 threads."""
    warp = _warp_size(device)
    return min(max(block // (8 * warp), 1), 1024 // warp)


@functools.cache
def _warp_size(device: torch.device) -> int:
    """The number of threads of a warp: 32, and 64 on the data centre GPUs of AMD."""
    if device.type != "cuda":  # Triton's interpreter
        return 32
    return int(torch.cuda.get_device_properties(device).warp_size)


def search_tile_starts(keys: Tensor, first: int, n: int, block: int) -> Tensor:
    """Where in sorted keys those of each tile start, and where those of the last one end."""
    tiles = count_programs(n, block) * tiles_per_program(n)
    edges = torch.arange(tiles + 1, device=keys.device).mul_(block).clamp_(max=n).add_(first)
    return torch.searchsorted(keys, edges)


def chunk_tile_starts(
    loss_spec: LossSpec, like: Tensor, keys: Tensor | None, n: int, chunk: int
) -> Tensor | None:
    """Where in sorted keys those of each tile start, for all chunks of a linear layer at once.

    Args:
        loss_spec: the loss.
        like: a tensor of the logits' dtype.
        keys: sorted, from 0 to n - 1; None for none.
        n: the number of elements of all chunks.
        chunk: the number of elements per chunk.

    Returns:
        [chunks, tiles + 1], for `LinearInputs.tile_starts`; None without keys or elements.
    """
    if keys is None or not n:
        return None
    block = block_size(loss_spec, KernelInputs(like, like), True)
    tiles = count_programs(chunk, block) * tiles_per_program(chunk)
    # An even number per row, so that each row starts at a multiple of 16 bytes: Triton compiles
    # another kernel for a pointer that does not.
    edges = torch.arange(tiles + 1 + (tiles + 1) % 2, device=keys.device)
    edges = edges.mul_(block).clamp_(max=chunk)
    chunk_starts = torch.arange(-(-n // chunk), device=keys.device).mul_(chunk)
    return torch.searchsorted(keys, (edges + chunk_starts[:, None]).clamp_(max=n))


def count_partial_sums(loss_spec: LossSpec, like: Tensor, counts: Sequence[int]) -> list[int]:
    """How many partial sums a launch with `LinearInputs` writes, for each number of elements.

    Rounded up to multiples of 4, so that each row of sums starts at a multiple of 16 bytes; the
    caller fills the rest with 0.
    """
    block = block_size(loss_spec, KernelInputs(like, like), True)
    return [-(-count_programs(n, block) // 4) * 4 for n in counts]
