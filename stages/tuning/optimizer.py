"""Optimizers: AdamW alone, or Muon for the layers' matrices beside it."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import distributed, nn

from stages.tuning.params import Tuning


def matrices(model: Any) -> list[torch.Tensor]:
    """What Muon steps: the tuned weights of linear layers, but for the output head and LoRA's factors.

    Embeddings, the head, norms, biases and convolutions are AdamW's, as in Muon's publication.
    """
    head = model.get_output_embeddings()
    return [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and module.weight.requires_grad and "lora_" not in name
    ]


def muon_and_adamw(model: Any, params: Tuning) -> "Side":
    """Muon and AdamW over all that is tuned, each parameter in one of them.

    Muon's update is scaled to the root mean square of AdamW's ("Muon is Scalable for LLM Training", Liu et al. 2025, eq. 4).
    """
    stepped = matrices(model)
    known = {id(parameter) for parameter in stepped}
    others = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in known]
    if not stepped:
        raise ValueError(
            "optimizer: muon needs linear layers that are tuned in full, and parts.* leaves none; "
            "set optimizer: adamw in params.yaml, or a part to full"
        )
    decay = params.weight_decay
    muon = Muon(stepped, lr=params.muon_learning_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    if not others:
        return Side(muon)
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in others if parameter.ndim > 1]},
        # Norms and biases do not decay, as with the Trainer's own AdamW.
        {"params": [parameter for parameter in others if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # AdamW first: the curve shows the first group's rate, and it is what `learning_rate` says.
    return Side(torch.optim.AdamW(groups, lr=params.learning_rate, betas=(0.9, params.beta2), weight_decay=decay), muon)


class Muon(torch.optim.Muon):
    """torch's Muon with its costly part done for all matrices of a shape at once, and divided among the processes.

    Torch's own has every process orthogonalise every matrix. Here each does its share and the others get it; the momentum is
    whole in each, so that the checkpoint of one process holds all of it.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step every matrix that has a gradient; a closure, which would run several times, is refused."""
        assert closure is None, "this optimizer takes no closure"
        for group in self.param_groups:
            stepped = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not stepped:
                continue
            directions = [self._direction(parameter, group["momentum"]) for parameter in stepped]
            made = orthogonalised(directions, group["ns_coefficients"], group["ns_steps"], group["eps"])
            for parameter, update in zip(stepped, made, strict=True):
                rate = group["lr"] * 0.2 * max(parameter.shape) ** 0.5  # "Muon is Scalable for LLM Training", eq. 4
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)

    def _direction(self, parameter: torch.Tensor, momentum: float) -> torch.Tensor:
        """Where Nesterov's momentum points, which is brought up to date."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum_buffer"], momentum)


def orthogonalised(
    matrices: Sequence[torch.Tensor], coefficients: tuple[float, float, float], steps: int, eps: float
) -> list[torch.Tensor]:
    """Each of `matrices` with its singular values brought near 1, in bfloat16; every process gives and gets all of them."""
    several = distributed.is_initialized()
    rank, ranks = (distributed.get_rank(), distributed.get_world_size()) if several else (0, 1)
    alike: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for index, matrix in enumerate(matrices):
        alike[min(matrix.shape), max(matrix.shape)].append(index)
    # Dealt out shape by shape, so that all processes have about as much to do.
    shares = [[same[first::ranks] for same in alike.values() if same[first::ranks]] for first in range(ranks)]
    mine = [newton_schulz(torch.stack([_wide(matrices[i]) for i in same]), coefficients, steps, eps) for same in shares[rank]]
    made: dict[int, torch.Tensor] = {}
    for sender, share in enumerate(shares):
        indices = list(chain(*share))
        sizes = [matrices[index].numel() for index in indices]
        flat = matrices[0].new_empty(sum(sizes), dtype=torch.bfloat16)
        if sender == rank and mine:
            torch.cat([some.flatten() for some in mine], out=flat)
        if several:
            distributed.broadcast(flat.view(torch.uint8), sender)  # as bytes, for not every backend sends bfloat16
        for index, piece in zip(indices, torch.split(flat, sizes), strict=True):
            wide = piece.view(_wide(matrices[index]).shape)
            made[index] = wide if wide.shape == matrices[index].shape else wide.mT
    return [made[index] for index in range(len(matrices))]


def newton_schulz(matrices: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> torch.Tensor:
    """[n, rows, columns] with the singular values of each of the n brought near 1, in bfloat16.

    The quintic iteration of Muon's publication (Jordan et al. 2024) as torch.optim.Muon does it, for n matrices at once.
    """
    a, b, c = coefficients
    made = matrices.bfloat16()
    made = made / made.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = made @ made.mT
        made = torch.baddbmm(made, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), made, beta=a)
    return made


def _wide(matrix: torch.Tensor) -> torch.Tensor:
    """`matrix`, or where it has more rows than columns its transpose: the iteration costs the square of the rows."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT


class Side(torch.optim.Optimizer):
    """Optimizers side by side, as one: what steps, schedules or saves this one does so with each."""

    def __init__(self, *each: torch.optim.Optimizer) -> None:
        # No super().__init__: it would make groups of its own, and a schedule must reach theirs.
        self.each = each
        self.defaults: dict[str, Any] = {}

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of each; whoever changes a learning rate in them changes it where it is read."""
        return [group for one in self.each for group in one.param_groups]

    @property
    def state(self) -> dict[Any, Any]:  # type: ignore[override]
        """The state of each, by parameter."""
        return {key: value for one in self.each for key, value in one.state.items()}

    def state_dict(self) -> dict[str, Any]:
        """The state of each, apart."""
        return {"each": [one.state_dict() for one in self.each]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        for one, state in zip(self.each, state_dict["each"], strict=True):
            one.load_state_dict(state)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for one in self.each:
            one.zero_grad(set_to_none)

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step each; a closure, which would run several times, is refused."""
        assert closure is None, "this optimizer takes no closure"
        for one in self.each:
            one.step()
