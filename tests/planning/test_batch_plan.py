"""A global batch on any number of ranks: as few micro-batches as hold it, none larger than allowed."""

import pytest

from layoutner.corpus.batches import assign_to_ranks
from layoutner.errors import SettingsError
from layoutner.planning.batch_plan import plan_batch
from layoutner.planning.render import render
from layoutner.planning.schedule import plan_schedule
from layoutner.settings.recipes import recipe_names
from layoutner.settings.tree import load


@pytest.mark.parametrize(
    ("global_batch_size", "allowed", "ranks", "accumulation", "micro"),
    [
        (16, 2, 4, 2, 2),
        (16, 16, 1, 1, 16),
        (96, 4, 3, 8, 4),
        (1, 1, 1, 1, 1),
        (16, 8, 8, 1, 2),  # no rank has as many as allowed
        (16, 32, 1, 1, 16),
        (16, 8, 3, 1, 6),  # 5 + 5 + 6
        (16, 3, 2, 3, 3),  # 2 x 2 + 4 x 3
        (17, 8, 1, 3, 6),  # 5 + 6 + 6
        (16, 8, 64, 1, 1),  # 48 ranks have none
    ],
)
def test_the_fewest_micro_batches_that_hold_the_batch(
    global_batch_size: int, allowed: int, ranks: int, accumulation: int, micro: int
) -> None:
    plan = plan_batch(global_batch_size, allowed, ranks)
    assert (plan.accumulation, plan.micro_batch_size) == (accumulation, micro)
    assert (plan.global_batch_size, plan.world_size) == (global_batch_size, ranks)


@pytest.mark.parametrize("ranks", [*range(1, 10), 16, 64])
@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_fits_any_number_of_ranks(recipe: str, ranks: int) -> None:
    settings = load(recipe, {})
    whole, allowed = settings.batch.global_batch_size, settings.batch.micro_batch_size
    plan = plan_batch(whole, allowed, ranks)
    assert plan.micro_batch_size <= allowed
    assert plan.accumulation == -(-whole // (allowed * ranks))
    # The windows as they are dealt are those of the plan, each once.
    dealt = assign_to_ranks(range(whole), list(range(10, 10 + whole)), plan.micro_batch_limit, ranks, packed=True)
    sizes = [len(micro_batch) for rank in dealt for micro_batch in rank]
    assert {len(rank) for rank in dealt} == {plan.accumulation}
    assert len(sizes) == plan.micro_batches
    assert sum(sizes) == whole
    assert max(sizes) == plan.micro_batch_size
    assert max(sizes) - min(sizes) <= 1
    # And DeepSpeed, which insists on a product, takes the numbers.
    config = render(settings, plan, plan_schedule(settings.schedule, whole, 150))
    micro, accumulation = config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]
    assert config["train_batch_size"] == micro * accumulation * ranks
    assert (config["train_batch_size"] == whole) == (whole % (accumulation * ranks) == 0)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((16, 8, 2), "16 windows per step = 8 per micro-batch x 1 gradient accumulation step x 2 ranks"),
        ((64, 16, 1), "64 windows per step = 16 per micro-batch x 4 gradient accumulation steps x 1 rank"),
        ((16, 8, 8), "16 windows per step = 2 per micro-batch (at most 8) x 1 gradient accumulation step x 8 ranks"),
        (
            (16, 8, 3),
            "16 windows per step = 2 micro-batches of 5 + 1 of 6 (at most 8), in 1 gradient accumulation step x "
            "3 ranks",
        ),
        ((16, 3, 2), "16 windows per step = 2 micro-batches of 2 + 4 of 3, in 3 gradient accumulation steps x 2 ranks"),
        (
            (16, 8, 64),
            "16 windows per step = 48 micro-batches of 0 + 16 of 1 (at most 8), in 1 gradient accumulation step x "
            "64 ranks",
        ),
    ],
)
def test_the_arithmetic_is_shown(numbers: tuple[int, int, int], text: str) -> None:
    assert str(plan_batch(*numbers)) == text


def test_what_differs_from_the_settings_is_noted() -> None:
    assert plan_batch(16, 8, 2).notes == plan_batch(16, 8, 8).notes == []
    (product,) = plan_batch(16, 8, 3).notes
    assert "so it is 18 = 6 x 1 x 3; a step still has 16 windows" in product
    idle, product = plan_batch(16, 8, 64).notes
    assert "64 ranks share 16 windows, so in every step 48 of them have nothing to do" in idle
    assert "so it is 64 = 1 x 1 x 64; a step still has 16 windows" in product


def test_no_rank() -> None:
    with pytest.raises(SettingsError, match="at least one rank"):
        plan_batch(8, 2, 0)
