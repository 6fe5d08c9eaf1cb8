"""Peak rates of devices, for the share of them that a run uses (MFU)."""

import jax

# Dense bf16 peak in TFLOP/s by a part of jax's device_kind (vendors' data sheets).
PEAK_TFLOPS = {
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "B200": 2250.0,
    "V100": 125.0,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5p": 459.0,
    "TPU v6": 918.0,
}


def peak_flops() -> float | None:
    """Peak bf16 FLOP/s of all devices together; None for unknown ones, such as a CPU."""
    kind = jax.devices()[0].device_kind
    found = [tflops for name, tflops in PEAK_TFLOPS.items() if name in kind]
    return found[0] * 1e12 * jax.device_count() if found else None
