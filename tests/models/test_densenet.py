"""DenseNet and its batch norm: the paper's sizes, and whose statistics normalise which row."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phenomjax.config.perturbation import DENSENET_SIZES
from phenomjax.models import densenet
from phenomjax.models.batch_norm import BatchNorm, Statistics

NORM = {"momentum": 0.75, "epsilon": 1e-3}


# of torchvision's models with 1,000 classes, which are the paper's "7.98 M" and "28.7 M"
@pytest.mark.parametrize("size,parameters", [("121", 7_978_856), ("161", 28_681_000)])
def test_parameters_are_those_of_the_paper(size, parameters):
    model = densenet.DenseNet(*DENSENET_SIZES[size], NORM)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    body = sum(leaf.size for leaf in jax.tree.leaves(nn.unbox(shapes["params"])))
    features = densenet.num_features(*DENSENET_SIZES[size])
    assert body + features * 1000 + 1000 == parameters


@pytest.fixture(scope="module")
def norm():
    random = np.random.default_rng(0)
    draw = lambda low, high: random.uniform(low, high, 3).astype(np.float32)  # noqa: E731
    variables = {
        "params": {"scale": draw(0.5, 2), "bias": draw(-1, 1)},
        "batch_stats": {"mean": draw(-1, 1), "var": draw(0.5, 2)},
    }
    return BatchNorm(**NORM), variables, jnp.float32(random.normal(1, 2, (8, 5, 4, 3)))


def expected(variables, x, mean, var):
    """Directly, of rows that have one mean and variance."""
    params = variables["params"]
    return (x - mean) / np.sqrt(var + NORM["epsilon"]) * params["scale"] + params["bias"]


def test_running_statistics_normalise_where_nothing_else_is_said(norm):
    model, variables, x = norm
    stored = variables["batch_stats"]
    found = model.apply(variables, x)
    np.testing.assert_allclose(found, expected(variables, x, **stored), atol=1e-5)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_rows_of_a_part_are_normalised_by_their_own_statistics(norm, parts):
    model, variables, x = norm
    found, moved = model.apply(
        variables, x, Statistics(parts=parts), mutable=["batch_stats", "moments"]
    )
    means, variances = [], []
    for part in range(parts):
        rows = x[part::parts]
        means.append(rows.mean((0, 1, 2)))
        variances.append(rows.var((0, 1, 2)))
        direct = expected(variables, rows, means[-1], variances[-1])
        np.testing.assert_allclose(found[part::parts], direct, atol=1e-5)
    for name, of_parts in (("mean", means), ("var", variances)):
        np.testing.assert_allclose(moved["moments"][name], of_parts, rtol=1e-5)
        before = variables["batch_stats"][name]
        places = 8 // parts * 5 * 4
        unbiased = places / (places - 1) if name == "var" else 1.0
        after = 0.75 * before + 0.25 * unbiased * np.mean(of_parts, 0)
        np.testing.assert_allclose(moved["batch_stats"][name], after, rtol=1e-5)


def test_rows_without_weight_count_nothing(norm):
    model, variables, x = norm
    weight = jnp.array([1, 1, 1, 1, 1, 1, 0, 0], jnp.float32)
    found = model.apply(variables, x, Statistics(2, weight))
    np.testing.assert_allclose(found[:6], model.apply(variables, x[:6], Statistics(2)), atol=1e-5)


def test_a_part_goes_on_over_a_mapped_axis(norm):
    model, variables, x = norm
    apply = lambda rows: model.apply(  # noqa: E731
        variables, rows, Statistics(2, axis="shards"), mutable=["batch_stats"]
    )
    found, moved = jax.vmap(apply, axis_name="shards")(x.reshape(2, 4, *x.shape[1:]))
    whole, moved_whole = model.apply(variables, x, Statistics(2), mutable=["batch_stats"])
    np.testing.assert_allclose(found.reshape(x.shape), whole, atol=1e-5)
    for name, value in moved_whole["batch_stats"].items():
        np.testing.assert_allclose(moved["batch_stats"][name], [value, value], rtol=1e-5)


def test_each_row_is_normalised_by_the_statistics_of_its_domain(norm):
    model, variables, x = norm
    domain = jnp.array([0, 2, 1, 0, 2, 2, 1, 0])
    stacked = {
        name: np.stack([value, value + 1, value + 2])
        for name, value in variables["batch_stats"].items()
    }
    found = model.apply(variables | {"batch_stats": stacked}, x, Statistics(domain=domain))
    for number in range(3):
        rows = domain == number
        one = {name: value[number] for name, value in stacked.items()}
        np.testing.assert_allclose(found[rows], expected(variables, x[rows], **one), atol=1e-5)


def test_layers_computed_again_give_the_same_gradients_and_statistics():
    x = jax.random.normal(jax.random.key(0), (4, 16, 16, 2))
    found = []
    for remat in (False, True):
        model = densenet.DenseNet((2,), 4, 8, NORM, remat=remat)
        variables = nn.unbox(jax.jit(model.init)(jax.random.key(1), x))

        def loss(params, model=model, stored=variables["batch_stats"]):
            features, moved = model.apply(
                {"params": params, "batch_stats": stored},
                x,
                Statistics(parts=2),
                mutable=["batch_stats"],
            )
            return jnp.square(features).sum(), moved

        found.append(jax.jit(jax.grad(loss, has_aux=True))(variables["params"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), *found)
