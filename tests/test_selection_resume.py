"""A killed selection goes on, and only as itself."""

import pytest
import torch
from interruption import Interrupted, interrupt_at

from dsv import Checkpointing, Compute, DsvError, SelectionConfig, select

CONFIG = SelectionConfig(iterations=5)
COMPUTE = Compute(micro_batch=8)
LABELS = torch.arange(20) % 10
IMAGES = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def selected(teacher, task, images=IMAGES, labels=LABELS, config=CONFIG, **named):
    """The selection, and the iterations that were told of."""
    seen = []
    found = select(
        *(teacher.model, lambda i: images[list(i)], labels, task, config),
        **{"compute": COMPUTE, "on_iteration": lambda done, distance: seen.append(done), **named},
    )
    return found, seen


@pytest.mark.parametrize(("iteration", "goes_on_with"), [(1, 1), (2, 2), (3, 2), (5, 4)])
def test_an_interrupted_selection_ends_as_an_undisturbed_one(teacher, task, tmp_path, iteration, goes_on_with):
    undisturbed, _ = selected(teacher, task)
    kept = Checkpointing(tmp_path / "state", every=2)
    with pytest.raises(Interrupted):
        selected(teacher, task, checkpointing=kept, on_iteration=interrupt_at(iteration))
    found, seen = selected(teacher, task, checkpointing=kept)
    assert seen[0] == goes_on_with and seen[-1] == 5
    assert torch.equal(found.multipliers, undisturbed.multipliers)
    assert found.distances == undisturbed.distances


def test_slow_passes_are_saved_each(teacher, task, tmp_path):
    kept = Checkpointing(tmp_path / "state", every_s=0)
    with pytest.raises(Interrupted):
        selected(teacher, task, checkpointing=kept, on_iteration=interrupt_at(4))
    assert selected(teacher, task, checkpointing=kept)[1] == [4, 5]


def test_the_state_of_another_selection_is_not_taken(teacher, task, tmp_path):
    kept, other = Checkpointing(tmp_path / "state", every=1), IMAGES.clone()
    other[-1, 0, -1, -1] ^= 1  # one bit of the last image
    changes = [
        {"images": other},
        {"labels": LABELS.flip(0)},
        {"config": SelectionConfig(iterations=6)},
        {"start": torch.arange(1.0, 21.0)},
        {"compute": Compute(micro_batch=4)},
    ]
    for change in changes:
        kept.clear()
        selected(teacher, task, checkpointing=kept)
        assert selected(teacher, task, checkpointing=kept)[1] == [5], "the same one has a pass left to measure D"
        assert selected(teacher, task, checkpointing=kept, **change)[1][0] == 1, change


def test_a_damaged_state_is_named(teacher, task, tmp_path):
    (tmp_path / "state").write_bytes(b"not a state")
    with pytest.raises(DsvError, match="cannot read the saved state .*delete it"):
        selected(teacher, task, checkpointing=Checkpointing(tmp_path / "state"))
