"""Pictures of a fit, of forecasts beside their outcomes, and of what maps gain.

  python -m phenomjax.scaling figure --fit forecast/ --forecasts runs/large --out pictures/

Writes into OUT what can be drawn:

  loss.png      loss against FLOPs, a colour a size, with the law, its band, and the forecasts
                beside their outcomes
  budgets.png   loss against size along each budget (iso-FLOP curves)
  known.png     what the runs say of the floor E and of the exponents: profile, draws, basins
  recall.png    with --recall: loss, and recall of complexes with its interval, against FLOPs, of
                named runs (of a folder that `python -m phenomjax.scaling recall` wrote)
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from phenomjax.scaling.figure import article, drawing, known
from phenomjax.scaling.figure.drawing import Forecast
from phenomjax.scaling.fit import law
from phenomjax.system import ending
from phenomjax.system.errors import EXIT_DONE, UserError
from phenomjax.system.files import save_figure
from phenomjax.system.outputs import Overwrite

log = logging.getLogger("phenomjax")

FORMATS = ("png", "svg", "pdf")
PICTURES = tuple(
    f"{name}.{format}" for name in ("loss", "budgets", "known", "recall") for format in FORMATS
)


@dataclass(frozen=True, kw_only=True)
class Options(Overwrite):
    """Of `python -m phenomjax.scaling figure`."""

    MAKES: ClassVar[tuple[str, ...]] = PICTURES

    fit: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """folder of `python -m phenomjax.scaling fit`"""
    forecasts: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE|RUN …")] = ()
    """files of `python -m phenomjax.scaling forecast`; or runs that had one, for their outcomes"""
    recall: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """folder of `python -m phenomjax.scaling recall`"""
    title: str = ""
    """of the pictures"""
    format: Annotated[str, tyro.conf.arg(metavar="SUFFIX")] = "png"
    """of the pictures: png, svg, pdf"""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """of the pictures"""


def run(options: Options) -> int:
    """Draws what the options name.

    Raises:
      UserError: there is nothing to draw, or it cannot be read.
    """
    if options.fit is None and options.recall is None:
        raise UserError(
            "Nothing to draw is named. Give `fit` DIR, the folder that"
            " `python -m phenomjax.scaling fit RUNS --out DIR` wrote; or `recall` DIR."
        )
    if options.format not in FORMATS:
        raise UserError(f"`format` {options.format}: pictures are png, svg or pdf.")
    if options.forecasts and options.fit is None:
        raise UserError(
            "`forecasts` are drawn beside the fit that they stand on: give it as `fit`."
        )
    fit = None if options.fit is None else law.load(options.fit)
    unit = "" if fit is None else fit.runs.unit
    forecasts = [read_forecast(path, unit) for path in options.forecasts]
    pictures = {}
    if fit is not None:
        runs = drawing.known_flops(fit)
        pictures["loss"] = drawing.against_flops(runs, fit, forecasts, title=options.title)
        pictures["budgets"] = drawing.along_budgets(runs, fit, title=options.title)
        if fit.profiles:
            pictures["known"] = known.known(fit, title=options.title)
    if options.recall is not None:
        recalled = article.read(options.recall)
        pictures["recall"] = article.against_flops(recalled, fit, title=options.title)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures.items():
        ending.wrote(save_figure(figure, options.out / f"{name}.{options.format}"))
    return EXIT_DONE


def read_forecast(path: Path, unit: str = "") -> Forecast:
    """A forecast from its file, or with its outcome from the run that had it.

    Args:
      path: of the file, or of the run.
      unit: of data of the fit that it is drawn beside; "" where that is not known.

    Raises:
      UserError: there is none, or it is of data of another unit.
    """
    file = path / "forecast.json" if path.is_dir() else path
    mend = (
        "Give the file that `python -m phenomjax.scaling forecast` named, or a run that was trained"
        " with --config.scaling.forecast=FILE."
    )
    try:
        content = json.loads(file.read_text())
        forecast = content.get("forecast", content)
        outcome = content.get("outcome")
        names = ("flops", "params", "loss", "low", "high", "level")
        flops, params, loss, low, high, level = (float(forecast[name]) for name in names)
        if unit and (other := str(forecast.get("unit", unit))) != unit:
            raise UserError(
                f"{file} is of a run that reads {other}, and the fit is of {unit}: their losses are"
                " not of one kind. Give `fit` the folder that the forecast stands on."
            )
        return Forecast(
            flops, params, loss, low, high, level, None if outcome is None else outcome["loss"]
        )
    except FileNotFoundError:
        raise UserError(f"There is no forecast {file}. {mend}") from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{file} is no forecast, or is damaged ({error!r}). {mend}") from error
