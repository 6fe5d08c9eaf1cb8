"""Training of heads on frozen features: all seeds at once, early stopping on the validation loss."""

from typing import Any

from phenomjax.probes import suite


def fit_predict(
    features: Any, dataset: Any, head: str, training: suite.Training, stop: Any = None
) -> list[dict[str, Any]]:
    """Trains a head on the training rows and predicts the test rows.

    Args:
      features: embeddings.Features of all of the dataset's sequences.
      dataset: a dataset.Dataset.
      head: "linear", "fnn" or "cnn".
      training: how.
      stop: an event; once it is set UserError with EXIT_STOPPED is raised.

    Returns:
      {label: predictions of dataset.test_rows} for each seed.
    """
    raise NotImplementedError
