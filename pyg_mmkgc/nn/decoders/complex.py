import torch

from pyg_mmkgc.nn.decoders.base import ComplexSpaceDecoder


class ComplExDecoder(ComplexSpaceDecoder):
    r"""The score function of `"Complex Embeddings for Simple Link Prediction"
    <https://arxiv.org/abs/1606.06357>`_:

    .. math::
        s(h, r, t) = \mathrm{Re} \sum_i h_i \, r_i \, \overline{t_i}

    Vectors hold :math:`C / 2` complex numbers, all real parts before all imaginary parts.

    Args:
        num_relations (int): The number of original relations :math:`R`.
        channels (int): Size of the vectors :math:`C`, even.
        init_scale (float, optional): Standard deviation of the initial relation vectors;
            small, as in `"Canonical Tensor Decomposition for Knowledge Base Completion"
            <https://arxiv.org/abs/1806.07297>`_ (default: :obj:`1e-3`).

    Raises:
        ValueError: If :obj:`channels` is odd or a size is not positive.
    """
    def __init__(self, num_relations: int, channels: int, init_scale: float = 1e-3):
        super().__init__(num_relations, channels)
        self.init_scale = init_scale
        self.reset_parameters()

    def reset_parameters(self) -> None:
        torch.nn.init.normal_(self.rel_emb.weight, std=self.init_scale)
