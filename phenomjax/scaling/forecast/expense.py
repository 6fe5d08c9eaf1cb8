"""Hours and price of a run on devices."""

import math
from dataclasses import dataclass

from phenomjax.system.errors import UserError, did_you_mean
from phenomjax.training.rates import PEAK_TFLOPS


@dataclass(frozen=True)
class Devices:
    """What a run computes on.

    Attributes:
      count: of devices; 0: not said.
      kind: such as "H100", or nothing.
      mfu: model FLOPs over the peak that is reached.
      rate: model FLOP/s of one device, as measured; 0: not said.
      price: of one device for an hour; 0: not said.
    """

    count: int
    kind: str
    mfu: float
    rate: float
    price: float


def expense(devices: Devices, flops: float) -> dict[str, float | int | str]:
    """Devices, hours and price of a run of so many FLOPs, for its record; {} where no devices are
    said.

    Raises:
      UserError: a device that is not known, or a number that cannot be.
    """
    limits = (
        ("devices", devices.count, math.inf),
        ("mfu", devices.mfu, 1.0),
        ("rate", devices.rate, math.inf),
        ("price_per_device_hour", devices.price, math.inf),
    )
    for name, value, most in limits:
        if not (0 <= value <= most and math.isfinite(value)):
            raise UserError(f"`{name}` is {value}; it must be from 0 to {most:g}.")
    if not (devices.kind or devices.rate):
        if devices.count or devices.price:
            raise UserError(
                "For hours and price say how fast a device is: `device` H100, with the `mfu` that"
                " your runs log as perf/mfu; or its `rate` in model FLOP/s."
            )
        return {}
    count = devices.count or 1
    rate = devices.rate
    if not rate:
        spelt = {name.casefold(): name for name in PEAK_TFLOPS}
        kind = spelt.get(devices.kind.casefold())
        if kind is None:
            raise UserError(
                f"`device` {devices.kind} is not known.{did_you_mean(devices.kind, PEAK_TFLOPS)}"
                f" There are {', '.join(PEAK_TFLOPS)}. For another one say its `rate`, the model"
                " FLOP/s that it was measured to reach."
            )
        rate = PEAK_TFLOPS[kind] * 1e12 * devices.mfu
    if not rate:
        raise UserError("`mfu` is 0; no run would ever end. Give what your runs log as perf/mfu.")
    hours = flops / rate / count / 3600
    found: dict[str, float | int | str] = {"devices": count, "hours": hours, "rate": rate}
    if not devices.rate:
        found |= {"device": devices.kind, "mfu": devices.mfu}
    if devices.price:
        found["price"] = devices.price * count * hours
    return found


def told(found: dict[str, float | int | str]) -> str:
    """One line of it."""
    count, hours = int(found["devices"]), float(found["hours"])
    each = f"{float(found['rate']):.3g} model FLOP/s each"
    if "mfu" in found:
        each += f", an MFU of {found['mfu']:g}"
    line = (
        f"{_hours(hours)} on {count} {found.get('device', 'device')}{'s' * (count > 1)} ({each}):"
        f" {count * hours:,.3g} device-hours"
    )
    return line + (f", {float(found['price']):,.2f} in all" if "price" in found else "")


def _hours(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.2g} minutes"
