"""Set-up that test files share."""

import multiprocessing

import pytest

# Processes of the tests are forked from one server that has imported the package once, loaded its compiled loops, and read what
# torch imports at the first step of an optimiser (2.7 s).
multiprocessing.set_forkserver_preload(
    ["pytest", "torch._dynamo", "golf.train.job", "golf.adapt.lora", "warmed"]
)


@pytest.fixture(scope="module")
def warm_ranks():
    """`run_ranks` forks its ranks from that server; notebooks and `torchrun` start them anew."""
    import golf.net.ranks as room

    plain = room.LaunchConfig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "LaunchConfig", lambda **o: plain(**o | {"start_method": "forkserver"}))
        yield
