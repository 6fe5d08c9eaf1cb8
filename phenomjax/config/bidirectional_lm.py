"""The keys of ELMo, for prediction in both directions."""

from ml_collections import ConfigDict

from phenomjax.config.language_models import add_shared_sections, check_shared
from phenomjax.config.ranges import Section, flag, number, several, whole
from phenomjax.system.errors import UserError


def add_sections(c: Section) -> None:
    """Adds `c.model` and `c.data`."""
    add_shared_sections(c, _elmo)


def _elmo(m: Section) -> None:
    """ELMo (Peters et al. 2018, https://arxiv.org/abs/1802.05365), smaller than SeqVec's."""
    # width of the embedding of a byte
    m.char_dim = whole(16, least=1)
    # (width, number)
    filters = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))
    # convolutions over the bytes of a token: (width, number) of each
    m.filters = several(int, filters, least=1, depth=2)
    # highway layers behind them; 0 = none
    m.num_highway = whole(2, least=0, zero="none")
    # bytes of a token with its two marks. 3 + the widest filter gives the outputs of the published
    # 50 for tokens of one byte, at a fifth of the cost
    m.max_characters = whole(10, least=3)
    # width of a token and of each direction's output
    m.projection_dim = whole(128, least=1)
    # width of the memory cells of each LSTM
    m.cell_dim = whole(512, least=1)
    # LSTM layers of each direction
    m.num_layers = whole(2, least=1)
    # bound of the memory cells; 0.0 = none
    m.cell_clip = number(3.0, least=0, zero="none")
    # bound of the projected outputs; 0.0 = none
    m.projection_clip = number(3.0, least=0, zero="none")
    # the input of layers from the second on is added to their output
    m.skip_connections = flag(True)
    # share of activations that are left out in training; 0.0 = off
    m.dropout = number(0.1, least=0, below=1, zero="off")
    # LSTM states are carried from step to step
    m.stateful = flag(True)


def check(c: ConfigDict) -> None:
    """Checks `c.model` and `c.data`; see `config.finalize`."""
    m = c.model
    widest = max((width for width, *_ in m.filters), default=0)
    if not 1 <= widest <= m.max_characters or {len(pair) for pair in m.filters} != {2}:
        raise UserError(
            f"config.model.max_characters {m.max_characters} must hold a token of one byte with"
            f" its two marks, and the widest of config.model.filters {tuple(m.filters)}. Set"
            f" --config.model.max_characters={3 + max(widest, 1)} and at least one filter, each a"
            " (width, number)."
        )
    check_shared(c)
