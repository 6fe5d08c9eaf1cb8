"""FLOPs of the models' forward passes: matrix products alone, 2 a multiply-add.

Pure functions of `config.model` and shapes. A training step counts as three forward passes.
"""

from ml_collections import ConfigDict

from phenomjax.models import elmo
from phenomjax.models import patches as models_patches
from phenomjax.models.classifier import embedding_dim, pooled_dim
from phenomjax.models.densenet import BOTTLENECK
from phenomjax.models.mae import num_tokens
from phenomjax.models.vit import mlp_dim


def masked_autoencoder(model: ConfigDict, shape: tuple[int, ...]) -> float:
    """FLOPs of a masked forward pass over pixels (batch, height, width, C): matrix products, 2 a
    multiply-add.

    The encoder and the patch projection see the visible tokens (and the class token), the decoder
    all of them, and the pixel head the masked ones (all of them where the Fourier mode needs all).
    Fourier products are not counted.
    """
    batch, _, _, channels = shape
    tokens, extra = num_tokens(model, shape), int(model.class_token)
    visible = models_patches.num_visible(tokens, model.mask_ratio)
    patch = model.patch_size**2 * (1 if model.channel_agnostic else channels)
    embed, dim = model.embed_dim, model.decoder_dim

    def block(seq: int, width: int, hidden: int) -> float:
        return 2.0 * seq * (4 * width**2 + 2 * width * hidden) + 4.0 * seq**2 * width

    encoder = 2.0 * visible * patch * embed + model.depth * block(
        visible + extra, embed, mlp_dim(model)
    )
    decoder = 2.0 * (visible + extra) * embed * dim
    if model.channel_agnostic:
        # cross attention and its MLP
        decoder += (8.0 + 16.0) * tokens * dim**2 + 4.0 * tokens**2 * dim
        decoder += channels * model.decoder_depth * block(tokens // channels, dim, 4 * dim)
    else:
        decoder += model.decoder_depth * block(tokens + extra, dim, 4 * dim)
    everything = model.fourier_weight > 0 and model.fourier_mode != "patch"
    decoder += 2.0 * (tokens if everything else tokens - visible) * dim * patch
    return batch * (encoder + decoder)


def image_encoder(model: ConfigDict, shape: tuple[int, ...]) -> float:
    """FLOPs of `embed` on pixels (batch, height, width, C): the encoder over all tokens."""
    batch, _, _, channels = shape
    tokens, embed, hidden = num_tokens(model, shape), model.embed_dim, mlp_dim(model)
    seq, patch = (
        tokens + int(model.class_token),
        model.patch_size**2 * (1 if model.channel_agnostic else channels),
    )
    layer = 2.0 * seq * (4 * embed**2 + 2 * embed * hidden) + 4.0 * seq**2 * embed
    return batch * (2.0 * tokens * patch * embed + model.depth * layer)


def densenet(model: ConfigDict, shape: tuple[int, ...]) -> float:
    """FLOPs of the convolutions of a DenseNet on pixels (batch, height, width, C)."""
    batch, height, width, channels = shape
    features, growth = model.stem_features, model.growth_rate
    height, width = (height + 1) // 2, (width + 1) // 2
    products = height * width * 49 * channels * features
    height, width = (height + 1) // 2, (width + 1) // 2
    for number, count in enumerate(model.block_config):
        if number:
            products += height * width * features * (features // 2)
            features, height, width = features // 2, height // 2, width // 2
        for _ in range(count):
            products += height * width * BOTTLENECK * growth * (features + 9 * growth)
            features += growth
    return 2.0 * batch * products


def classifier(model: ConfigDict, shape: tuple[int, ...]) -> float:
    """FLOPs of a forward pass of a weakly supervised model on pixels (batch, height, width, C)."""
    backbone = densenet if model.backbone == "densenet" else image_encoder
    heads = (model.arcface_weight < 1) + (model.arcface_weight > 0)
    products = heads * embedding_dim(model) * len(model.classes)
    products += model.neck_dim * (pooled_dim(model) + model.neck_dim) if model.neck_dim else 0
    return backbone(model, shape) + 2.0 * shape[0] * products


def transformer_xl(m: ConfigDict, seq: int, mem_len: int) -> float:
    """FLOPs of one row's forward pass: products of a segment with `mem_len` tokens of memory, 2 a
    multiply-add.

    Keys and values of the memory are computed anew, positions are projected once a batch and not
    counted, and the causal half of the scores that is masked is counted, as it is computed.
    """
    span, width = seq + mem_len, m.num_heads * m.head_dim
    products = (
        seq * 2 * width * m.embed_dim
        + span * 2 * width * m.embed_dim
        + seq * 2 * m.embed_dim * m.mlp_dim
    )
    scores = 3 * seq * span * width
    return 2.0 * (m.num_layers * (products + scores) + seq * m.embed_dim * m.vocab_size)


def xlnet(m: ConfigDict, seq: int) -> float:
    """FLOPs of one row's forward pass, 2 a multiply-add.

    Keys and values of the memory are computed anew; positions are projected once a batch and not
    counted. Nothing needs the content stream of the last layer beyond its keys and values.
    """
    span, width = seq + m.mem_len, m.num_heads * m.head_dim
    queries = m.num_layers * m.num_predict + (m.num_layers - 1) * seq
    products = queries * (2 * width * m.embed_dim + 2 * m.embed_dim * m.mlp_dim)
    products += m.num_layers * span * 2 * width * m.embed_dim
    scores = queries * (2 * span + span + seq - 1) * width
    return 2.0 * (products + scores + m.num_predict * m.embed_dim * m.vocab_size)


def bidirectional_lstm(m: ConfigDict, seq: int) -> float:
    """FLOPs of one row's forward pass of ELMo, in both directions.

    The character CNN runs over the vocabulary, once a step for any batch, and is not counted.
    """
    layer = 8 * m.projection_dim * m.cell_dim + m.cell_dim * m.projection_dim
    products = m.num_layers * layer + m.projection_dim * m.vocab_size
    return 2.0 * elmo.DIRECTIONS * seq * products
