"""The keys of weakly supervised models on images: which perturbation was this well given?"""

from ml_collections import ConfigDict

from phenomjax.config import image_data
from phenomjax.config.ranges import Section, choice, flag, number, several, share, text, whole
from phenomjax.config.vit import add_encoder, check_encoder
from phenomjax.data.images.labels.protocols import PROTOCOLS
from phenomjax.system.errors import UserError, did_you_mean

# layers of each dense block, growth rate, features of the stem (Huang et al. 2017,
# https://arxiv.org/abs/1608.06993, table 1 and section 4)
DENSENET_SIZES = {
    "121": ((6, 12, 24, 16), 32, 64),
    "161": ((6, 12, 36, 24), 48, 96),
    "169": ((6, 12, 32, 32), 32, 64),
    "201": ((6, 12, 48, 32), 32, 64),
}
# what can choose the best checkpoint, beside val/loss
VALIDATED = ("val/accuracy", "val/accuracy_adabn")


def add_sections(c: Section) -> None:
    """Adds `c.model` and `c.data`."""
    image_data.add_sections(c)
    # an accuracy is of all that is held out, each image once
    c.eval.num_batches = 0
    _model(c.model)
    _data(c.data)


def _model(m: Section) -> None:
    # encoder: "densenet", or "vit": that of a masked autoencoder over all tokens, their mean
    m.backbone = choice("densenet", ("densenet", "vit"))
    blocks, growth, stem = DENSENET_SIZES["121"]
    # layers of each dense block
    m.block_config = several(int, blocks, least=1)
    # channels that a layer adds
    m.growth_rate = whole(growth, least=1)
    # channels of the first convolution
    m.stem_features = whole(stem, least=1)
    add_encoder(m)
    # share of the pooled features that are left out in training
    m.dropout = number(0.0, least=0, below=1, zero="off")
    # width of the embedding, behind two dense layers with batch norms; 0 = classes are told apart
    # by the pooled features themselves
    m.neck_dim = whole(1024, least=0, zero="none")
    # True: the cell type stands beside the pooled features, one-hot
    m.cell_type = flag(False)
    # share w of ArcFace in the loss (1 - w) softmax + w ArcFace; 1.0 = ArcFace alone
    m.arcface_weight = share(0.0, zero="none")
    # scale s of ArcFace, which cosines are multiplied with
    m.arcface_scale = number(30.0, above=0, where=("arcface_weight", ()))
    # margin m of ArcFace, radians added to the angle of the true class
    m.arcface_margin = number(0.5, least=0, below=1.58, where=("arcface_weight", ()))
    # share of the target that all classes get alike
    m.label_smoothing = number(0.0, least=0, below=1, zero="none")
    # parameter a of Beta(a, a), whence the share that CutMix leaves of an image; 0.0 = no CutMix
    m.cutmix = number(0.0, least=0, zero="off")
    # share of the running statistics of batch norms that stays at a step
    m.norm_momentum = number(0.95, least=0, below=1)
    # epsilon of batch norms; norm_eps is that of a ViT's layer norms
    m.batch_norm_eps = number(1e-5, above=0)
    # how inputs are scaled: "image": each image and channel to mean 0 and variance 1; "none": grey
    # levels / 255 (16-bit: / 65535)
    m.standardise = choice("image", ("image", "none"))
    # names of the classes; () = all that there are to train on
    m.classes = several(str)
    # names of the cell types of `cell_type`; () = all that there are to train on
    m.cell_types = several(str)
    # weight of the controls of a part together, of 1, in its statistics: in training,
    # val/accuracy_adabn and, unless told otherwise, `--statistics controls`; 1.0 = controls alone,
    # so that the other perturbations of an experiment change nothing. 0.0 = each image counts alike
    m.control_weight = share(0.0, zero="none")
    # share of controls among the images to train on, which statistics of controls are weighed by
    # where control_weight says nothing; 0.0 = filled in from these
    m.control_share = share(0.0, zero="filled in")
    # images over which batch norms take their statistics in training, and those of experiments are
    # taken, wherever the weights go; 0 = filled in: the rows of a part
    m.norm_rows = whole(0, least=0, zero="filled in")


