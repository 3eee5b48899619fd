"""A crash in the middle of a synthesis or a selection."""


class Interrupted(Exception):
    """Stands for a crash."""


def interrupt_at(iteration):
    """What to call after every iteration: it ends the run at that one."""

    def check(done, _):
        if done == iteration:
            raise Interrupted

    return check
