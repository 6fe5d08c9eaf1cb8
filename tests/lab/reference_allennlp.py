"""allennlp's ELMo without the rest of allennlp, which no longer installs: `pip install --no-deps
allennlp==2.10.1`.
"""

import importlib
import importlib.util
import sys
import types
from pathlib import Path


class _Absent:
    """Stands for whatever the modules below name and do not use: a base class, an error, a
    decorator.
    """

    def __init_subclass__(cls, **_):
        pass

    @classmethod
    def register(cls, *_, **__):
        return lambda decorated: decorated


def _stub(name, **contents):
    module = types.ModuleType(name)
    module.__path__ = []
    module.__getattr__ = lambda attribute: type(attribute, (_Absent,), {})
    vars(module).update(contents)
    sys.modules[name] = module


def load():
    """The module `allennlp.modules.elmo` over stubs of what it does not need here, or None where
    allennlp is not installed.
    """
    spec = importlib.util.find_spec("allennlp")
    if spec is None:
        return None
    folder = Path(spec.submodule_search_locations[0])
    for name in (
        "allennlp",
        "allennlp.modules",
        "allennlp.nn",
        "allennlp.data",
        "allennlp.data.token_indexers",
    ):
        package = types.ModuleType(name)  # its own __init__, which imports everything, is not run
        package.__path__ = [str(folder.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    _stub("allennlp.common")
    _stub("allennlp.common.checks", ConfigurationError=ValueError)
    _stub("allennlp.common.file_utils", cached_path=lambda path: path)
    for name in (
        "common.util",
        "data.instance",
        "data.vocabulary",
        "data.batch",
        "data.fields",
        "data.tokenizers",
        "data.tokenizers.token_class",
        "data.token_indexers.token_indexer",
    ):
        _stub(f"allennlp.{name}")
    # the weights are loaded afterwards
    _stub("allennlp.nn.initializers", block_orthogonal=lambda *_, **__: None)
    return importlib.import_module("allennlp.modules.elmo")
