"""What ranks tell each other: real processes, without a launcher."""

from tests.builders.forks import fork_apart
from tests.builders.processes import ROOT

STRICT = "Validation error for field 'hidden_size': TypeError: expected int, got str"
LOCK = "Cannot restore the tensor: Broken pipe"


def test_a_failure_that_cannot_be_sent_keeps_its_cause_on_every_rank() -> None:
    done = fork_apart([ROOT / "tests" / "workers" / "agreeing.py"])
    for rank, (code, out, err) in enumerate(done):
        assert code == 0, err
        # name, collective, rank that fails, type, whether it is the one raised there, whether it reads as a lost rank
        expected = []
        for name, kind, text, sent, sent_text in (
            ("strict", "StrictDataclassFieldValidationError", STRICT, "Exception", None),
            ("lock", "RuntimeError", LOCK, "Exception", None),
            ("changing", "Changing", "bad name", "Exception", None),
            ("plain", "KeyError", "'x'", "KeyError", "'x'"),
        ):
            for how, failed in (("run_on_rank_zero", 0), ("run_on_all_ranks", 0), ("run_on_all_ranks", 1)):
                own = failed == rank
                what = text if own else sent_text or f"{kind}: {text}"
                broke = own and name == "lock"  # what it says of itself; elsewhere it is no more than told
                expected.append("|".join([name, how, str(failed), kind if own else sent, str(own), str(broke), what]))
        assert out.splitlines() == expected
