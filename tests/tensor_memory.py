"""How much memory tensors take, to the byte."""

from itertools import accumulate

from torch.profiler import ProfilerActivity, profile


def peak_tensor_bytes(run):
    """The most that tensors made within ``run()`` took at one time. torch's allocator tells of every tensor that comes
    and goes, so the figure is the same every time; a process's resident memory follows the heap's habits instead."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        run()
    changes = [event.nbytes() for event in told.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(changes))
