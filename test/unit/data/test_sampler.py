"""The order of samples over a run."""
import itertools

import pytest

from data.sampler import StepBatchSampler


def batches(**changes):
    settings = {"num_samples": 23, "batch_size": 4, "seed": 5, "total_steps": 17}
    return list(StepBatchSampler(**{**settings, **changes}))


@pytest.mark.parametrize("start", [0, 1, 4, 5, 6, 12, 16, 17])
def test_continuing_after_any_step_gives_the_same_batches(start):
    assert batches(start_step=start) == batches()[start:]


def test_an_epoch_repeats_no_sample():
    epoch = [key for batch in batches()[:5] for key in batch]
    assert len(set(epoch)) == 20 and {index for _, index in epoch} <= set(range(23))


def test_keys_carry_their_epoch():
    assert [{epoch for epoch, _ in batch} for batch in batches()] == \
        [{step // 5} for step in range(17)]


def test_epochs_differ_in_order():
    first, second = batches()[:5], batches()[5:10]
    assert [[index for _, index in batch] for batch in first] != \
        [[index for _, index in batch] for batch in second]


def test_seeds_differ_in_order():
    assert batches(seed=6) != batches()


def test_without_shuffling_the_order_is_that_of_the_data():
    assert batches(shuffle=False)[5:7] == [[(1, 0), (1, 1), (1, 2), (1, 3)],
                                           [(1, 4), (1, 5), (1, 6), (1, 7)]]


def test_ranks_split_each_batch_of_the_single_process_run():
    whole = batches(batch_size=6)
    parts = [batches(batch_size=2, rank=rank, world_size=3) for rank in range(3)]
    assert [list(itertools.chain(*slices)) for slices in zip(*parts, strict=True)] == whole


def test_without_total_steps_it_never_ends():
    endless = StepBatchSampler(23, 4, seed=5, start_step=3)
    assert list(itertools.islice(endless, 14)) == batches()[3:]


def test_length_is_the_number_of_steps_left():
    assert len(StepBatchSampler(23, 4, seed=5, start_step=3, total_steps=17)) == 14


def test_epoch_follows_from_the_steps_done():
    sampler = StepBatchSampler(23, 2, seed=0, world_size=2)
    assert sampler.steps_per_epoch == 5
    assert [sampler.epoch_of(steps) for steps in (0, 4, 5, 9, 10)] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("world_size, advice", [(1, "at most 23"), (4, "at most 5")])
def test_too_large_a_batch_is_refused_with_advice(world_size, advice):
    with pytest.raises(ValueError, match=f"{advice} .*23 training images, got 32"):
        StepBatchSampler(23, 32, seed=0, world_size=world_size)