def _data(d: Section) -> None:
    # metadata column whose groups are held out: a batch that was never seen is what the model is
    # asked about
    d.split_by = text("experiment")
    # column of the metadata that names the class
    d.label = text("perturbation")
    # parts of a batch, each of one group of group_by, over which batch norms take their statistics;
    # 0 = images of all groups mixed, one part
    d.groups = whole(1, least=0, zero="mixed")
    # metadata column whose groups the parts are of
    d.group_by = text("experiment")
    # what becomes of controls: "keep": classes as others; "statistics": for the statistics of batch
    # norms, no class; "drop": no image of a control is read
    d.controls = choice("keep", ("keep", "statistics", "drop"))
    # share of each part that is controls of its group; 0.0 = as they come
    d.control_share = number(0.0, least=0, below=1, zero="as they come")
    # only images of this cell type; "" = all
    d.cell_type = text("")
    # only images of this type ("crispr", "sirna", "compound", "orf"), and controls; "" = all
    d.perturbation_type = text("")
    # a class that has a single image to train on: "error" ends the run; "drop" leaves it out
    d.on_rare_class = choice("error", ("error", "drop"))
    # official splits in place of val_groups and val_fraction: "rxrx1_wilds", "rxrx1_wilds_mixed",
    # "rxrx1"
    d.protocol = choice("", ("", *PROTOCOLS))


def set_densenet(config: ConfigDict, size: str) -> None:
    """Sets the backbone of `config.model` to "121", "161", "169" or "201".

    Raises:
      UserError: an unknown size.
    """
    if size not in DENSENET_SIZES:
        raise UserError(
            f"There is no DenseNet-{size}.{did_you_mean(size, DENSENET_SIZES)} Sizes:"
            f" {', '.join(DENSENET_SIZES)}."
        )
    m = config.model
    m.backbone = "densenet"
    m.block_config, m.growth_rate, m.stem_features = DENSENET_SIZES[size]


def check(c: ConfigDict) -> None:
    """Checks `c.model` and `c.data`; see `config.finalize`."""
    if c.model.backbone == "vit":
        check_encoder(c)
    else:
        _check_densenet(c)
    if c.data.controls == "drop" and c.data.control_share:
        raise UserError(
            f"config.data.control_share is {c.data.control_share}, but config.data.controls is"
            " 'drop': no control is read. Set --config.data.controls=keep, or"
            " --config.data.control_share=0.0."
        )
    lacking = {"control_share": 0.5, "groups": 1}
    lacking = {key: value for key, value in lacking.items() if not c.data[key]}
    if c.model.control_weight and lacking:
        mend = " ".join(f"--config.data.{key}={value}" for key, value in lacking.items())
        raise UserError(
            f"config.model.control_weight is {c.model.control_weight}, so each part of a batch must"
            f" be of one experiment (config.data.groups is {c.data.groups}) and have its share of"
            f" controls (config.data.control_share is {c.data.control_share}). Set {mend}, or"
            " --config.model.control_weight=0.0."
        )
    normed = c.model.backbone == "densenet" or c.model.neck_dim
    if c.checkpoint.best_metric == "val/accuracy_adabn" and not (c.data.groups and normed):
        lack, mend = "batches in parts of one experiment, and config.data.groups", "data.groups=1"
        if not normed:
            lack, mend = (
                "batch norms, and without a neck a ViT has none: config.model.neck_dim",
                ("model.neck_dim=1024"),
            )
        raise UserError(
            f"config.checkpoint.best_metric is 'val/accuracy_adabn', which needs {lack} is 0. Set"
            f" --config.{mend}, or --config.checkpoint.best_metric=val/accuracy."
        )
    if c.data.protocol and c.data.val_groups:
        raise UserError(
            f"config.data.val_groups is {tuple(c.data.val_groups)}, but config.data.protocol"
            f" '{c.data.protocol}' says what is held out. Set --config.data.protocol='', or"
            ' --config.data.val_groups="()".'
        )
    _check_parts(c)
    image_data.check(c)


