"""The model of a phenomjax release for `transformers`: needs torch, safetensors, transformers.

from transformers import AutoModel
model = AutoModel.from_pretrained("FOLDER", trust_remote_code=True).eval()
embeddings = model(pixels).pooler_output  # uint8 [batch, channel, height, width] -> [batch, dim]

Pixels are given as they are stored: the model standardises them itself.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from .encoder import Classifier, Encoder  # the file beside this one


class PhenomjaxConfig(PretrainedConfig):
    """The release's config.json; `model` says all that the encoder needs to know."""

    model_type = "phenomjax"

    def __init__(self, model: dict | None = None, **others: Any):
        self.model = model or {}
        super().__init__(**others)


@dataclass
class PhenomjaxOutput(ModelOutput):
    """What the model gives.

    Attributes:
      pooler_output: the embedding [batch, dim]; with `blocks` [batch, len(blocks), dim].
      last_hidden_state: patch tokens [batch, patches, dim] of the last block; of a CA-MAE those of
        the first channel come first. Only where it was asked for.
      logits: [batch, class], of a model of classes, in the order of `config.model["classes"]`.
    """

    pooler_output: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class PhenomjaxModel(PreTrainedModel):
    """A released encoder, or model of classes; its parameters have their names in the weights."""

    config_class = PhenomjaxConfig
    main_input_name = "pixel_values"
    # The decoder served the training, and positions are computed for any size. Of layer scales
    # transformers 4 says that they have another name; encoder.Scale knows it.
    _keys_to_ignore_on_load_unexpected = (
        r"^(encoder_)?decoder",
        r"pos_embed$",
        r"mask_token$",
        r"\.ls[12]?\.weight$",
    )
    _keys_to_ignore_on_load_missing = (r"\.ls[12]?\.gamma$",)

    def __init__(self, config: PhenomjaxConfig):
        super().__init__(config)
        model: Encoder | Classifier
        if "classes" in config.model:
            model = Classifier(config.model)
            parts = dict(model.named_children())
        else:
            model = Encoder(config.model)
            parts = {"encoder": nn.ModuleDict({"vit_backbone": model})}
        for name, part in parts.items():
            self.add_module(name, part)
        self._whole = [model]  # in a list: its parts are registered above, under the file's names
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: all weights come from the release."""

    def forward(
        self,
        pixel_values: torch.Tensor,
        blocks: tuple[int, ...] = (),
        channelwise: bool = False,
        cells: torch.Tensor | None = None,
        output_tokens: bool = False,
        **_: Any,
    ) -> PhenomjaxOutput:
        """Embeds pixels [batch, channel, height, width], as they are stored (8 or 16 bit).

        Args:
          pixel_values: crops whose height and width are multiples of the patch size; of a CA-MAE
            any channels, of others those of `config.model["channels"]`, in this order.
          blocks: of the encoder, from 1; none: the last one.
          channelwise: of a CA-MAE: one embedding a channel, side by side.
          cells: of a model that is told cell types: places in `config.model["cell_types"]`.
          output_tokens: of a masked autoencoder: give the patch tokens too.
        """
        (model,) = self._whole
        if isinstance(model, Classifier):
            return PhenomjaxOutput(
                pooler_output=model(pixel_values, cells), logits=model.logits(pixel_values, cells)
            )
        tokens = model.tokens(pixel_values)[0] if output_tokens else None
        return PhenomjaxOutput(
            pooler_output=model(pixel_values, blocks, channelwise), last_hidden_state=tokens
        )
