"""Progress reaches whoever listens, and nobody else."""

from layoutner.progress import Task, counted, show_with, task


class Heard:
    """A listener that notes what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def begin(self, task: Task) -> None:
        self.said.append(f"begin {task.what}")

    def advance(self, task: Task) -> None:
        self.said.append(task.count)

    def end(self, task: Task) -> None:
        self.said.append(f"end {task.what}")


def test_nobody_listens() -> None:
    with task("reading", 3, "pages") as begun:
        begun.advance()
    assert begun.count == "0 of 3 pages"
    assert list(counted("abc", "reading")) == ["a", "b", "c"]


def test_a_task_is_followed_to_its_end() -> None:
    heard = Heard()
    with show_with(heard), task("training", 8, "steps", done=6) as begun:
        assert list(counted("ab", "cutting", unit="pages")) == ["a", "b"]
        begun.advance(2, "loss 0.5")
    assert heard.said == [
        "begin training", "begin cutting", "1 pages", "2 pages", "end cutting", "8 of 8 steps", "end training"
    ]  # fmt: skip
    assert str(begun) == "training: 8 of 8 steps, loss 0.5"
    with task("reading"):
        pass
    assert len(heard.said) == 7  # the listener has left


def test_work_that_is_given_up_has_ended() -> None:
    heard = Heard()
    with show_with(heard):
        for _ in counted("abc", "reading", 3, "pages"):
            break
    assert heard.said == ["begin reading", "end reading"]


def test_the_time_left_counts_only_what_was_done_since_it_began() -> None:
    begun = Task("training", 106, "steps", 100, Heard())
    assert begun.left == ""
    begun._since -= 8
    begun.advance(2)
    assert begun.left == "0:00:16 left"
    assert str(begun) == "training: 102 of 106 steps, 0:00:16 left"
    begun.advance(4)
    assert begun.left == ""
    assert Task("reading", None, "pages", 0, None).left == ""
