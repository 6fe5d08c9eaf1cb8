"""The keys of ELMo, for prediction in both directions."""

from ml_collections import ConfigDict

from phenomjax.config.language_models import add_shared_sections, check_shared
from phenomjax.system.errors import UserError


def add_sections(c: ConfigDict) -> None:
    """Adds `c.model` and `c.data`."""
    add_shared_sections(c, _elmo)


def _elmo(m: ConfigDict) -> None:
    """ELMo (Peters et al. 2018, https://arxiv.org/abs/1802.05365), smaller than SeqVec's."""
    m.char_dim = 16
    # (width, number)
    m.filters = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))
    m.num_highway = 2
    # 3 + the widest filter gives the outputs of the published 50 for tokens of one byte, at a
    # fifth of the cost
    m.max_characters = 10
    # of a token and of each direction's output
    m.projection_dim = 128
    m.cell_dim = 512
    m.num_layers = 2
    # bound of the memory cells; 0.0 = none
    m.cell_clip = 3.0
    m.projection_clip = 3.0
    # the input of layers from the second on is added to their output
    m.skip_connections = True
    m.dropout = 0.1
    # LSTM states are carried from step to step
    m.stateful = True


def check(c: ConfigDict) -> None:
    """Checks `c.model` and `c.data`; see `config.finalize`."""
    m = c.model
    widest = max((width for width, _ in m.filters), default=0)
    if not 1 <= widest <= m.max_characters or m.max_characters < 3:
        raise UserError(
            f"config.model.max_characters {m.max_characters} must hold a token of one byte with"
            f" its two marks, and the widest of config.model.filters {tuple(m.filters)}. Set"
            f" --config.model.max_characters={3 + max(widest, 1)} and at least one filter."
        )
    check_shared(c)
