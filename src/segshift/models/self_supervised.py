"""The encoder in a checkpoint of self-supervised training, which holds heads, queues and second networks too.

MoCo keeps `module.encoder_q.` and `encoder_k.`, MoCo v3 `base_encoder.` and `momentum_encoder.`, DINO a student and a
teacher, each with `backbone.` and `head.`, SwAV and Barlow Twins the encoder's own names with heads beside them. So the
encoder is found by the names of its tensors: any prefix will do under which all of them are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from segshift.errors import ConfigError

PREFERRED = ("encoder_q", "base_encoder", "teacher", "online")
"""Of several encoders, the one that its authors hand on: MoCo, MoCo v3, DINO, BYOL."""
HEADS = ("fc", "head", "projection_head", "projector", "predictor", "prototypes", "queue", "queue_ptr")
"""First words of names beside the encoder's own that belong to training alone."""


def encoder_of(tensors: Mapping[str, Tensor], wanted: Collection[str], known: Collection[str]) -> dict[str, Tensor]:
    """The tensors of a checkpoint under the encoder's own names: a prefix taken off, and heads left out.

    `wanted`: names of the encoder's tensors; `known`: those of the whole model, which are no such heads. Dots and
    underscores count as the same. A checkpoint in which not all that is wanted is found is given back as it is, for the
    caller to name what is missing. Raises ConfigError where several encoders are found and none is to be preferred.
    """
    given = {plain(name): name for name in tensors}
    needed = [plain(name) for name in wanted if not name.endswith("num_batches_tracked")]
    ends = needed[0]
    prefixes = [name.removesuffix(ends) for name in given if name.endswith(ends)]
    prefixes = [prefix for prefix in prefixes if all(prefix + name in given for name in needed)]
    if not prefixes:
        return dict(tensors)
    prefix = _chosen(prefixes)
    own = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if plain(name).startswith(prefix)}
    all_known = {plain(name) for name in known}
    return {name: tensor for name, tensor in own.items() if plain(name) in all_known or not _is_head(name)}


def _chosen(prefixes: list[str]) -> str:
    """The encoder's own names where they are there; else the one that is preferred, or the only one."""
    if "" in prefixes:
        return ""
    if len(prefixes) == 1:
        return prefixes[0]
    preferred = [prefix for word in PREFERRED for prefix in prefixes if word in prefix]
    if not preferred:
        raise ConfigError(
            f"it holds {len(prefixes)} encoders, under {', '.join(prefixes)}; expected one, or one of "
            f"{', '.join(PREFERRED)}: save the state_dict of the encoder that is meant alone"
        )
    return preferred[0]


def _is_head(name: str) -> bool:
    return name.partition(".")[0] in HEADS


def plain(name: str) -> str:
    """A name that is the same whether stages are nested or joined: timm writes stages_0.x for stages.0.x at times."""
    return name.replace(".", "_")
