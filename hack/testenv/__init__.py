"""The environment of the tests on a real cluster: set-up, hospitals, rounds. Uses the embedded cluster only."""
