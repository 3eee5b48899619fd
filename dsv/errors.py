"""The one exception that users see: what is wrong and what to do about it, in a line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class DsvError(Exception):
    """A condition that the user can mend.

    The message is one line that names the thing and the remedy. Commands print it without a traceback and exit
    with a non-zero status; libraries may catch it by this one type.
    """


_NO_DERIVATIVE = (
    "is not implemented",
    "not have been used in the graph",
    "does not require grad",
    "once_differentiable",
    "stateless api",
    "inference tensor",
    "forward ad",
)
"""Of torch's words for what it cannot differentiate, in small letters."""


@contextmanager
def differentiable() -> Iterator[None]:
    """Within it a model is differentiated; what torch cannot do of it becomes one line.

    Raises:
        DsvError: torch has no such derivative of a layer, or no graph can be made of the model.
    """
    if torch.is_inference_mode_enabled():
        raise DsvError("torch.inference_mode() lets nothing be differentiated; call this outside of it")
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        if not any(words in reason.lower() for words in _NO_DERIVATIVE):
            raise
        raise DsvError(
            f"torch cannot differentiate the model ({reason}); give a plain module of layers that have second "
            "derivatives, with all of its graph: not scripted, wrapped, made in inference mode or with no_grad inside"
        ) from error