def _check_densenet(c: ConfigDict) -> None:
    m = c.model
    if m.remat == "dots":
        raise UserError(
            "config.model.remat is 'dots', which keeps what matrix products give, and a DenseNet"
            " is of convolutions. Set --config.model.remat=full or --config.model.remat=none."
        )
    if not m.block_config:
        raise UserError(
            "config.model.block_config is (), and a DenseNet has blocks. DenseNet-121 has (6, 12,"
            ' 24, 16): set --config.model.block_config="(6, 12, 24, 16)".'
        )
    if m.parametrisation != "standard":
        raise UserError(
            f"config.model.parametrisation is '{m.parametrisation}', whose rules are for"
            " transformers, and config.model.backbone is 'densenet'. Set"
            " --config.model.parametrisation=standard, or --config.model.backbone=vit."
        )
    least = 2 ** (len(m.block_config) + 1)
    if c.data.crop_size < least:
        raise UserError(
            f"config.data.crop_size {c.data.crop_size} is too small for the"
            f" {len(m.block_config)} blocks of config.model.block_config, which halve it"
            f" {len(m.block_config) + 1} times. Set --config.data.crop_size={least} or more."
        )
    if m.channel_agnostic:
        raise UserError(
            "config.model.channel_agnostic is True, but the first convolution of a DenseNet is made"
            " for the channels it was trained with. Set --config.model.channel_agnostic=False, or"
            " --config.model.backbone=vit."
        )


def _check_parts(c: ConfigDict) -> None:
    """Checks that batch norms have their statistics of whole parts, however the step is divided."""
    if c.batch_ramp:
        raise UserError(
            "config.batch_ramp makes batches larger in the middle of a run, and those of the task"
            " 'perturbation' consist of parts over which batch norms take their statistics. Set"
            ' --config.batch_ramp="()".'
        )
    parts, micro, rows = max(c.data.groups, 1), c.optimizer.accumulate_steps, c.global_batch_size
    multiple = parts * (2 if c.model.cutmix else 1)
    if rows % multiple or rows // parts < 2:
        why = " in pairs, which CutMix mixes," if c.model.cutmix else ""
        raise UserError(
            f"config.global_batch_size {rows} cannot be divided{why} into config.data.groups"
            f" {c.data.groups} parts of two images or more. Set"
            f" --config.global_batch_size={max(-(-rows // multiple) * multiple, 2 * parts)}."
        )
    if (judged := c.eval.batch_size) and (judged % parts or judged // parts < 2):
        raise UserError(
            f"config.eval.batch_size {judged} cannot be divided into config.data.groups"
            f" {c.data.groups} parts of two images or more. Set"
            f" --config.eval.batch_size={max(-(-judged // parts) * parts, 2 * parts)}."
        )
    if parts > 1 and c.data.crops_per_image > 1:
        raise UserError(
            f"config.data.crops_per_image is {c.data.crops_per_image} and config.data.groups"
            f" {parts}: rows that are crops of one image lie side by side, and so do rows of"
            " different parts. Set --config.data.crops_per_image=1, or --config.data.groups=1."
        )
    if parts % micro:
        mend = f"--config.data.groups={-(-parts // micro) * micro} or"
        raise UserError(
            f"config.optimizer.accumulate_steps {micro} divides a part of the batch, over which"
            f" batch norms take their statistics: config.data.groups is {c.data.groups}. Set"
            f" {mend} --config.optimizer.accumulate_steps=1."
        )
